package pgledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// grant gives the tenant units and returns the grant.
func (b *bench) grant(t testing.TB, g pgledger.Grant) pgledger.Grant {
	t.Helper()
	g.Actor = "ada"
	g, _, err := b.AddGrant(t.Context(), g)
	require.NoError(t, err)
	return g
}

// remaining returns what is left of the tenant's grants, by reference.
func (b *bench) remaining(t testing.TB, id tenant.ID) map[string]int64 {
	t.Helper()
	grants, err := b.Grants(t.Context(), id)
	require.NoError(t, err)
	left := map[string]int64{}
	for _, g := range grants {
		left[g.Reference] = g.Remaining
	}
	return left
}

// seal seals a tenant's usage by the caps of a meter.
func (b *bench) seal(t testing.TB, id tenant.ID) {
	t.Helper()
	_, err := b.Seal(t.Context(), id, b.clock.Now(), billingtest.NewProvider(billing.ModeMeter, b.clock.Now).Caps)
	require.NoError(t, err)
}

// TestGrants: grants are used by priority, then by expiry, for the usage of their
// time alone; the rest is billed, and a batch of which nothing is left is never
// sent.
//
// Mutations seen by it: a grant burned twice (remaining left as it is), every
// grant taken for valid at the end of the last one, what grants paid billed too.
func TestGrants(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	sub := b.subscribe(t, id, billing.ModeMeter)
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	w := b.worker(t, provider)
	billed := func() int64 { return provider.Total(sub.Targets[0], sub.PeriodStart, sub.PeriodEnd) }

	b.grant(t, pgledger.Grant{Tenant: id, Kind: pgledger.GrantPrepaid, Units: 100, Priority: 20, Reference: "prepaid"})
	b.grant(t, pgledger.Grant{Tenant: id, Units: 30, Priority: 10, ExpiresAt: b.clock.Now().Add(time.Hour), Reference: "soon"})
	b.grant(t, pgledger.Grant{Tenant: id, Units: 30, Priority: 10, ExpiresAt: b.clock.Now().Add(2 * time.Hour), Reference: "later"})
	b.grant(t, pgledger.Grant{Tenant: id, Units: 5, Priority: 1, StartsAt: b.clock.Now().Add(30 * time.Minute), Reference: "to come"})

	b.append(t, b.event(id, 20))
	require.NoError(t, w.Tick(t.Context()))
	require.Equal(t, map[string]int64{"prepaid": 100, "soon": 10, "later": 30, "to come": 5}, b.remaining(t, id))
	require.Zero(t, billed())
	require.Equal(t, "confirmed 0 20 grants cover all of it", b.text(t, `select concat_ws(' ', state, quantity, granted, reason) from mcpsaas.usage_batches`))
	require.Zero(t, provider.Calls())

	b.clock.Advance(59 * time.Minute)
	late := b.event(id, 10) // occurred before one expires, is stored after
	b.clock.Advance(2 * time.Minute)
	b.append(t, late, b.event(id, 40))
	require.NoError(t, w.Tick(t.Context()))
	require.Equal(t, map[string]int64{"prepaid": 90, "soon": 5, "later": 0, "to come": 0}, b.remaining(t, id))
	require.Zero(t, billed())

	b.clock.Advance(time.Hour)
	b.append(t, b.event(id, 195))
	require.NoError(t, w.Tick(t.Context()))
	require.Equal(t, map[string]int64{"prepaid": 0, "soon": 5, "later": 0, "to come": 0}, b.remaining(t, id))
	require.EqualValues(t, 105, billed())
	require.NoError(t, w.Check(t.Context()))
	b.balanced(t)
}

// TestGrantOnce: a grant is given once for each reference, revoked once, and
// nobody can be given nothing.
func TestGrantOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	first, added, err := b.AddGrant(t.Context(), pgledger.Grant{Tenant: id, Units: 7, Reference: "in_1", Actor: "ada"})
	require.NoError(t, err)
	require.True(t, added)
	require.Equal(t, pgledger.GrantFree, first.Kind)
	again, added, err := b.AddGrant(t.Context(), pgledger.Grant{Tenant: id, Units: 9, Reference: "in_1", Actor: "bob"})
	require.NoError(t, err)
	require.False(t, added)
	require.Equal(t, first, again)
	for range 2 {
		_, err = b.RevokeGrant(t.Context(), first.ID, "ada", "a mistake")
		require.NoError(t, err)
	}
	require.Equal(t, map[string]int64{"in_1": 0}, b.remaining(t, id))
	require.Equal(t, "issued available 7 ada, available revoked 7 ada", b.text(t,
		`select string_agg(concat_ws(' ', debit, credit, units, actor), ', ' order by id) from mcpsaas.billing_grant_entries`))
	_, err = b.RevokeGrant(t.Context(), tenant.NewID(), "ada", "")
	require.ErrorIs(t, err, pgledger.ErrNotFound)
	for _, bad := range []pgledger.Grant{
		{Units: 1, Actor: "ada"},
		{Tenant: id, Actor: "ada"},
		{Tenant: id, Units: -1, Actor: "ada"},
		{Tenant: id, Units: 1 << 60, Actor: "ada"},
		{Tenant: id, Units: 1},
		{Tenant: id, Units: 1, Actor: "ada", Kind: "gift"},
		{Tenant: id, Units: 1, Actor: "ada", ExpiresAt: start.Add(-time.Hour)},
		{Tenant: id, Units: 1, Actor: "ada", Reason: "\x00"},
	} {
		_, _, err := b.AddGrant(t.Context(), bad)
		require.Error(t, err, "%+v", bad)
	}
	_, err = b.pool.Exec(t.Context(), `delete from mcpsaas.billing_grant_entries`)
	require.ErrorContains(t, err, "append only")
	b.balanced(t)
}

// TestGrantsThroughTrouble: what a grant has paid stays paid when the rest is
// rejected and sent again, or billed with the next period; and returns, once, when
// it is taken back.
func TestGrantsThroughTrouble(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	sub := b.subscribe(t, id, billing.ModeMeter, billing.ModeUsageRecord)
	b.grant(t, pgledger.Grant{Tenant: id, Units: 30, Reference: "free", ExpiresAt: sub.PeriodEnd})
	b.append(t, b.event(id, 50))
	b.seal(t, id)
	require.Equal(t, "20 30, 20 30", b.text(t, `select string_agg(quantity || ' ' || granted, ', ') from mcpsaas.usage_batches`), "both targets get the rest")
	require.Equal(t, map[string]int64{"free": 0}, b.remaining(t, id))
	_, err := b.pool.Exec(t.Context(), `update mcpsaas.usage_batches set state = 'rejected'`)
	require.NoError(t, err)
	var batch string
	require.NoError(t, b.pool.QueryRow(t.Context(), `select id::text from mcpsaas.usage_batches limit 1`).Scan(&batch))
	require.NoError(t, b.Requeue(t.Context(), batch, "ada", "mended"))
	b.seal(t, id)
	require.Equal(t, map[string]int64{"free": 0}, b.remaining(t, id))
	for range 2 {
		_, err = b.pool.Exec(t.Context(), `update mcpsaas.usage_batches set state = 'voided'`)
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"free": 30}, b.remaining(t, id))
	}
	b.balanced(t)

	// Usage of a period that is closed at the provider is billed with the next,
	// but the grant of its own time pays for it.
	missed := b.event(id, 40)
	b.clock.Advance(32 * 24 * time.Hour)
	sub.PeriodStart, sub.PeriodEnd = sub.PeriodEnd, sub.PeriodEnd.AddDate(0, 1, 0)
	b.save(t, id, sub)
	b.append(t, missed)
	b.seal(t, id)
	require.Equal(t, map[string]int64{"free": 0}, b.remaining(t, id))
	require.Equal(t, "10 30 late", b.text(t, `select concat_ws(' ', quantity, granted, mark)
		from mcpsaas.usage_batches b join mcpsaas.usage_events e on e.batch_id = b.id where b.state = 'sealed'`))
	b.balanced(t)
}

// TestGrantsBalance: whatever grants, usage, seals, voids, revocations, purchases
// and refunds come at once and in whatever order, every account balances, no unit is paid twice, and
// none is billed that a grant of its time could have paid.
//
// Mutations seen by it: those of TestGrants, an entry over more than remaining is
// lowered by, and what is not sealed yet taken for left.
func TestGrantsBalance(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		id := tenant.NewID()
		b.subscribe(t, id, billing.ModeMeter)
		for n := range 60 {
			switch rnd.IntN(7) {
			case 0:
				g := pgledger.Grant{Tenant: id, Units: 1 + rnd.Int64N(50), Priority: rnd.IntN(3), Reference: fmt.Sprint(n),
					StartsAt: b.clock.Now().Add(time.Duration(rnd.IntN(60)-30) * time.Minute)}
				if rnd.IntN(2) == 0 {
					g.ExpiresAt = g.StartsAt.Add(time.Duration(1+rnd.IntN(90)) * time.Minute)
				}
				b.grant(t, g)
			case 1, 2, 3:
				var events []usage.Event
				for range 1 + rnd.IntN(5) {
					e := b.event(id, 1+rnd.Int64N(20))
					e.Time = e.Time.Add(-time.Duration(rnd.IntN(60)) * time.Minute)
					events = append(events, e)
				}
				b.append(t, events...)
			case 4:
				if rnd.IntN(3) > 0 {
					left, err := b.GrantsLeft(t.Context(), id)
					require.NoError(t, err)
					b.sealTwice(t, id)
					sealed, err := b.GrantsLeft(t.Context(), id)
					require.NoError(t, err)
					require.Equal(t, sealed, left, "what is left is known before it is sealed")
					require.Equal(t, "0", b.text(t, `
						select count(*)::text from mcpsaas.usage_batches b
						join mcpsaas.usage_events e on e.batch_id = b.events_in
						join mcpsaas.billing_grants g on g.tenant_id = b.tenant_id and g.remaining > 0
							and e.occurred_at >= g.starts_at and (g.expires_at is null or e.occurred_at < g.expires_at)
						where b.tenant_id = $1 and b.sealed_at = $2 and g.created_at < $2 and b.granted < (
							select sum(units) from mcpsaas.usage_events o where o.batch_id = b.events_in
								and o.occurred_at >= g.starts_at and (g.expires_at is null or o.occurred_at < g.expires_at))`,
						id, b.clock.Now()), "a grant could have paid more")
				} else if grants, err := b.Grants(t.Context(), id); err == nil && len(grants) > 0 {
					_, err := b.RevokeGrant(t.Context(), grants[rnd.IntN(len(grants))].ID, "ada", "")
					require.NoError(t, err)
				}
			case 5:
				_, err := b.pool.Exec(t.Context(), `update mcpsaas.usage_batches set state = 'voided' where id = (
					select id from mcpsaas.usage_batches where tenant_id = $1 and state = 'sealed' limit 1)`, id)
				require.NoError(t, err)
			case 6:
				b.purchase(t, id, rnd.Int64N(101))
			}
			b.clock.Advance(time.Duration(1+rnd.IntN(600)) * time.Second)
		}
		b.sealTwice(t, id)
		b.balanced(t)
	}
}

// sealTwice seals from two processes at once.
func (b *bench) sealTwice(t *testing.T, id tenant.ID) {
	t.Helper()
	now, caps := b.clock.Now(), billingtest.NewProvider(billing.ModeMeter, b.clock.Now).Caps
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := b.Seal(context.WithoutCancel(t.Context()), id, now, caps)
			done <- err
		}()
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

// balanced checks the books of all grants against each other and against the
// batches.
func (b *bench) balanced(t testing.TB) {
	t.Helper()
	for what, sql := range map[string]string{
		"a grant is what its entries add up to": `
			select count(*) from mcpsaas.billing_grants g where (g.units, g.remaining, g.units) <> (
				select coalesce(sum(units) filter (where debit = 'issued'), -1),
					sum(case when credit = 'available' then units else -units end),
					sum(case when credit = 'available' then units else -units end)
					+ sum(case when credit in ('burned', 'revoked') then units when debit = 'burned' then -units else 0 end)
				from mcpsaas.billing_grant_entries e where e.grant_id = g.id)`,
		"what was issued is somewhere, and nothing else is": `
			select abs(coalesce(sum(case when debit = 'issued' then units else 0 end), 0)
				- (select coalesce(sum(remaining), 0) from mcpsaas.billing_grants)
				- coalesce(sum(case when credit = 'burned' then units when debit = 'burned' then -units else 0 end), 0)
				- coalesce(sum(case when credit = 'revoked' then units else 0 end), 0))::bigint
			from mcpsaas.billing_grant_entries`,
		"a batch is what its events add up to, less what grants paid": `
			select count(*) from mcpsaas.usage_batches b where b.quantity + b.granted <> (
				select sum(units) from mcpsaas.usage_events e where e.batch_id = b.events_in)`,
		"what a batch says that grants paid was burned for it, or returned": `
			select count(*) from mcpsaas.usage_batches b where b.state <> 'moved' and (b.granted, case when b.state = 'voided' then 0 else b.granted end) <> (
				select coalesce(sum(units) filter (where credit = 'burned'), 0)::bigint,
					coalesce(sum(case when credit = 'burned' then units else -units end), 0)::bigint
				from mcpsaas.billing_grant_entries e where e.events_in = b.events_in)`,
		"what was taken back is gone as far as it is there": `
			select count(*) from mcpsaas.billing_grants g where remaining > 0 and taken_back <> (
				select coalesce(sum(units), 0) from mcpsaas.billing_grant_entries e where e.grant_id = g.id and credit = 'revoked')`,
		"no grant pays for another tenant": `
			select count(*) from mcpsaas.billing_grant_entries e join mcpsaas.billing_grants g on g.id = e.grant_id
			join mcpsaas.usage_batches b on b.id = e.events_in where b.tenant_id <> g.tenant_id`,
	} {
		require.Equal(t, "0", b.text(t, `select (`+sql+`)::text`), what)
	}
}
