package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// plain is a database that the package knows, and with no tables of the
// application's: those come by [tenancy.Data.Migrate].
var plain = devtest.Template{Name: "plain", Migrate: tenancy.Migrate}

// estate is a home database and others that tenants have to themselves.
type estate struct {
	t     testing.TB
	home  *devtest.Database
	files fs.FS
	data  *tenancy.Data

	control   *pgxpool.Pool
	mu        sync.Mutex
	databases map[string]*devtest.Database
}

// Resolve implements [tenancy.Resolver] for owners.
func (e *estate) Resolve(_ context.Context, database string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if db := e.databases[database]; db != nil {
		return db.URL, nil
	}
	return "", errors.New("nobody knows this database")
}

// shopFiles are an application's tables.
func shopFiles() fs.FS {
	return sqlFiles("0001_products.sql", `
create table products (
	tenant_id uuid not null, id bigint generated always as identity, name text not null, loud text generated always as (upper(name)) stored,
	primary key (tenant_id, id), unique (tenant_id, name));
create table stock (
	tenant_id uuid not null, product_id bigint not null, amount int not null, primary key (tenant_id, product_id),
	foreign key (tenant_id, product_id) references products (tenant_id, id))`)
}

func newEstate(t testing.TB, files fs.FS) *estate {
	t.Helper()
	e := &estate{t: t, home: devtest.DB(t, plain), files: files, databases: make(map[string]*devtest.Database)}
	config, err := tenancy.ControlConfig(e.home.URL)
	require.NoError(t, err)
	e.control, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(e.control.Close)
	e.data = e.open(&tenancy.DataOptions{})
	if files != nil {
		_, err = e.data.Migrate(t.Context(), nil)
		require.NoError(t, err)
	}
	return e
}

// open returns a Data with the options and what all have.
func (e *estate) open(opts *tenancy.DataOptions) *tenancy.Data {
	e.t.Helper()
	opts.Databases, opts.Files = e, e.files
	data, err := tenancy.NewData(e.control, opts)
	require.NoError(e.t, err)
	e.t.Cleanup(data.Close)
	return data
}

// database adds an empty database of this name.
func (e *estate) database(name string) *devtest.Database {
	db := devtest.DB(e.t, devtest.Template{Name: "empty"})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.databases[name] = db
	return db
}

// put writes a tenant that is to live there.
func (e *estate) put(at tenancy.Placement) tenant.ID {
	e.t.Helper()
	id := tenant.NewID()
	e.putAs(id, at)
	return id
}

func (e *estate) putAs(id tenant.ID, at tenancy.Placement) {
	e.t.Helper()
	err := pgx.BeginFunc(e.t.Context(), e.control, func(tx pgx.Tx) error {
		_, err := tenancy.PutTenant(e.t.Context(), tx, tenancy.Record{ID: id, Plan: tenant.Pro, Status: tenant.Active, Placement: at})
		return err
	})
	require.NoError(e.t, err)
}

// tenant is one that is prepared.
func (e *estate) tenant(at tenancy.Placement) tenant.ID {
	e.t.Helper()
	id := e.put(at)
	_, err := e.data.Prepare(e.t.Context(), id)
	require.NoError(e.t, err)
	return id
}

// at returns the database that the tenant is in and the schema.
func (e *estate) at(id tenant.ID) (*devtest.Database, string) {
	e.t.Helper()
	var tier string
	var ref *string
	require.NoError(e.t, e.control.QueryRow(e.t.Context(), `select placement, database_ref from mcpsaas.tenants where id = $1`, id).Scan(&tier, &ref))
	switch tenancy.Tier(tier) {
	case tenancy.TierSchema:
		return e.home, tenancy.SchemaName(id)
	case tenancy.TierDatabase:
		return e.databases[*ref], "public"
	}
	return e.home, "public"
}

// exec runs statements in one transaction of the application's role, as one that
// serves the tenant sets it up.
func (e *estate) exec(id tenant.ID, statements ...string) error {
	e.t.Helper()
	db, schema := e.at(id)
	return pgx.BeginFunc(e.t.Context(), db.Conn(e.t, tenancy.AppRole), func(tx pgx.Tx) error {
		all := []string{fmt.Sprintf(`select set_config('app.current_tenant_id', '%s', true)`, id), `set local search_path = ` + schema + `, pg_temp`}
		if schema != "public" {
			all = append(all, `set local role `+schema)
		}
		for _, sql := range append(all, statements...) {
			if _, err := tx.Exec(e.t.Context(), sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

func (e *estate) must(id tenant.ID, statements ...string) {
	e.t.Helper()
	require.NoError(e.t, e.exec(id, statements...))
}

// super runs a statement as the superuser, whom no policy binds, and returns its
// one value.
func super[T any](t testing.TB, db *devtest.Database, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, db.Conn(t, "postgres").QueryRow(t.Context(), sql, args...).Scan(&v))
	return v
}

// everywhere are the three tiers; a database is made for the last.
func (e *estate) everywhere() []tenancy.Placement {
	name := fmt.Sprintf("db%d", len(e.databases)+1)
	e.database(name)
	return []tenancy.Placement{{}, {Tier: tenancy.TierSchema}, {Tier: tenancy.TierDatabase, Database: name}}
}

const fillShop = `with p as (insert into products (name) select 'p' || i from generate_series(1, 30) i returning id)
insert into stock (product_id, amount) select id, 1 from p`

func TestPlaceInEachTier(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	ctx := t.Context()
	for _, at := range e.everywhere() {
		id := e.put(at)
		marker, err := e.data.Prepare(ctx, id)
		require.NoError(t, err, at)
		again, err := e.data.Prepare(ctx, id)
		require.NoError(t, err, at)
		require.Equal(t, marker, again)
		require.NoError(t, e.data.Prove(ctx, id, marker))
		require.Error(t, e.data.Prove(ctx, id, marker+"x"))
		require.NoError(t, e.data.Configure(ctx, id, map[string]string{"k": "v"}))
		e.must(id, fillShop, `update tenant_config set value = 'w'`)
		require.NoError(t, e.data.Configure(ctx, id, map[string]string{"k": "v", "l": "v"}))

		files, err := export(t, e.data, id)
		require.NoError(t, err)
		require.Equal(t, 30, strings.Count(files["public.products.jsonl"], "\n"), at)
		require.Contains(t, files["public.tenant_config.jsonl"], `"value":"w"`)

		receipt, err := e.data.Erase(ctx, id)
		require.NoError(t, err)
		require.NotZero(t, receipt.Proved)
		last := receipt.Places[len(receipt.Places)-1]
		require.Equal(t, at.String(), last.Placement)
		_, schema := e.at(id)
		require.Equal(t, tenancy.Counts{schema + ".products": 30, schema + ".stock": 30, schema + ".tenant_config": 2, schema + ".tenant_marker": 1}, last.Deleted)
		require.Equal(t, tenancy.Counts{schema + ".products": 0, schema + ".stock": 0, schema + ".tenant_config": 0, schema + ".tenant_marker": 0}, last.Left)
		if at.Tier == tenancy.TierSchema {
			require.Equal(t, schema, last.Dropped)
			require.Zero(t, super[int](t, e.home, `select count(*) from pg_namespace where nspname = $1`, schema))
		}
		again2, err := e.data.Erase(ctx, id)
		require.NoError(t, err, "an erasure may be repeated")
		for table, n := range again2.Deleted() {
			require.Zero(t, n, table)
		}
	}
}

// A place is made once, whoever else makes it.
func TestPrepareAtOnce(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	for _, at := range e.everywhere() {
		id := e.put(at)
		markers := make([]string, 4)
		var wg sync.WaitGroup
		for i := range markers {
			wg.Go(func() {
				var err error
				markers[i], err = e.data.Prepare(t.Context(), id)
				if err != nil {
					t.Error(at, err)
				}
			})
		}
		wg.Wait()
		for _, m := range markers {
			require.Equal(t, markers[0], m, at)
		}
		e.must(id, fillShop)
	}
}

// TestPrepareRefuses a tenant that is gone, and one whose database can't be
// reached: without naming its address, and before the caller's patience ends.
// Mutation seen: without the bound of a dial it does end, on the server that never
// answers.
func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	ctx := t.Context()
	gone := e.put(tenancy.Placement{Tier: tenancy.TierSchema})
	require.NoError(t, pgx.BeginFunc(ctx, e.control, func(tx pgx.Tx) error {
		_, err := tenancy.SetStatus(ctx, tx, gone, tenant.Deleted)
		return err
	}))
	_, err := e.data.Prepare(ctx, gone)
	require.ErrorIs(t, err, tenancy.ErrDeleted)
	require.Zero(t, super[int](t, e.home, `select count(*) from pg_namespace where nspname = $1`, tenancy.SchemaName(gone)))

	e.mu.Lock()
	e.databases["away"] = &devtest.Database{URL: "postgres://anna:secret@127.0.0.1:1/books"}
	e.databases["missing"] = &devtest.Database{URL: strings.Replace(e.home.URL, "/"+e.home.Name, "/nosuchdatabase", 1)}
	e.databases["silent"] = &devtest.Database{URL: "postgres://anna:secret@" + silent(t) + "/books?sslmode=disable"}
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, ref := range []string{"unknown", "away", "missing", "silent"} {
		_, err := e.data.Prepare(ctx, e.put(tenancy.Placement{Tier: tenancy.TierDatabase, Database: ref}))
		require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable)
		require.ErrorContains(t, err, `"`+ref+`"`)
		for _, secret := range []string{"anna", "secret", "127.0.0.1", "books", "nosuchdatabase", devstack.OwnerRole} {
			require.NotContains(t, err.Error(), secret)
		}
	}
}

// A table that a migration adds is out of reach until it is protected, and one
// call does both, wherever tenants are.
func TestDataMigrate(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	ctx := t.Context()
	var ids []tenant.ID
	for _, at := range e.everywhere() {
		ids = append(ids, e.tenant(at))
	}
	result, err := e.data.Migrate(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, 3, result.Count(tenancy.MigrationCurrent), "a place is made with the files")
	require.True(t, result.Outcomes[0].Target.Canary)

	e.files = sqlFiles("0001_products.sql", mustRead(t, e.files, "0001_products.sql"),
		"0002_more.sql", `create table more (tenant_id uuid not null, n int, primary key (tenant_id, n)); create table words (word text)`)
	result, err = e.open(&tenancy.DataOptions{}).Migrate(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, 3, result.Count(tenancy.MigrationApplied))
	for i, id := range ids {
		e.must(id, `insert into more (n) values (1)`)
		if i == 1 {
			e.must(id, `insert into words values ('w')`)
		} else {
			require.ErrorContains(t, e.exec(id, `insert into words values ('w')`), "permission denied")
		}
	}
}

// A run that is killed before the policies are there has left tables that nobody
// can reach; the next one protects them, though no file is left to apply.
func TestDataMigrateResumes(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	var ids []tenant.ID
	for _, at := range e.everywhere() {
		id := e.tenant(at)
		ids = append(ids, id)
		db, schema := e.at(id)
		_, err := db.Conn(t, devstack.OwnerRole).Exec(t.Context(), `create table `+schema+`.late (tenant_id uuid, n int)`)
		require.NoError(t, err)
		require.ErrorContains(t, e.exec(id, `insert into late (n) values (1)`), "permission denied")
		_, err = export(t, e.data, id)
		require.ErrorIs(t, err, tenancy.ErrUnprotected)
	}
	result, err := e.data.Migrate(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, 3, result.Count(tenancy.MigrationCurrent))
	for _, id := range ids {
		e.must(id, `insert into late (n) values (1)`)
	}
}

func mustRead(t testing.TB, files fs.FS, name string) string {
	t.Helper()
	raw, err := fs.ReadFile(files, name)
	require.NoError(t, err)
	return string(raw)
}
