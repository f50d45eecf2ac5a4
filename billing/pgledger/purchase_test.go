package pgledger_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// purchase hears of a payment of 100 units, of which so many were paid back by
// then.
func (b *bench) purchase(t testing.TB, id tenant.ID, refunded int64) {
	t.Helper()
	_, err := b.Save(t.Context(), b.clock.Now(), billing.Notice{ID: "evt_1", Type: "checkout.session.completed"}, billing.Change{
		Tenant: id, Customer: "cus_" + id.String(),
		Purchase: &billing.Purchase{ID: "cs_1", Pack: "pack-100", Units: 100, Refunded: refunded, At: start, ExpiresAt: start.AddDate(1, 0, 0)},
	})
	require.NoError(t, err)
}

// movements are the entries of all grants, in their order.
func (b *bench) movements(t testing.TB) string {
	t.Helper()
	return b.text(t, `select coalesce(string_agg(concat_ws(' ', debit, credit, units, reason), ', ' order by id), '') from mcpsaas.billing_grant_entries`)
}

// TestPurchaseOnce: what was heard of a payment, in whatever order, how often and
// by how many at once, ends in one grant from which as much was taken as was paid
// back in the end. What was used by then stays used.
//
// Mutations seen by it: refunds added up, no grant made by a refund that is heard
// first.
func TestPurchaseOnce(t *testing.T) {
	t.Parallel()
	heard := []int64{0, 30, 100}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := tenant.NewID()
			b.subscribe(t, id, billing.ModeMeter)
			most := int64(0)
			for _, n := range order {
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() { b.purchase(t, id, heard[n]) })
				}
				wg.Wait()
				most = max(most, heard[n])
				require.Equal(t, map[string]int64{"cs_1": 100 - most}, b.remaining(t, id))
				b.balanced(t)
			}
			grants, err := b.Grants(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, pgledger.GrantPrepaid, grants[0].Kind)
			require.Equal(t, start, grants[0].StartsAt)
			require.Equal(t, start.AddDate(1, 0, 0), grants[0].ExpiresAt)
			require.Equal(t, "worker pack pack-100", grants[0].Actor+" "+grants[0].Reason)
			b.append(t, b.event(id, 5))
			b.seal(t, id)
			require.Equal(t, "5 0", b.text(t, `select quantity || ' ' || granted from mcpsaas.usage_batches`), "nothing is left that could pay")
		})
	}
}

// TestPurchaseUsedUp: a refund takes what is left, and what of the used part turns
// out not to have been owed, up to what was paid back.
//
// Mutations seen by it: nothing taken from what a void returns, what was taken back
// forgotten when less is heard.
func TestPurchaseUsedUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	b.subscribe(t, id, billing.ModeMeter)
	b.purchase(t, id, 0)
	b.append(t, b.event(id, 80))
	b.seal(t, id)
	require.Equal(t, map[string]int64{"cs_1": 20}, b.remaining(t, id))
	for _, refunded := range []int64{60, 60, 10} { // the last is old news
		b.purchase(t, id, refunded)
		require.Equal(t, map[string]int64{"cs_1": 0}, b.remaining(t, id))
	}
	_, err := b.pool.Exec(t.Context(), `update mcpsaas.usage_batches set state = 'voided'`)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"cs_1": 40}, b.remaining(t, id), "60 of 100 were paid back")
	require.Regexp(t, `^issued available 100 pack pack-100, available burned 80 , available revoked 20 paid back, `+
		`burned available 80 batch \S+ was voided, available revoked 40 it was taken back before$`, b.movements(t))
	b.balanced(t)
	b.clock.Advance(time.Minute)
	b.purchase(t, id, 100)
	require.Equal(t, map[string]int64{"cs_1": 0}, b.remaining(t, id))
	b.balanced(t)
}

// TestPurchaseRefused: what is no purchase is an error, and leaves nothing.
func TestPurchaseRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	for _, p := range []billing.Purchase{
		{ID: "cs_1", Units: 0},
		{ID: "cs_1", Units: 1, At: start, ExpiresAt: start},
		{ID: "cs_\x00", Units: 1},
	} {
		_, err := b.Save(t.Context(), b.clock.Now(), billing.Notice{}, billing.Change{Tenant: id, Customer: "cus_1", Purchase: &p})
		require.Error(t, err, "%+v", p)
	}
	require.Empty(t, b.movements(t))
	require.Equal(t, "0", b.text(t, `select count(*)::text from mcpsaas.billing_accounts`), "one transaction")
}
