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

// A tenant gets a schema to itself, and goes on working meanwhile. Call it again
// after a crash: it goes on where it stopped.
func ExampleMover() {
	promote := func(ctx context.Context, data *tenancy.Data, id tenant.ID) error {
		mover, err := tenancy.NewMover(data, &tenancy.MoverOptions{
			Progress: func(p tenancy.MoveProgress) { fmt.Println(p.State, p.Rows, "of", p.Total) },
		})
		if err != nil {
			return err
		}
		to := tenancy.Placement{Tier: tenancy.TierSchema}
		plan, err := mover.Plan(ctx, id, to)
		if err != nil {
			return err
		}
		for _, problem := range plan.Problems {
			fmt.Println("in the way:", problem)
		}
		result, err := mover.Move(ctx, id, to)
		if refused, ok := errors.AsType[*tenancy.MoveRefusedError](err); ok {
			return fmt.Errorf("mend %d problems first: %w", len(refused.Plan.Problems), err)
		}
		if err == nil {
			fmt.Println("at", result.To, "after a pause of", result.Pause)
		}
		return err
	}
	fmt.Println(promote(context.Background(), nil, tenant.ID{}))
	// Output: tenancy: new mover: data is nil
}

// From now on a statement that takes another tenant's id sees nothing, whoever
// wrote it. The key is made once and kept where the server's other secrets are.
func ExampleSigner() {
	key, err := tenancy.NewSigningKey("2026-11")
	if err != nil {
		panic(err)
	}
	fmt.Println(key) // not its secret
	secret := key.Encode()

	// What an operator runs, as the owner of each database, before and after the
	// servers have the key.
	know := func(ctx context.Context, owner *pgx.Conn) error { return tenancy.AddSigningKey(ctx, owner, key) }
	want := func(ctx context.Context, owner *pgx.Conn) error { return tenancy.SignContext(ctx, owner, true) }
	_, _ = know, want

	// What each server does.
	open := func(ctx context.Context, url string) (*tenancy.DB, error) {
		key, err := tenancy.ParseSigningKey(secret)
		if err != nil {
			return nil, err
		}
		signer, err := tenancy.NewSigner(key, nil)
		if err != nil {
			return nil, err
		}
		return tenancy.Open(ctx, url, &tenancy.Options{Signer: signer})
	}
	_, err = open(context.Background(), "port=none")
	fmt.Println(err)
	// Output:
	// 2026-11:REDACTED
	// tenancy: open: malformed database URL
}

// A resolver of one's own: databases by region, none by default. What it returns as an
// error is shown only if it says that it may be.
func ExampleResolver() {
	hosts := map[string]string{"eu": "postgres://app_user@db.eu.internal/", "us": "postgres://app_user@db.us.internal/"}
	var resolver tenancy.Resolver = tenancy.ResolverFunc(func(_ context.Context, ref string) (string, error) {
		region, name, _ := strings.Cut(ref, "-")
		host, ok := hosts[region]
		if !ok {
			return "", &tenancy.ResolveError{Ref: ref, Reason: "there is no such region"}
		}
		return host + name, nil
	})
	fmt.Println(resolver.Resolve(context.Background(), "eu-acme"))
	_, err := resolver.Resolve(context.Background(), "mars-acme")
	fmt.Println(err, errors.Is(err, tenancy.ErrDatabaseUnavailable))
	// Output:
	// postgres://app_user@db.eu.internal/acme <nil>
	// tenancy: resolve database "mars-acme": there is no such region true
}
