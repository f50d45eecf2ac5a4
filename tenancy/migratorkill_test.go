package tenancy_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// migrateChild migrates every schema t_... of the database in the environment,
// and says how far it is.
func migrateChild() error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("CHILD_URL"))
	if err != nil {
		return err
	}
	list := tenancy.MigrationTargetsFunc(func(ctx context.Context) ([]tenancy.MigrationTarget, error) {
		rows, err := pool.Query(ctx, `select nspname from pg_namespace where nspname like 't\_%' order by oid`)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, func(row pgx.CollectableRow) (tenancy.MigrationTarget, error) {
			t := tenancy.MigrationTarget{DB: pool}
			return t, row.Scan(&t.Schema)
		})
	})
	m, err := tenancy.NewMigrator(sqlFiles(strings.Split(os.Getenv("CHILD_FILES"), "\x1f")...), list,
		&tenancy.MigratorOptions{Progress: func(p tenancy.MigrationProgress) { fmt.Println("done", p.Done, "of", p.Total) }})
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx)
	return err
}

func (f *fleet) startChild(t *testing.T, files ...string) *child {
	t.Helper()
	return startChild(t, "migrate", "CHILD_URL="+f.URL, "CHILD_FILES="+strings.Join(files, "\x1f"))
}

// TestMigratorKilled kills a run over 1,000 schemas three times and lets a
// fourth end it: each schema has each file once. Caught: the version recorded
// in a transaction of its own, before the file (one is missing) or after it
// (one is there twice).
func TestMigratorKilled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1000)
	for _, at := range []string{"done 100 ", "done 350 ", "done 700 "} {
		c := f.startChild(t, marks...)
		c.until(at)
		c.kill()
	}
	var applied int
	require.NoError(t, f.pool.QueryRow(t.Context(), `select count(*) from mcpsaas.tenant_migrations where version = 3`).Scan(&applied))
	require.GreaterOrEqual(t, applied, 700)
	require.Less(t, applied, 1000, "it was killed too late")

	result, err := f.migrator(t, nil, marks...).Migrate(t.Context())
	require.NoError(t, err)
	require.Positive(t, result.Count(tenancy.MigrationApplied))
	require.GreaterOrEqual(t, result.Count(tenancy.MigrationCurrent), 700)
	require.Equal(t, 1000, len(result.Outcomes))
	for _, target := range f.targets {
		require.Equal(t, []int{1, 2, 3}, f.marks(t, target.Schema), target.Schema)
	}
	result, err = f.migrator(t, nil, marks...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationCurrent: 1000}, states(result))
}

// build is a file that can't run in a transaction, and that fails if it runs
// twice.
var build = []string{"0002_build.sql", "-- no-transaction\n" +
	`create index concurrently marks_n on :"schema".marks (n);` + "\n" +
	`insert into :"schema".marks values (2);`}

// buildCut is a database in which a child is in the middle of the build.
type buildCut struct {
	*fleet
	child  *child
	writer pgx.Tx // the build waits until it ends
	files  []string
}

func newBuildCut(t *testing.T) *buildCut {
	t.Helper()
	f := newFleet(t, 1)
	b := &buildCut{fleet: f, files: append(append([]string{}, marks1...), build...)}
	_, err := f.migrator(t, nil, marks1...).Migrate(t.Context())
	require.NoError(t, err)
	b.writer, err = f.Conn(t, devstack.OwnerRole).Begin(t.Context())
	require.NoError(t, err)
	_, err = b.writer.Exec(t.Context(), `update t_1.marks set n = n`)
	require.NoError(t, err)
	b.child = f.startChild(t, b.files...)
	b.eventually(t, `select exists (select from pg_stat_activity where datname = current_database() and query like '%mcpsaas migration%create index%' and wait_event_type = 'Lock')`)
	return b
}

// eventually waits until the query says true.
func (f *fleet) eventually(t testing.TB, sql string) {
	t.Helper()
	require.Eventually(t, func() bool {
		var yes bool
		return f.pool.QueryRow(t.Context(), sql).Scan(&yes) == nil && yes
	}, 30*time.Second, time.Millisecond, sql)
}

func (b *buildCut) resume(t *testing.T, opts *tenancy.MigratorOptions) error {
	t.Helper()
	_, err := b.migrator(t, opts, b.files...).Migrate(t.Context())
	return err
}

func (b *buildCut) done(t *testing.T) {
	t.Helper()
	require.Equal(t, []int{1, 2}, b.marks(t, "t_1"))
	b.eventually(t, `select count(*) = 1 and bool_and(indisvalid) from pg_index where indrelid = 't_1.marks'::regclass`)
	b.eventually(t, `select applied_at is not null and not running and error is null from mcpsaas.tenant_migrations where version = 2`)
}

const indexValid = `select exists (select from pg_index where indexrelid = to_regclass('t_1.marks_n') and indisvalid)`

// TestMigratorKilledBeforeRecord kills the runner after the index was built and
// before that was recorded. Caught: an index that is there taken for a failure.
func TestMigratorKilledBeforeRecord(t *testing.T) {
	t.Parallel()
	b := newBuildCut(t)
	// The runner can't write down what comes next.
	blocker, err := b.Conn(t, devstack.OwnerRole).Begin(t.Context())
	require.NoError(t, err)
	_, err = blocker.Exec(t.Context(), `select from mcpsaas.tenant_migrations where version = 2 for update`)
	require.NoError(t, err)
	require.NoError(t, b.writer.Commit(t.Context()))
	b.eventually(t, indexValid)
	b.child.kill()
	// What the runner was about to write would else be written after its death.
	b.exec(t, `select pg_terminate_backend(pid, 10000) from pg_stat_activity
		where datname = current_database() and query like '%set statements%' and pid <> pg_backend_pid()`)
	require.NoError(t, blocker.Rollback(t.Context()))
	b.eventually(t, `select not exists (select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))`)

	require.NoError(t, b.resume(t, nil))
	b.done(t)
}

// TestMigratorKilledInStatement kills the runner while the server builds, which
// the server doesn't notice. Caught: no look for the statement that goes on (a
// second build begins, and fails or deadlocks).
func TestMigratorKilledInStatement(t *testing.T) {
	t.Parallel()
	b := newBuildCut(t)
	b.child.kill()
	err := b.resume(t, &tenancy.MigratorOptions{LockAttempts: 2})
	require.ErrorIs(t, err, tenancy.ErrMigrationBusy)
	require.ErrorContains(t, err, "goes on in the server")
	require.NoError(t, b.writer.Commit(t.Context()))
	require.NoError(t, b.resume(t, &tenancy.MigratorOptions{LockAttempts: 1000}))
	b.done(t)
}

// TestMigratorInvalidIndex ends the build in the server, too, so that an
// invalid index is left. Caught: "already exists" taken for success without a
// look at the index.
func TestMigratorInvalidIndex(t *testing.T) {
	t.Parallel()
	b := newBuildCut(t)
	b.child.kill()
	b.exec(t, `select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = current_database() and query like '%mcpsaas migration%' and pid <> pg_backend_pid()`)
	require.NoError(t, b.writer.Commit(t.Context()))
	b.eventually(t, `select exists (select from pg_index where indexrelid = to_regclass('t_1.marks_n') and not indisvalid)`)
	require.NoError(t, b.resume(t, nil))
	b.done(t)
}

// TestMigratorLooseFails mends the data, and then the file. Caught: a failed
// build whose index stays; statements that ran before the failed one run again.
func TestMigratorLooseFails(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	loose := func(last string) []string {
		return append(append([]string{}, marks1...), "0002_build.sql", "-- no-transaction\n"+
			`insert into :"schema".marks values (2);`+"\n"+
			`create unique index concurrently if not exists marks_n on :"schema".marks (n);`+"\n"+last)
	}
	_, err := f.migrator(t, nil, marks1...).Migrate(t.Context())
	require.NoError(t, err)
	f.exec(t, `insert into t_1.marks values (1)`)
	_, err = f.migrator(t, nil, loose("")...).Migrate(t.Context())
	require.ErrorContains(t, err, "statement 2")
	require.ErrorContains(t, err, "could not create unique index")
	f.eventually(t, `select statements = 1 and not running and error like '%unique%' from mcpsaas.tenant_migrations where version = 2`)

	_, err = f.migrator(t, nil, loose(`insert into :"schema".marks values (3)`)...).Migrate(t.Context())
	require.ErrorIs(t, err, tenancy.ErrMigrationChanged)
	require.ErrorContains(t, err, "0002_build.sql was edited after 1 of its statements")

	f.exec(t, `delete from t_1.marks where ctid = (select min(ctid) from t_1.marks where n = 1)`)
	_, err = f.migrator(t, nil, loose("")...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, f.marks(t, "t_1"))
	f.eventually(t, indexValid)
}
