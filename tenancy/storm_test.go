package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// storm is what a goroutine does with a tenant's call. It returns the tenants
// whose rows it saw.
type storm struct {
	db      *tenancy.DB
	id      tenant.ID
	foreign tenant.ID
	random  *rand.Rand
	costly  *atomic.Int64 // calls that may cost a connection
	forged  *atomic.Int64 // rows written in another tenant's name
}

const owners = `select distinct tenant_id from products`

func (s storm) call(ctx context.Context) (seen []tenant.ID, err error) {
	ctx = as(ctx, s.id)
	collect := func(rows pgx.Rows, err error) error {
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[tenant.ID])
		seen = append(seen, ids...)
		return err
	}
	transaction := func(fns ...func(ctx context.Context, tx pgx.Tx) error) error {
		return tenancy.TenantTx(ctx, s.db, func(ctx context.Context, tx pgx.Tx) error {
			for _, fn := range fns {
				if err := fn(ctx, tx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	look := func(ctx context.Context, tx pgx.Tx) error { return collect(tx.Query(ctx, owners)) }
	run := func(sql string, args ...any) func(ctx context.Context, tx pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql, args...)
			return err
		}
	}
	ignore := func(fn func(ctx context.Context, tx pgx.Tx) error) func(ctx context.Context, tx pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error { fn(ctx, tx); return nil }
	}
	kind := s.random.IntN(12)
	if s.random.IntN(16) == 0 {
		// These cost a connection, and must: their own, or with the last two that
		// of whoever comes next.
		kind = 12 + s.random.IntN(5)
		s.costly.Add(1)
	}
	switch kind {
	case 0, 1, 2, 3:
		return seen, collect(s.db.Query(ctx, owners))
	case 4, 5:
		err = transaction(look)
	case 6:
		err = transaction(run(`insert into products (name) values ($1)`, fmt.Sprint(s.random.Uint64())), look)
	case 7: // a violated constraint, in one shot
		_, err = s.db.Exec(ctx, `insert into stock (product_id, amount) values (gen_random_uuid(), -1)`)
	case 8: // and in a transaction that goes on
		err = transaction(look, ignore(run(`select 1/0`)), ignore(look))
	case 9: // another tenant's row
		_, err = s.db.Exec(ctx, `insert into products (tenant_id, name) values ($1, 'forged')`, s.foreign)
		if err == nil {
			s.forged.Add(1)
		}
	case 10:
		err = func() (err error) {
			defer func() { err = fmt.Errorf("%v", recover()) }()
			return transaction(look, func(context.Context, pgx.Tx) error { panic("boom") })
		}()
	case 12:
		cancelled, cancel := context.WithCancel(ctx)
		err = tenancy.TenantTx(cancelled, s.db, func(ctx context.Context, tx pgx.Tx) error {
			if err := look(ctx, tx); err != nil {
				return err
			}
			go cancel()
			return collect(tx.Query(ctx, owners+` where pg_sleep(0.001) is not null`))
		})
		cancel()
	case 13: // injected SQL that ends the transaction
		err = transaction(look, ignore(run(`commit`)), ignore(look))
	case 14: // or the context
		err = transaction(look, ignore(run(`rollback and chain`)), ignore(look))
	case 15: // or sets it for whoever comes next
		_, err = s.db.Exec(ctx, `select set_config('app.current_tenant_id', $1, false)`, s.foreign.String())
	case 16: // or takes another tenant's role for the session
		_, err = s.db.Exec(ctx, `select set_config('role', $1, false)`, tenancy.SchemaName(s.foreign))
	case 11: // rows that aren't read to the end
		rows, failure := s.db.Query(ctx, `select tenant_id from products, generate_series(1, 10)`)
		if failure == nil {
			rows.Next()
			rows.Close()
			failure = rows.Err()
		}
		err = failure
	}
	return seen, err
}

// Mutations seen by this test: without the check of the context at entry, and
// with a policy that forgets the tenant, there are foreign rows; with a context
// set for the session instead of the transaction, a connection serves one call.
func TestStorm(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, &tenancy.Options{MaxConns: 6, Limits: func(x tenant.Tenant) tenancy.Limits {
		return tenancy.Limits{StatementTimeout: time.Minute}
	}})
	blow(t, b, db, 8, false)
}

// blow makes the calls of tenants in all tiers from 64 goroutines: 100,000 in the
// long form, a fifth in the short one.
func blow(t *testing.T, b *tiers, db *tenancy.DB, conns int64, pooler bool) {
	const workers, tenants = 64, 16
	calls := int64(20_000)
	if devtest.Soak() {
		calls = 100_000
	}
	ids := make([]tenant.ID, tenants)
	for i := range ids {
		ids[i] = b.settle(t, []tenancy.Tier{tenancy.TierShared, tenancy.TierSchema, tenancy.TierDatabase, tenancy.TierShared}[i%4])
		_, err := db.Exec(as(t.Context(), ids[i]), `insert into products (name) values ('first')`)
		require.NoError(t, err)
	}
	var next, saw, foreign, tampered, lost, costly, forged, other atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for next.Add(1) <= calls {
				mine := random.IntN(tenants)
				s := storm{db: db, id: ids[mine], foreign: ids[(mine+1)%tenants], random: random, costly: &costly, forged: &forged}
				seen, err := s.call(t.Context())
				for _, id := range seen {
					saw.Add(1)
					if id != s.id {
						foreign.Add(1)
					}
				}
				failure, isPg := errors.AsType[*pgconn.PgError](err)
				switch {
				case errors.Is(err, tenancy.ErrTampered):
					tampered.Add(1)
				case isPg && failure.Code == "22P02":
					lost.Add(1) // the context was read as the empty string
				case isPg && !slices.Contains([]string{"23514", "22012", "42501", "25P02", "22023"}, failure.Code):
					if other.Add(1) <= 10 {
						t.Errorf("unforeseen: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d calls in %v, %d rows seen, %d tampered", calls, time.Since(began).Round(time.Millisecond), saw.Load(), tampered.Load())
	require.Zero(t, foreign.Load(), "foreign rows")
	require.Zero(t, forged.Load(), "forged rows")
	require.Zero(t, lost.Load())
	require.Greater(t, saw.Load(), calls/4, "the test must have seen rows to say that none was foreign")
	require.Greater(t, tampered.Load(), calls/64, "and tampering")
	opened := db.Stat().NewConnsCount() + db.DatabaseStats().Opened
	bound := conns + costly.Load()
	if pooler { // what one call spoils, several may meet
		bound += tampered.Load()
	}
	require.LessOrEqual(t, opened, bound, "no connection was lost to an SQL error or a panic")
	for _, id := range ids {
		var seen []tenant.ID
		var err error
		// The pooler may have what the last calls spoilt still to lend.
		for range 100 {
			var rows pgx.Rows
			if rows, err = db.Query(as(t.Context(), id), owners); err == nil {
				seen, err = pgx.CollectRows(rows, pgx.RowTo[tenant.ID])
			}
			if !errors.Is(err, tenancy.ErrTampered) {
				break
			}
		}
		require.NoError(t, err)
		require.Equal(t, []tenant.ID{id}, seen)
	}
	require.Eventually(t, func() bool { return db.Stat().AcquiredConns() == 0 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return db.DatabaseStats().InUse == 0 }, 10*time.Second, time.Millisecond)
}
