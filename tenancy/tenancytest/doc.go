// Package tenancytest proves with two tenants that your own tables don't leak.
//
//	func TestIsolation(t *testing.T) {
//		db, err := tenancy.Open(ctx, testDatabaseURL, nil)
//		...
//		tenancytest.Isolation(t, db,
//			tenancytest.Table{Name: "products"},
//			tenancytest.Table{Name: "orders", Row: map[string]any{"state": "open"}},
//		)
//	}
//
// [Isolation] gives two new tenants a row in each table and then, as the one,
// tries to see, change, delete, forge, take over and copy the other's. It fails
// when one of these succeeds, and also when it could prove nothing: a table into
// which it can't write a row, or where a tenant doesn't see its own, has not
// been tested.
//
// [IsolationBetween] does the same with two tenants of yours where they live, in
// schemas or databases of their own:
//
//	tenancytest.IsolationBetween(t, db, one, other, tables...)
//
// [Audited] reads the catalog of the database instead, and so finds the table
// that nobody thought of. Run both.
//
// Run Isolation on a database for tests: it writes, and takes away what it wrote.
package tenancytest
