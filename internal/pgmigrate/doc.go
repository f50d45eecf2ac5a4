// Package pgmigrate applies numbered SQL files to PostgreSQL, forward only: a
// package's own files to the control tables, and an application's files to
// tenants' schemas. There is one engine for both; what differs is the ledger,
// the table in which the applied files are recorded.
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
// Its ledger is mcpsaas.schema_migrations, by component. [Schema] applies files
// to one schema, with mcpsaas.tenant_migrations as its ledger; package tenancy
// runs it over many.
//
// A ledger holds a checksum of each file: one that was edited after it was
// applied is an error, because the databases that have it would differ from
// the ones that don't. Each file runs in a transaction of its own, under an
// advisory lock of that transaction. So everything here may be called again at
// any time, by any number of replicas at once and through a transaction pooler,
// and a crash leaves whole files only. A database that is ahead of the files
// (an old replica restarts during a deployment) is accepted. What is different
// for files that run outside of a transaction stands in loose.go.
package pgmigrate
