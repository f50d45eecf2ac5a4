// Package pgmigrate applies a package's own numbered SQL files to PostgreSQL,
// forward only.
//
// Every package that owns control tables embeds its files and offers a Migrate
// function built on [Run]:
//
//	//go:embed migrations/*.sql
//	var migrations embed.FS
//
//	func Migrate(ctx context.Context, conn *pgx.Conn) error {
//		return pgmigrate.Run(ctx, conn, "pgledger", migrations)
//	}
//
// Files are named NNNN_name.sql and stand at the root of the file system or in
// its directory "migrations". What was applied is recorded in
// mcpsaas.schema_migrations, by component, with a checksum of the file: a file
// that was edited after it was applied is an error, because the databases that
// have it would differ from the ones that don't.
//
// Each file runs in a transaction of its own, under an advisory lock of that
// transaction. So [Run] may be called again at any time, by any number of
// replicas at once and through a transaction pooler, and a crash leaves whole
// files only. A database that is ahead of the files (an old replica restarts
// during a deployment) is accepted.
package pgmigrate
