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
// # What it does not do
//
// Whoever can make the application run any SQL they like can set the tenant
// themselves. The guards here notice what such a statement leaves behind
// ([ErrTampered]); they don't stop what it reads. Pass parameters.
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
