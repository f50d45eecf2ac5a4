package pgmigrate_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
)

func database(t *testing.T) (*devtest.Database, *pgx.Conn) {
	t.Helper()
	db := devtest.DB(t, devtest.Template{Name: "empty"})
	return db, db.Conn(t, devstack.OwnerRole)
}

func files(pairs ...string) fstest.MapFS {
	fsys := make(fstest.MapFS)
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

var (
	first  = []string{"migrations/0001_first.sql", "create table a (n int);\ninsert into a values (1);\n"}
	second = []string{"migrations/0002_second.sql", "insert into a values (2);\n"}
	third  = []string{"migrations/0003_third.sql", "insert into a values (3);\n"}
)

func numbers(t *testing.T, conn *pgx.Conn) []int {
	t.Helper()
	rows, err := conn.Query(t.Context(), `select n from a order by n`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	return all
}

func TestRun(t *testing.T) {
	t.Parallel()
	_, conn := database(t)
	two := files(append(first, second...)...)
	two["migrations/README.md"] = &fstest.MapFile{Data: []byte("not SQL")}

	pending, err := pgmigrate.Pending(t.Context(), conn, "demo", two)
	require.NoError(t, err)
	require.Equal(t, []string{"0001_first.sql", "0002_second.sql"}, pending)

	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", two))
	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", two), "a second time")
	require.Equal(t, []int{1, 2}, numbers(t, conn))
	pending, err = pgmigrate.Pending(t.Context(), conn, "demo", two)
	require.NoError(t, err)
	require.Empty(t, pending)

	three := files(append(append(first, second...), third...)...)
	pending, err = pgmigrate.Pending(t.Context(), conn, "demo", three)
	require.NoError(t, err)
	require.Equal(t, []string{"0003_third.sql"}, pending)
	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", three))
	require.Equal(t, []int{1, 2, 3}, numbers(t, conn))

	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", two), "an old replica starts again")
	require.NoError(t, pgmigrate.Run(t.Context(), conn, "other", files("0001_x.sql", "insert into a values (9)")), "another component, files at the root")
	require.Equal(t, []int{1, 2, 3, 9}, numbers(t, conn))
}

// TestRunAtOnce has replicas start together on an empty database. Caught: no
// advisory lock (unique violations), no second look after the wait for it.
func TestRunAtOnce(t *testing.T) {
	t.Parallel()
	db, conn := database(t)
	two := files(append(first, second...)...)
	var wg sync.WaitGroup
	for range 8 {
		own := db.Conn(t, devstack.OwnerRole)
		wg.Go(func() {
			if err := pgmigrate.Run(t.Context(), own, "demo", two); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, []int{1, 2}, numbers(t, conn))
}

// TestRunFails shows that a failing file leaves nothing of itself, and what
// came before it stays.
func TestRunFails(t *testing.T) {
	t.Parallel()
	_, conn := database(t)
	bad := files(append(first, "migrations/0002_second.sql", "insert into a values (2); select nonsense;")...)
	err := pgmigrate.Run(t.Context(), conn, "demo", bad)
	require.ErrorContains(t, err, "pgmigrate: demo: apply 0002_second.sql")
	require.ErrorContains(t, err, "nonsense")
	require.Equal(t, []int{1}, numbers(t, conn))

	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", files(append(first, second...)...)), "after the mend")
	require.Equal(t, []int{1, 2}, numbers(t, conn))
}

func TestRunRefusesChanges(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		applied, now []string
		want         error
	}{
		"edited":       {first, []string{first[0], first[1] + "-- more\n"}, pgmigrate.ErrChanged},
		"removed":      {append(first, second...), third, pgmigrate.ErrChanged},
		"out of order": {append(first, third...), append(append(first, second...), third...), pgmigrate.ErrOutOfOrder},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, conn := database(t)
			require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", files(test.applied...)))
			before := numbers(t, conn)
			require.ErrorIs(t, pgmigrate.Run(t.Context(), conn, "demo", files(test.now...)), test.want)
			_, err := pgmigrate.Pending(t.Context(), conn, "demo", files(test.now...))
			require.ErrorIs(t, err, test.want)
			require.Equal(t, before, numbers(t, conn))
		})
	}
}

func TestRunTakesLineEndsForTheSame(t *testing.T) {
	t.Parallel()
	_, conn := database(t)
	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", files(first...)))
	dos := files(first[0], strings.ReplaceAll(first[1], "\n", "\r\n"))
	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", dos))
}

// TestRunRefusesTransactionControl covers a file that ends the transaction of
// the runner, also if it begins another. Caught: no comparison of the transaction's id.
func TestRunRefusesTransactionControl(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"commit":          "create table x (n int); commit;",
		"commit, begin":   "create table x (n int); commit; begin;",
		"rollback":        "rollback;",
		"rollback, begin": "rollback; begin;",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, conn := database(t)
			err := pgmigrate.Run(t.Context(), conn, "demo", files("0001_x.sql", sql))
			require.ErrorContains(t, err, "ends its transaction")
			pending, err := pgmigrate.Pending(t.Context(), conn, "demo", files("0001_x.sql", sql))
			require.NoError(t, err)
			require.Len(t, pending, 1, "not recorded")
		})
	}
}

func TestRunRefusesOpenTransaction(t *testing.T) {
	t.Parallel()
	_, conn := database(t)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, pgmigrate.Run(t.Context(), conn, "demo", files(first...)), "in a transaction")
	require.NoError(t, tx.Rollback(t.Context()))
}

func TestRunRefusesNames(t *testing.T) {
	t.Parallel()
	_, conn := database(t)
	for name, test := range map[string]struct {
		component string
		files     fstest.MapFS
		want      string
	}{
		"component":  {"Demo; drop", files(first...), `component "Demo; drop"`},
		"none":       {"demo", files("x.md", ""), "no .sql files"},
		"no number":  {"demo", files("first.sql", ""), `file "first.sql"`},
		"short":      {"demo", files("001_first.sql", ""), `file "001_first.sql"`},
		"zero":       {"demo", files("0000_first.sql", ""), "start at 1"},
		"twice":      {"demo", files("0001_a.sql", "", "0001_b.sql", ""), `"0001_a.sql" and "0001_b.sql"`},
		"upper case": {"demo", files("0001_First.sql", ""), `file "0001_First.sql"`},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, pgmigrate.Run(t.Context(), conn, test.component, test.files), test.want)
			_, err := pgmigrate.Pending(t.Context(), conn, test.component, test.files)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestRunCancelled(t *testing.T) {
	t.Parallel()
	_, conn := database(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, pgmigrate.Run(ctx, conn, "demo", files(first...)), context.Canceled)
}

// TestPendingNeedsOnlyRead shows the least that the role of a readiness check
// must be granted.
func TestPendingNeedsOnlyRead(t *testing.T) {
	t.Parallel()
	db, conn := database(t)
	require.NoError(t, pgmigrate.Run(t.Context(), conn, "demo", files(first...)))
	role := "reader_" + db.Name // roles belong to the whole cluster
	for _, sql := range []string{
		`create role ` + role + ` login`,
		`grant usage on schema mcpsaas to ` + role,
		`grant select on mcpsaas.schema_migrations to ` + role,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	pending, err := pgmigrate.Pending(t.Context(), db.PoolAs(t, role), "demo", files(append(first, second...)...))
	require.NoError(t, err)
	require.Equal(t, []string{"0002_second.sql"}, pending)
}

func ExampleRun() {
	migrate := func(ctx context.Context, conn *pgx.Conn) error {
		return pgmigrate.Run(ctx, conn, "demo", fstest.MapFS{
			"migrations/0001_items.sql": {Data: []byte(`create table mcpsaas.items (id bigint primary key)`)},
		})
	}
	_ = migrate // called with a connection of the database's owner
}
