// Package devtest gives a test the real services it needs: a PostgreSQL
// database of its own, a Redis of its own, a logger, and a check that no
// goroutine was left.
//
//	func TestLedger(t *testing.T) {
//		t.Parallel()
//		db := devtest.DB(t, devtest.Template{Name: "pgledger", Migrate: pgledger.Migrate})
//		pool := db.Pool(t)
//		...
//	}
//
// The first test of a process that asks for a database starts one PostgreSQL
// for the process, of its own and never an existing one, because tests create
// roles and take superuser rights. It ends with the process, however that ends;
// no TestMain is needed. PG_BIN_DIR chooses the version.
//
// Where a server is not installed, the test is skipped with the line to type;
// where the environment variable CI is set, it fails instead.
package devtest
