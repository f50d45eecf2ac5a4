package tenancy_test

import (
	"context"
	"fmt"
	"strings"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The statements for your own migrations.
func ExamplePolicySQL() {
	sql, err := tenancy.PolicySQL("products")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(sql) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "alter") || strings.HasPrefix(line, "grant") {
			fmt.Println(line)
		}
	}
	// Output:
	// alter table "public"."products" enable row level security;
	// alter table "public"."products" force row level security;
	// alter table "public"."products" alter column tenant_id set not null;
	// alter table "public"."products" alter column tenant_id set default NULLIF(current_setting('app.current_tenant_id', true), '')::uuid;
	// grant select, insert, update, delete on "public"."products" to "app_user";
	// grant select, delete on "public"."products" to mcpsaas_control;
}

// A handler's two statements, in three round trips. There is no WHERE clause
// for the tenant, and none is needed.
func ExampleTenantTx() {
	restock := func(ctx context.Context, db *tenancy.DB, name string, amount int) (total int, err error) {
		err = tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `update products set stock = stock + $2 where name = $1`, name, amount); err != nil {
				return err
			}
			return tx.QueryRow(ctx, `select sum(stock) from products`).Scan(&total)
		})
		return total, err
	}
	// Without a tenant in the context nothing runs.
	_, err := restock(context.Background(), nil, "apple", 3)
	fmt.Println(err)
	// Output: tenant: no tenant in context
}

func ExampleDB_Query() {
	search := func(ctx context.Context, db *tenancy.DB, word string) ([]string, error) {
		rows, err := db.Query(ctx, `select name from products where name ilike $1`, "%"+word+"%")
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	_, err := search(context.Background(), nil, "apple")
	fmt.Println(err == tenant.ErrNone)
	// Output: true
}

// Every schema is brought up to date, the canaries first. Run again after a
// crash, it goes on where it stopped.
func ExampleMigrator() {
	files := fstest.MapFS{"0001_products.sql": {Data: []byte(`create table products (tenant_id uuid not null, name text)`)}}
	migrateAll := func(ctx context.Context, pool *pgxpool.Pool, schemas []string) error {
		targets := tenancy.MigrationTargetsFunc(func(context.Context) ([]tenancy.MigrationTarget, error) {
			var all []tenancy.MigrationTarget
			for i, schema := range schemas {
				all = append(all, tenancy.MigrationTarget{Schema: schema, DB: pool, Canary: i == 0})
			}
			return all, nil
		})
		migrator, err := tenancy.NewMigrator(files, targets, nil)
		if err != nil {
			return err
		}
		_, err = migrator.Migrate(ctx)
		return err
	}
	_ = migrateAll
}
