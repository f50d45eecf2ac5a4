package tenancy_test

import (
	"context"
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

// shop is the database of the tests: a protected table, and one that refers to
// it and checks that only when the transaction ends.
var shop = devtest.Template{Name: "shop", Migrate: func(ctx context.Context, conn *pgx.Conn) error {
	if err := tenancy.Migrate(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `
create table products (
	tenant_id uuid not null,
	id        uuid not null default gen_random_uuid(),
	name      text not null,
	primary key (tenant_id, id),
	unique (tenant_id, name)
);
create table stock (
	tenant_id  uuid not null,
	product_id uuid not null,
	amount     int  not null check (amount >= 0),
	primary key (tenant_id, product_id),
	foreign key (tenant_id, product_id) references products (tenant_id, id) deferrable initially deferred
)`)
	if err != nil {
		return err
	}
	return tenancy.Protect(ctx, conn, "products", "stock")
}}

type bundle struct {
	*devtest.Database
	db      *tenancy.DB
	control *pgxpool.Pool
}

func setup(t testing.TB) *bundle {
	t.Helper()
	b := &bundle{Database: devtest.DB(t, shop)}
	b.prepare(t)
	return b
}

// prepare opens what the tests use to reach the database.
func (b *bundle) prepare(t testing.TB) {
	t.Helper()
	b.db = b.open(t, b.As(tenancy.AppRole), nil)
	config, err := tenancy.ControlConfig(b.URL)
	require.NoError(t, err)
	b.control, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(b.control.Close)
}

func (b *bundle) open(t testing.TB, url string, opts *tenancy.Options) *tenancy.DB {
	t.Helper()
	db, err := tenancy.Open(t.Context(), url, opts)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return db
}

// owner runs a statement as the owner, superuser one as the superuser.
func (b *bundle) owner(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := b.Conn(t, devstack.OwnerRole).Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func (b *bundle) superuser(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := b.Conn(t, "postgres").Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// as returns a context that carries the tenant.
func as(ctx context.Context, id tenant.ID) context.Context {
	return tenant.NewContext(ctx, tenant.Tenant{ID: id, Plan: tenant.Pro, Status: tenant.Active})
}

// add gives the tenant a product.
func (b *bundle) add(t testing.TB, id tenant.ID, name string) {
	t.Helper()
	_, err := b.db.Exec(as(t.Context(), id), `insert into products (name) values ($1)`, name)
	require.NoError(t, err)
}

// names returns the names of all products that the tenant can see.
func (b *bundle) names(t testing.TB, id tenant.ID) []string {
	t.Helper()
	rows, err := b.db.Query(as(t.Context(), id), `select name from products order by name`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}

// idle waits until no connection is in use: one that was closed is counted
// until the pool has said good-bye.
func (b *bundle) idle(t testing.TB) { idle(t, b.db) }

func idle(t testing.TB, db *tenancy.DB) {
	t.Helper()
	require.Eventually(t, func() bool { return db.Stat().AcquiredConns() == 0 && db.DatabaseStats().InUse == 0 }, 10*time.Second, time.Millisecond)
}

// inTx runs one statement in a TenantTx.
func inTx(ctx context.Context, db *tenancy.DB, sql string, args ...any) error {
	return tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	})
}
