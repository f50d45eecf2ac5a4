package tenancy_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// pooled is tiers behind PgBouncer, both databases of it.
type pooled struct {
	*tiers
	home, other string // URLs that lead through it
	log         bytes.Buffer
	db          *tenancy.DB
}

func newPooled(t testing.TB, conns int, opts tenancy.Options) *pooled {
	t.Helper()
	b := &pooled{tiers: newTiers(t)}
	b.home = startBouncerAs(t, b.As(tenancy.AppRole), conns)
	b.other = startBouncerAs(t, b.tiers.other.As(tenancy.AppRole), conns)
	opts.Directory = b.directory
	opts.Logger = slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	opts.Databases = &tenancy.DatabasesOptions{
		Resolver: tenancy.ResolverFunc(func(context.Context, string) (string, error) { return b.other, nil }),
		MaxConns: max(1, int(opts.MaxConns)/3), MaxConnsPerTenant: max(1, int(opts.MaxConns)/3),
	}
	b.db = b.open(t, b.home, &opts)
	return b
}

// url returns the URL through PgBouncer to where tenants of the tier live.
func (b *pooled) url(tier tenancy.Tier) string {
	if tier == tenancy.TierDatabase {
		return b.other
	}
	return b.home
}

func TestPoolerNoticed(t *testing.T) {
	t.Parallel()
	b := newPooled(t, 2, tenancy.Options{MaxConns: 6})
	require.Contains(t, b.log.String(), "pooler")
	require.NoError(t, b.db.CheckRoles(t.Context()))
	require.NoError(t, b.db.Check(t.Context()))
	_, err := tenancy.Open(t.Context(), b.home+"&default_query_exec_mode=cache_statement", nil)
	require.ErrorContains(t, err, "default_query_exec_mode=cache_statement")
	for _, mode := range []string{"cache_describe", "describe_exec", "exec"} {
		b.open(t, b.home+"&default_query_exec_mode="+mode, nil)
	}

	var log bytes.Buffer
	b.open(t, b.As(tenancy.AppRole), &tenancy.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.Empty(t, log.String(), "there is none")
}

// Mutation: preparing by name behind the pooler fails most calls.
func TestPoolerRoundTrips(t *testing.T) {
	t.Parallel()
	b := newPooled(t, 2, tenancy.Options{})
	for tier, id := range b.one {
		t.Run(string(tier), func(t *testing.T) {
			link := newProxy(t, b.url(tier), 0)
			testRoundTripsBy(t, b.dialBy(t, tier, link.url(), &tenancy.Options{MaxConns: 1}), link, id)
		})
	}
}

// What other clients of the pooler set for their session, they leave to the next
// one. Mutations: without the search_path set behind a pooler, the shared tables
// aren't found; without heal, the server's process that has another tenant's
// context fails each call that meets it, for as long as it lives.
func TestPoolerSessionsOfOthers(t *testing.T) {
	t.Parallel()
	b := newPooled(t, 1, tenancy.Options{MaxConns: 3})
	for tier, id := range b.one {
		t.Run(string(tier), func(t *testing.T) {
			ctx := as(t.Context(), id)
			count := func() (n int, err error) {
				err = b.db.QueryRow(ctx, `select count(*) from products`).Scan(&n)
				return n, err
			}
			_, err := b.db.Exec(ctx, `insert into products (name) values ('mine')`)
			require.NoError(t, err)
			pollute := func(sql string) {
				conn, err := pgx.Connect(ctx, b.url(tier))
				require.NoError(t, err)
				defer conn.Close(context.WithoutCancel(ctx))
				_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
				require.NoError(t, err)
			}
			for _, path := range []string{"nothing", tenancy.SchemaName(b.one[tenancy.TierSchema]) + ", pg_temp"} {
				pollute(`set search_path = ` + path)
				for range 3 {
					n, err := count()
					require.NoError(t, err)
					require.Equal(t, 1, n)
					require.NoError(t, inTx(ctx, b.db, `update products set name = name where name = $1`, "mine"))
					require.NoError(t, b.db.Canary(ctx, id.String()))
				}
			}
			for _, sql := range []string{
				`set app.current_tenant_id = '` + tenant.NewID().String() + `'`,
				`begin; declare kept cursor with hold for select 1; commit`,
			} {
				pollute(sql)
				_, err = count()
				require.ErrorIs(t, err, tenancy.ErrTampered)
				require.Eventually(t, func() bool { // until the pooler has noticed
					n, err := count()
					if err != nil {
						return false
					}
					require.Equal(t, 1, n)
					return true
				}, 10*time.Second, time.Millisecond)
				pollute(sql)
				require.ErrorIs(t, inTx(ctx, b.db, `select 1`), tenancy.ErrTampered)
				require.Eventually(t, func() bool { return inTx(ctx, b.db, `select 1`) == nil }, 10*time.Second, time.Millisecond)
			}
		})
	}
}

// The storm, with 8 of the pooler's connections for 64 callers.
func TestPoolerStorm(t *testing.T) {
	t.Parallel()
	b := newPooled(t, 4, tenancy.Options{MaxConns: 18})
	blow(t, b.tiers, b.db, 24, true)
}

// Every way of running statements goes through the pooler, in all tiers.
func TestPoolerExecModes(t *testing.T) {
	t.Parallel()
	b := newPooled(t, 2, tenancy.Options{})
	for _, mode := range []string{"", "cache_describe", "describe_exec", "exec"} {
		for tier, id := range b.one {
			t.Run(strings.Join([]string{mode, string(tier)}, " "), func(t *testing.T) {
				url := b.url(tier)
				if mode != "" {
					url += "&default_query_exec_mode=" + mode
				}
				testExecMode(t, b.dialBy(t, tier, url, nil), id)
			})
		}
	}
}

func testExecMode(t *testing.T, db *tenancy.DB, id tenant.ID) {
	ctx := as(t.Context(), id)
	_, err := db.Exec(ctx, `insert into products (name) values ('apple') on conflict do nothing`)
	require.NoError(t, err)
	for range 2 {
		var name string
		require.NoError(t, db.QueryRow(ctx, `select name from products where name <> $1`, "x").Scan(&name))
		require.Equal(t, "apple", name)
		tag, err := db.Exec(ctx, `update products set name = name`)
		require.NoError(t, err)
		require.EqualValues(t, 1, tag.RowsAffected())
		_, err = db.Exec(ctx, `select 1; select 2`)
		require.Error(t, err)
		require.NoError(t, inTx(ctx, db, `update products set name = name where name = $1`, "apple"))
		require.Error(t, inTx(ctx, db, `insert into stock (product_id, amount) values (gen_random_uuid(), $1)`, 1))
		err = inTx(ctx, db, `rollback and chain`)
		require.True(t, errors.Is(err, tenancy.ErrTampered), "%v", err)
	}
}
