package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// fleet is a database with schemas to migrate, t_1 and so on.
type fleet struct {
	*devtest.Database
	pool    *pgxpool.Pool
	targets []tenancy.MigrationTarget
}

func newFleet(t testing.TB, schemas int) *fleet {
	t.Helper()
	f := &fleet{Database: devtest.DB(t, devtest.Template{Name: "fleet", Migrate: tenancy.Migrate})}
	f.pool = f.Pool(t)
	f.exec(t, fmt.Sprintf(`do $$ begin for i in 1..%d loop execute 'create schema t_' || i; end loop; end $$`, schemas))
	for i := range schemas {
		f.targets = append(f.targets, tenancy.MigrationTarget{Tenant: tenant.NewID(), Schema: fmt.Sprintf("t_%d", i+1), DB: f.pool})
	}
	return f
}

func (f *fleet) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := f.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func (f *fleet) MigrationTargets(context.Context) ([]tenancy.MigrationTarget, error) {
	return f.targets, nil
}

// sqlFiles makes files of pairs of name and content.
func sqlFiles(pairs ...string) fstest.MapFS {
	files := make(fstest.MapFS)
	for i := 0; i < len(pairs); i += 2 {
		files[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return files
}

// Each file leaves a mark that would be there twice if it ran twice.
var (
	marks1 = []string{"0001_marks.sql", "create table marks (n int, label text);\ninsert into marks values (1);\n"}
	marks2 = []string{"0002_more.sql", "alter table marks add column extra int; insert into marks values (2);"}
	marks3 = []string{"0003_index.sql", "create index marks_n on marks (n); insert into marks values (3);"}
	marks  = append(append(append([]string(nil), marks1...), marks2...), marks3...)
)

func (f *fleet) migrator(t testing.TB, opts *tenancy.MigratorOptions, files ...string) *tenancy.Migrator {
	t.Helper()
	m, err := tenancy.NewMigrator(sqlFiles(files...), f, opts)
	require.NoError(t, err)
	return m
}

// marks returns the marks in a schema, in the order they were made.
func (f *fleet) marks(t testing.TB, schema string) []int {
	t.Helper()
	rows, err := f.pool.Query(t.Context(), `select n from `+pgx.Identifier{schema, "marks"}.Sanitize()+` order by n`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	return all
}

func states(r *tenancy.MigrationResult) map[tenancy.MigrationState]int {
	counts := make(map[tenancy.MigrationState]int)
	for _, o := range r.Outcomes {
		counts[o.State]++
	}
	return counts
}

type stateCounts = map[tenancy.MigrationState]int

func TestMigrator(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5)
	f.exec(t, `create schema "odd ""name"" */ ;"`)
	f.targets = append(f.targets,
		tenancy.MigrationTarget{Schema: "public", DB: f.pool},
		tenancy.MigrationTarget{Schema: `odd "name" */ ;`, DB: f.pool})

	status, err := f.migrator(t, nil, marks...).Status(t.Context())
	require.NoError(t, err)
	for _, s := range status {
		require.Equal(t, tenancy.MigrationPending, s.State)
		require.Equal(t, 3, s.Pending)
	}
	result, err := f.migrator(t, nil, marks[:2]...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 7}, states(result))
	result, err = f.migrator(t, nil, marks...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 7}, states(result))
	for i, o := range result.Outcomes {
		require.Equal(t, f.targets[i], o.Target)
		require.Equal(t, []string{marks[2], marks[4]}, o.Applied)
		require.Equal(t, []int{1, 2, 3}, f.marks(t, o.Target.Schema))
	}
	result, err = f.migrator(t, nil, marks...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationCurrent: 7}, states(result))

	// A program that is older than the database.
	result, err = f.migrator(t, nil, marks[:4]...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationAhead: 7}, states(result))
	status, err = f.migrator(t, nil, marks[:4]...).Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, tenancy.MigrationAhead, status[0].State)
	require.Equal(t, int64(3), status[0].Version)

	var rows, ids int
	require.NoError(t, f.pool.QueryRow(t.Context(), `
		select count(*), count(distinct tenant_id) from mcpsaas.tenant_migrations
		where applied_at is not null and duration > '0' and error is null`).Scan(&rows, &ids))
	require.Equal(t, 3*7, rows)
	require.Equal(t, 5, ids, "of the shared schema it is null")
}

// TestMigratorRefusesChanges covers files that no longer fit what was applied.
// Caught: no comparison of checksums, or of versions, in the engine's plan; a
// state query that takes any row of a version for the file.
func TestMigratorRefusesChanges(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		applied, now []string
		want         error
		file         string
	}{
		"edited":       {marks, []string{marks[0], marks[1], marks[2], marks[3] + " ", marks[4], marks[5]}, tenancy.ErrMigrationChanged, marks[2]},
		"removed":      {marks, []string{marks[0], marks[1], marks[4], marks[5]}, tenancy.ErrMigrationChanged, marks[2]},
		"out of order": {[]string{marks[0], marks[1], marks[4], marks[5]}, marks, tenancy.ErrMigrationOutOfOrder, marks[2]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2)
			_, err := f.migrator(t, nil, test.applied...).Migrate(t.Context())
			require.NoError(t, err)
			before := f.marks(t, "t_1")
			result, err := f.migrator(t, nil, test.now...).Migrate(t.Context())
			require.ErrorIs(t, err, test.want)
			require.ErrorContains(t, err, test.file)
			require.Equal(t, stateCounts{tenancy.MigrationFailed: 2}, states(result))
			require.Equal(t, before, f.marks(t, "t_1"))
		})
	}
}

// TestMigratorStaysInItsSchema has files that reach for what isn't theirs.
// Caught: pg_temp not named last; no reset of what a file sets for the session.
func TestMigratorStaysInItsSchema(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.exec(t, `create table public.secrets (n int); create temporary table marks (n int)`)
	config := f.pool.Config()
	config.MaxConns = 1
	one, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(one.Close)
	f.targets[0].DB = one

	_, err = f.migrator(t, nil, "0001_x.sql", "insert into secrets values (1)").Migrate(t.Context())
	require.ErrorContains(t, err, `relation "secrets" does not exist`)

	_, err = one.Exec(t.Context(), `create temporary table marks (n int)`)
	require.NoError(t, err)
	files := append([]string{}, marks1...)
	files[1] += "insert into marks values (2); set search_path = public; set statement_timeout = '77s'; set role mcpsaas_control;"
	_, err = f.migrator(t, nil, files...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, f.marks(t, "t_1"))
	var path, timeout, role string
	require.NoError(t, one.QueryRow(t.Context(), `select current_setting('search_path'), current_setting('statement_timeout'), current_user`).
		Scan(&path, &timeout, &role))
	require.Equal(t, []string{`"$user", public`, "0", devstack.OwnerRole}, []string{path, timeout, role})

	f.targets[0].Schema = "nowhere"
	_, err = f.migrator(t, nil, marks...).Migrate(t.Context())
	require.ErrorContains(t, err, "no such schema")
	status, err := f.migrator(t, nil, marks...).Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, tenancy.MigrationFailed, status[0].State)
}

// TestMigratorVariable shows how a file names its own schema.
func TestMigratorVariable(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	_, err := f.migrator(t, nil, marks1[0], marks1[1]+`comment on schema :"schema" is 'mine';`).Migrate(t.Context())
	require.NoError(t, err)
	var n int
	require.NoError(t, f.pool.QueryRow(t.Context(), `select count(*) from pg_namespace where obj_description(oid, 'pg_namespace') = 'mine'`).Scan(&n))
	require.Equal(t, 2, n)
}

// TestMigratorCanaries caught: the rest started together with the canaries; a
// failed canary that only counts as a failure.
func TestMigratorCanaries(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 12)
	f.targets[4].Canary, f.targets[7].Canary = true, true
	f.exec(t, `create table t_8.marks (n int)`) // in the way
	var order []string
	opts := &tenancy.MigratorOptions{Progress: func(p tenancy.MigrationProgress) {
		if p.Last != nil {
			order = append(order, p.Last.Target.Schema)
			if p.Last.Target.Canary != p.Canary {
				t.Errorf("schema %s came while Canary was %v", p.Last.Target.Schema, p.Canary)
			}
		}
	}}
	result, err := f.migrator(t, opts, marks...).Migrate(t.Context())
	require.ErrorIs(t, err, tenancy.ErrCanaryFailed)
	require.ErrorContains(t, err, `schema "t_8": apply 0001_marks.sql`)
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 1, tenancy.MigrationFailed: 1, tenancy.MigrationStopped: 10}, states(result))
	require.ElementsMatch(t, []string{"t_5", "t_8"}, order)

	status, err := f.migrator(t, nil, marks...).Status(t.Context())
	require.NoError(t, err)
	require.Contains(t, status[7].LastError, "already exists")
	require.Empty(t, status[6].LastError)

	f.exec(t, `drop table t_8.marks`)
	order = nil
	result, err = f.migrator(t, opts, marks...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 11, tenancy.MigrationCurrent: 1}, states(result))
	require.Equal(t, "t_8", order[0])
	status, err = f.migrator(t, nil, marks...).Status(t.Context())
	require.NoError(t, err)
	require.Empty(t, status[7].LastError)
}

// TestMigratorGoesOn caught: an end at the first failure; a cap that is not
// looked at; progress that loses count.
func TestMigratorGoesOn(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 30)
	for i := 3; i <= 30; i += 3 {
		f.exec(t, fmt.Sprintf(`create table t_%d.marks (n int)`, i))
	}
	result, err := f.migrator(t, &tenancy.MigratorOptions{Workers: 1, MaxFailures: 4}, marks...).Migrate(t.Context())
	require.ErrorIs(t, err, tenancy.ErrTooManyFailures)
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 8, tenancy.MigrationFailed: 4, tenancy.MigrationStopped: 18}, states(result))
	require.ErrorIs(t, result.Outcomes[29].Err, tenancy.ErrTooManyFailures)
	failure, ok := errors.AsType[*tenancy.MigrateError](err)
	require.True(t, ok)
	require.Len(t, failure.Failed, 4)
	require.Equal(t, 18, failure.Stopped)

	var last tenancy.MigrationProgress
	reports := 0
	result, err = f.migrator(t, &tenancy.MigratorOptions{MaxFailures: -1, Progress: func(p tenancy.MigrationProgress) {
		last = p
		reports++
	}}, marks...).Migrate(t.Context())
	require.ErrorContains(t, err, "10 of 30 schemas failed")
	require.NotErrorIs(t, err, tenancy.ErrTooManyFailures)
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 12, tenancy.MigrationCurrent: 8, tenancy.MigrationFailed: 10}, states(result))
	require.Equal(t, []int{30, 20, 10, 0, 23}, []int{last.Total, last.Done, last.Failed, last.Running, reports})
}

// TestMigratorCancelled caught: workers that take a cancelled context for the
// failure of their schema; a run that waits for what was never started.
func TestMigratorCancelled(t *testing.T) {
	t.Parallel()
	devtest.NoLeaks(t)
	f := newFleet(t, 40)
	ctx, cancel := context.WithCancel(t.Context())
	result, err := f.migrator(t, &tenancy.MigratorOptions{Workers: 3, Progress: func(p tenancy.MigrationProgress) {
		if p.Done == 10 {
			cancel()
		}
	}}, marks...).Migrate(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, result.Count(tenancy.MigrationFailed))
	require.GreaterOrEqual(t, result.Count(tenancy.MigrationStopped), 40-10-3)
	_, err = f.migrator(t, nil, marks...).Migrate(t.Context())
	require.NoError(t, err)
	for _, target := range f.targets {
		require.Equal(t, []int{1, 2, 3}, f.marks(t, target.Schema))
	}
	f.pool.Close()
}

// TestMigratorAtOnce has three runners at the same schemas. Caught: no lock of
// the schema; the ledger read before the lock is held; a snapshot from before
// the lock (repeatable read).
func TestMigratorAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 40)
	f.exec(t, `alter database `+f.Name+` set default_transaction_isolation = 'repeatable read'`)
	files := append(append([]string{}, marks...),
		"0004_concurrently.sql", "-- no-transaction\n"+`insert into :"schema".marks values (4)`)
	var wg sync.WaitGroup
	for range 3 {
		own := *f
		own.pool = f.Pool(t)
		own.targets = append([]tenancy.MigrationTarget(nil), f.targets...)
		for i := range own.targets {
			own.targets[i].DB = own.pool
		}
		m := own.migrator(t, &tenancy.MigratorOptions{LockAttempts: 1000}, files...)
		wg.Go(func() {
			if _, err := m.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, target := range f.targets {
		require.Equal(t, []int{1, 2, 3, 4}, f.marks(t, target.Schema))
	}
}

// TestMigratorLockTimeout caught: no lock_timeout (the test hangs); no further
// attempt.
func TestMigratorLockTimeout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	_, err := f.migrator(t, nil, marks1...).Migrate(t.Context())
	require.NoError(t, err)
	reader, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), `select from t_1.marks`)
	require.NoError(t, err)

	_, err = f.migrator(t, &tenancy.MigratorOptions{LockTimeout: 20 * time.Millisecond, LockAttempts: 2}, marks...).Migrate(t.Context())
	require.ErrorIs(t, err, tenancy.ErrMigrationBusy)
	require.ErrorContains(t, err, `schema "t_1": apply 0002_more.sql`)
	require.Equal(t, []int{1, 2, 3}, f.marks(t, "t_2"))

	f.exec(t, `delete from mcpsaas.tenant_migrations where applied_at is null`)
	done := make(chan error, 1)
	go func() {
		_, err := f.migrator(t, &tenancy.MigratorOptions{LockTimeout: 20 * time.Millisecond, LockAttempts: 1000}, marks...).Migrate(t.Context())
		done <- err
	}()
	require.Eventually(t, func() bool {
		var failed bool
		err := f.pool.QueryRow(t.Context(), `select exists (select from mcpsaas.tenant_migrations where error like '%lock timeout%')`).Scan(&failed)
		return err == nil && failed
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, reader.Rollback(t.Context()))
	require.NoError(t, <-done)
	require.Equal(t, []int{1, 2, 3}, f.marks(t, "t_1"))
}

// TestStatusIsOneQuery counts round trips: on an open connection, a run over
// many schemas with nothing to do is one.
func TestStatusIsOneQuery(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 50)
	m := f.migrator(t, nil, marks...)
	_, err := m.Migrate(t.Context())
	require.NoError(t, err)
	p := newProxy(t, f.URL, 0)
	pool, err := pgxpool.New(t.Context(), p.url())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pool.Ping(t.Context()))
	for i := range f.targets {
		f.targets[i].DB = pool
	}
	before := p.turns.Load()
	result, err := m.Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationCurrent: 50}, states(result))
	require.Equal(t, int64(1), p.turns.Load()-before)
}

func TestMigratorRefusesTargets(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	target := f.targets[0]
	for name, test := range map[string]struct {
		targets []tenancy.MigrationTarget
		want    string
	}{
		"no database":    {[]tenancy.MigrationTarget{{Schema: "a"}}, "DB is nil"},
		"no schema":      {[]tenancy.MigrationTarget{{DB: f.pool}}, "not one for tenants"},
		"control schema": {[]tenancy.MigrationTarget{{Schema: "mcpsaas", DB: f.pool}}, "not one for tenants"},
		"catalog":        {[]tenancy.MigrationTarget{{Schema: "pg_temp", DB: f.pool}}, "not one for tenants"},
		"twice":          {[]tenancy.MigrationTarget{target, target}, "listed twice"},
	} {
		t.Run(name, func(t *testing.T) {
			list := func(context.Context) ([]tenancy.MigrationTarget, error) { return test.targets, nil }
			m, err := tenancy.NewMigrator(sqlFiles(marks...), tenancy.MigrationTargetsFunc(list), nil)
			require.NoError(t, err)
			_, err = m.Migrate(t.Context())
			require.ErrorContains(t, err, test.want)
			_, err = m.Status(t.Context())
			require.ErrorContains(t, err, test.want)
		})
	}
	broken := func(context.Context) ([]tenancy.MigrationTarget, error) { return nil, errors.New("no list") }
	m, err := tenancy.NewMigrator(sqlFiles(marks...), tenancy.MigrationTargetsFunc(broken), nil)
	require.NoError(t, err)
	_, err = m.Migrate(t.Context())
	require.ErrorContains(t, err, "no list")
}

// TestMigratorUnreachable has one of two databases away, and one without our
// tables.
func TestMigratorUnreachable(t *testing.T) {
	t.Parallel()
	f, away := newFleet(t, 2), newFleet(t, 1)
	bare := devtest.DB(t, devtest.Template{Name: "bare"})
	away.Stop(t)
	f.targets = append(f.targets, away.targets[0], tenancy.MigrationTarget{Schema: "public", DB: bare.Pool(t)})
	result, err := f.migrator(t, nil, marks...).Migrate(t.Context())
	require.ErrorContains(t, err, "2 of 4 schemas failed")
	require.ErrorContains(t, err, "tenancy.Migrate has not run")
	require.NotContains(t, err.Error(), away.Name, "the name of a database")
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 2, tenancy.MigrationFailed: 2}, states(result))
	away.Start(t)
}

func TestNewMigratorRefuses(t *testing.T) {
	t.Parallel()
	list := tenancy.MigrationTargetsFunc(func(context.Context) ([]tenancy.MigrationTarget, error) { return nil, nil })
	_, err := tenancy.NewMigrator(nil, nil, &tenancy.MigratorOptions{Workers: -1, LockTimeout: -1, LockAttempts: -1})
	for _, want := range []string{"files", "targets", "Workers", "LockTimeout", "LockAttempts"} {
		require.ErrorContains(t, err, want)
	}
	_, err = tenancy.NewMigrator(sqlFiles("x.sql", ""), list, nil)
	require.ErrorContains(t, err, `file "x.sql"`)
	m, err := tenancy.NewMigrator(sqlFiles(marks...), list, nil)
	require.NoError(t, err)
	result, err := m.Migrate(t.Context())
	require.NoError(t, err)
	require.Empty(t, result.Outcomes)
}

func TestMigratorErrorIsShort(t *testing.T) {
	t.Parallel()
	e := &tenancy.MigrateError{Total: 100, Stopped: 7}
	for i := range 50 {
		e.Failed = append(e.Failed, tenancy.MigrationOutcome{Err: fmt.Errorf("schema %d", i)})
	}
	require.Equal(t, "tenancy: migrate: 50 of 100 schemas failed, 7 not done\n  schema 0\n  schema 1\n  schema 2\n  and 47 more", e.Error())
	require.Equal(t, 5, len(strings.Split(e.Error(), "\n")))
}
