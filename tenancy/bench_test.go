package tenancy_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkQuery reads one row by its primary key, side by side: as the owner of
// an unprotected copy (raw), by the one-shot handle, by TenantTx, and by the
// common four steps of begin, set_config, query and commit. The forms take
// turns, so that a busy machine is as unkind to each; the medians are reported,
// and their ratios to raw.
func BenchmarkQuery(b *testing.B) {
	s := setup(b)
	id := tenant.NewID()
	s.add(b, id, "apple")
	s.owner(b, `create table bare (owner_id uuid, id uuid, name text, primary key (owner_id, id));
grant select on bare to `+tenancy.AppRole)
	var key string
	require.NoError(b, s.db.QueryRow(as(b.Context(), id), `select id::text from products`).Scan(&key))
	s.owner(b, `insert into bare values ($1, $2, 'apple')`, id, key)

	for _, link := range []struct {
		name  string
		delay time.Duration
	}{{"loopback", 0}, {"1ms", time.Millisecond}} {
		b.Run(link.name, func(b *testing.B) {
			url := s.As(tenancy.AppRole)
			if link.delay > 0 {
				url = newProxy(b, url, link.delay).url()
			}
			db := s.open(b, url, nil)
			pool, err := pgxpool.New(b.Context(), url)
			require.NoError(b, err)
			b.Cleanup(pool.Close)
			ctx := as(b.Context(), id)
			const sql = `select name from products where tenant_id = $1 and id = $2`
			var name string
			forms := []struct {
				name string
				run  func() error
			}{
				{"raw", func() error {
					return pool.QueryRow(ctx, `select name from bare where owner_id = $1 and id = $2`, id, key).Scan(&name)
				}},
				{"oneshot", func() error { return db.QueryRow(ctx, sql, id, key).Scan(&name) }},
				{"tenanttx", func() error {
					return tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
						return tx.QueryRow(ctx, sql, id, key).Scan(&name)
					})
				}},
				{"foursteps", func() error {
					return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
						if _, err := tx.Exec(ctx, `select set_config($1, $2, true)`, tenancy.Setting, id.String()); err != nil {
							return err
						}
						return tx.QueryRow(ctx, sql, id, key).Scan(&name)
					})
				}},
			}
			took := make([][]time.Duration, len(forms))
			for _, f := range forms { // prepares
				require.NoError(b, f.run())
			}
			for b.Loop() {
				for i, f := range forms {
					start := time.Now()
					if err := f.run(); err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(start))
				}
			}
			b.ReportMetric(0, "ns/op") // of all forms together
			median := func(i int) float64 {
				slices.Sort(took[i])
				return float64(took[i][len(took[i])/2].Nanoseconds()) / 1000
			}
			raw := median(0)
			for i, f := range forms {
				b.ReportMetric(median(i), f.name+"-p50-us")
				if i > 0 {
					b.ReportMetric(median(i)/raw, f.name+"/raw")
				}
			}
		})
	}
}

// BenchmarkBulkInsert is per row.
func BenchmarkBulkInsert(b *testing.B) {
	s := setup(b)
	ctx := as(b.Context(), tenant.NewID())
	n := 0
	source := pgx.CopyFromFunc(func() ([]any, error) {
		if n == b.N {
			return nil, nil
		}
		n++
		return []any{tenant.NewID().String()}, nil
	})
	err := tenancy.TenantTx(ctx, s.db, func(ctx context.Context, tx pgx.Tx) error {
		b.ResetTimer()
		_, err := tenancy.BulkInsert(ctx, tx, pgx.Identifier{"products"}, []string{"name"}, source)
		return err
	})
	require.NoError(b, err)
}
