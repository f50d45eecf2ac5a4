// Package devstack starts the PostgreSQL and the Redis that development needs,
// so that nobody has to install, configure or stop a service by hand. The
// reference server uses it for what its configuration leaves out, internal/devtest
// for the tests.
//
//	stack, err := devstack.Start(ctx, devstack.Options{Postgres: true, Redis: true})
//	defer stack.Close(context.Background())
//	conn, err := pgx.Connect(ctx, stack.DatabaseURL)
//
// # Where the programs come from
//
// PostgreSQL (14 or newer) is taken from the directory PG_BIN_DIR, else from
// PATH, else from the places where Debian, Red Hat, Homebrew and Postgres.app
// put it, the newest first. Redis is redis-server or valkey-server from PATH.
// Where there is no PostgreSQL, [Start] returns a [MissingError] with the line
// to type. Where there is no Redis, an in-process stand-in takes its place, and
// [Stack.Banner] says so.
//
// # What a server may and may not do
//
// Servers listen on the loopback interface, on ports that are free at that
// moment, and PostgreSQL on a socket in its directory as well. They accept
// every local user without a password: the stack is for development and never
// for production. As root the servers run as the user postgres, or else nobody.
//
// # How it ends
//
// [Stack.Close] stops the servers within its bound and removes what was
// temporary. If the process is killed instead, the kernel (Linux) and a guard
// process (every Unix) stop the servers and remove the directory; should even
// the guard be killed, the next [Start] finds the directory by its lock file
// and the servers by their process ids and start times, and sweeps them. It
// works on Linux and macOS.
package devstack
