// Package tenancy runs each statement as one tenant, and lets PostgreSQL's row
// level security see to it that no other tenant's rows are in reach: not when
// the application forgets a WHERE clause, not through a pooled connection's
// past, a panic or a cancelled call.
//
// Once, as the owner of the database, in a migration or at start:
//
//	err := tenancy.Migrate(ctx, conn)                       // roles, our own tables
//	err  = tenancy.Protect(ctx, conn, "products", "orders") // yours; PolicySQL prints the same
//
// Then, as the application's role:
//
//	db, err := tenancy.Open(ctx, appDatabaseURL, nil)
//
// The tenant of a call is the one in its context (package tenant). There is no
// other way to name one, and without one nothing runs:
//
//	rows, err := db.Query(ctx, `select name from products where price < $1`, 100) // one round trip
//
//	err = tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error { // n statements, n+1
//		...
//	})
//
// # What it rests on
//
// A protected table has row level security enabled and forced, and two
// generated policies that compare tenant_id with the setting
// [Setting]. The setting is made for one transaction, by the same message that
// carries the statement, and is gone when it ends. [Open] refuses a role that
// the policies don't bind and prints the statement that mends it;
// [DB.CheckRoles] asks again, [Audit] reads the whole catalog for every other way
// around the policies, [DB.Canary] proves from inside that a tenant sees
// its own rows and no others, and package tenancytest proves it for your
// tables.
//
// A table that nobody protected is out of the application's reach altogether:
// privileges are granted by Protect alone, so that forgetting it fails closed.
//
// # Where the rows live
//
// With [Options.Directory], each tenant's rows are in one of three tiers, and no
// statement can tell which:
//
//   - [TierShared]: the tables of schema public, with other tenants' rows. The
//     policies separate them.
//   - [TierSchema]: tables of its own, in a schema of the same database. Its
//     transactions run as a role that reaches nothing else, with the schema first
//     on their search_path, so that names without a schema mean the tenant's own;
//     names with one, such as public.products, are refused. What extensions bring
//     is found by [Options.ExtensionSchemas].
//   - [TierDatabase]: a database of its own, found by [Options.Databases].
//
// Every call takes the same number of round trips in each: context, role, path and
// limits travel with the first statement. It also checks there that the rows still
// are where the call went. One that meets a [Mover] finds the tenant's new place
// by itself, before anything has run; [ErrMoved] says that there was none in time.
//
// In a schema and behind a pooler no statement stays prepared, since it would be
// another one in each schema, and each process of the server would have to keep
// them all. What the server says of a statement is remembered for each
// schema instead, after one round trip more for the first call.
//
// # Poolers and replicas
//
// PgBouncer in transaction mode may stand before any of the databases: [Open] tells
// how. Nothing is set for longer than a transaction, and what other clients of the
// pooler set for their session is set aside.
//
// [DB.Reader] and [TxOptions] read from a replica where what was true a moment ago
// will do, and from the primary where the replica doesn't know yet that the tenant
// was moved.
//
// # What it does not do
//
// Whoever can make the application run any SQL they like can set the tenant
// themselves. The guards here notice what such a statement leaves behind
// ([ErrTampered]); they don't stop what it reads, unless the context is signed
// ([SignContext]). Pass parameters. Nor do they notice every setting that such a
// statement may leave on a direct connection, such as a statement_timeout: it can
// be a nuisance to others until the connection is closed, not a way to their rows.
//
// Row level security doesn't cover large objects, sequences, advisory locks and
// notifications: they are shared by all tenants. A unique constraint or a
// foreign key that doesn't begin with tenant_id tells one tenant of another's
// rows. Operators that aren't leakproof, LIKE and numeric comparison among
// them, can't use an index under a policy (PostgreSQL, "Rules and Privileges").
//
// # Who is a tenant
//
// The table of tenants is written by [PutTenant] and [SetStatus] and read from
// memory by [Directory], which is at most a second out of date. [Data] makes,
// migrates, exports, imports and erases what tenants have, wherever it is.
// [Migrator] brings the schemas of many tenants up to date. [AdminTx] reads across
// tenants, on record. [Audit] reads the catalog for every way around isolation.
package tenancy
