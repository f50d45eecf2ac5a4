package bench

import (
	"context"
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/tern/v2/migrate"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// migrations is the work that either runner does in each schema.
var migrations = fstest.MapFS{
	"001_notes.sql": {Data: []byte("create table notes (id bigint generated always as identity primary key, body text);\n")},
	"002_tags.sql":  {Data: []byte("alter table notes add column tags text[];\ncreate index notes_body on notes (body);\n")},
}

// BenchmarkMigrate brings many new schemas up to date with this and with tern,
// both with as many workers, in turns on the same server. tern gets a connection
// per schema that has its search_path from the start: it resets all settings
// after each file, so that a shared connection would put the second file's
// tables into the wrong schema.
func BenchmarkMigrate(b *testing.B) {
	const schemas = 200
	workers := 2 * runtime.GOMAXPROCS(0)
	db := devtest.DB(b, devtest.Template{Name: "migrate", Migrate: tenancy.Migrate})
	pool := db.Pool(b)
	runners := []struct {
		name string
		run  func(names []string) error
		took time.Duration
	}{
		{name: "mcpsaas", run: func(names []string) error { return runOurs(b.Context(), pool, names, workers) }},
		{name: "tern", run: func(names []string) error { return runTern(b.Context(), pool.Config().ConnConfig, names, workers) }},
	}
	round := 0
	for b.Loop() {
		for i := range runners {
			round++
			names := make([]string, schemas)
			for n := range names {
				names[n] = fmt.Sprintf("s%d_%d", round, n)
				_, err := pool.Exec(b.Context(), "create schema "+names[n])
				require.NoError(b, err)
			}
			began := time.Now()
			require.NoError(b, runners[i].run(names))
			runners[i].took += time.Since(began)
			var indexes int
			require.NoError(b, pool.QueryRow(b.Context(),
				`select count(*) from pg_indexes where schemaname = any ($1) and indexname = 'notes_body'`, names).Scan(&indexes))
			require.Equal(b, schemas, indexes)
		}
	}
	for _, r := range runners {
		b.ReportMetric(float64(schemas*b.N)/r.took.Seconds(), r.name+"-schemas/s")
	}
	b.ReportMetric(float64(runners[1].took)/float64(runners[0].took), "mcpsaas/tern")
}

func runOurs(ctx context.Context, pool *pgxpool.Pool, names []string, workers int) error {
	targets := make([]tenancy.MigrationTarget, len(names))
	for i, name := range names {
		targets[i] = tenancy.MigrationTarget{Schema: name, DB: pool}
	}
	list := func(context.Context) ([]tenancy.MigrationTarget, error) { return targets, nil }
	m, err := tenancy.NewMigrator(migrations, tenancy.MigrationTargetsFunc(list), &tenancy.MigratorOptions{Workers: workers})
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx)
	return err
}

func runTern(ctx context.Context, config *pgx.ConnConfig, names []string, workers int) error {
	work := make(chan string, len(names))
	for _, name := range names {
		work <- name
	}
	close(work)
	errs := make(chan error, len(names))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for name := range work {
				errs <- ternSchema(ctx, config, name, migrations)
			}
		})
	}
	wg.Wait()
	for range names {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func ternSchema(ctx context.Context, config *pgx.ConnConfig, name string, files fs.FS) error {
	config = config.Copy()
	config.RuntimeParams["search_path"] = name
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	m, err := migrate.NewMigrator(ctx, conn, name+".schema_version")
	if err != nil {
		return err
	}
	if err := m.LoadMigrations(files); err != nil {
		return err
	}
	return m.Migrate(ctx)
}
