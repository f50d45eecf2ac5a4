package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing/fstest"
	"time"

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

// A report that may be a moment old spares the primary.
func ExampleDB_Reader() {
	sold := func(ctx context.Context, db *tenancy.DB) (n int, err error) {
		err = db.Reader().QueryRow(ctx, `select count(*) from orders`).Scan(&n)
		return n, err
	}
	_, err := sold(context.Background(), nil)
	fmt.Println(err)
	// Output: tenant: no tenant in context
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

// What a tenant has is written to a directory, and read back from it into
// another installation, whatever places the tenant has here and there.
func ExampleData_Export() {
	take := func(ctx context.Context, data *tenancy.Data, id tenant.ID, dir string) error {
		return data.Export(ctx, id, func(name string, write func(io.Writer) (int64, error)) error {
			f, err := os.Create(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			if _, err := write(f); err != nil {
				return errors.Join(err, f.Close())
			}
			return f.Close()
		})
	}
	give := func(ctx context.Context, data *tenancy.Data, id tenant.ID, dir string) (tenancy.Counts, error) {
		return data.Import(ctx, id, os.DirFS(dir), nil)
	}
	_, _ = take, give
}

// Support looks into every tenant's orders, and is on record before it does.
func ExampleAdminTx() {
	admin, err := tenancy.NewAdmin("postgres://support@db.internal/shop", nil)
	if err != nil {
		panic(err)
	}
	stuck := func(ctx context.Context, actor, ticket string) (n int, err error) {
		access := tenancy.Access{Actor: actor, Reason: ticket, TTL: time.Minute}
		err = tenancy.AdminTx(ctx, admin, access, func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, `select count(*) from public.orders where state = 'stuck'`).Scan(&n)
		})
		return n, err
	}
	_, err = stuck(context.Background(), "anna@example.com", "")
	fmt.Println(err)
	// Output: tenancy: admin transaction: Access.Reason is empty
}
