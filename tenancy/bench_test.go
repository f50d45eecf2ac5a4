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
// an unprotected copy (raw), by the one-shot handle and by TenantTx, for a tenant
// of each tier, and by the common four steps of begin, set_config, query and
// commit. The forms take turns, so that a busy machine is as unkind to each; the
// medians are reported, and their ratios to raw.
func BenchmarkQuery(b *testing.B) {
	s := newTiers(b)
	id := s.one[tenancy.TierShared]
	keys := map[tenancy.Tier]string{}
	setUp := s.dial(b, nil)
	for tier, id := range s.one {
		var key string
		require.NoError(b, setUp.QueryRow(as(b.Context(), id), `insert into products (name) values ('apple') returning id::text`).Scan(&key))
		keys[tier] = key
	}
	s.owner(b, `create table bare (owner_id uuid, id uuid, name text, primary key (owner_id, id))`)
	s.owner(b, `grant select on bare to `+tenancy.AppRole)
	s.owner(b, `insert into bare values ($1, $2, 'apple')`, id, keys[tenancy.TierShared])
	s.owner(b, `analyze`)
	s.other.owner(b, `analyze`)

	for _, link := range []struct {
		name  string
		delay time.Duration
	}{{"loopback", 0}, {"1ms", time.Millisecond}} {
		b.Run(link.name, func(b *testing.B) {
			home, other := s.As(tenancy.AppRole), s.other.As(tenancy.AppRole)
			if link.delay > 0 {
				home, other = newProxy(b, home, link.delay).url(), newProxy(b, other, link.delay).url()
			}
			db := s.open(b, home, &tenancy.Options{Directory: s.directory, Databases: &tenancy.DatabasesOptions{
				Resolver: tenancy.ResolverFunc(func(context.Context, string) (string, error) { return other, nil }),
			}})
			pool, err := pgxpool.New(b.Context(), home)
			require.NoError(b, err)
			b.Cleanup(pool.Close)
			const sql = `select name from products where tenant_id = $1 and id = $2`
			var name string
			type form struct {
				name string
				run  func() error
			}
			forms := []form{
				{"raw", func() error {
					return pool.QueryRow(b.Context(), `select name from bare where owner_id = $1 and id = $2`, id, keys[tenancy.TierShared]).Scan(&name)
				}},
				{"foursteps", func() error {
					return pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error {
						if _, err := tx.Exec(b.Context(), `select set_config($1, $2, true)`, tenancy.Setting, id.String()); err != nil {
							return err
						}
						return tx.QueryRow(b.Context(), sql, id, keys[tenancy.TierShared]).Scan(&name)
					})
				}},
			}
			for _, tier := range []tenancy.Tier{tenancy.TierShared, tenancy.TierSchema, tenancy.TierDatabase} {
				id, key := s.one[tier], keys[tier]
				ctx := as(b.Context(), id)
				forms = append(forms, form{"oneshot-" + string(tier), func() error {
					return db.QueryRow(ctx, sql, id, key).Scan(&name)
				}}, form{"tenanttx-" + string(tier), func() error {
					return tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
						return tx.QueryRow(ctx, sql, id, key).Scan(&name)
					})
				}})
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
