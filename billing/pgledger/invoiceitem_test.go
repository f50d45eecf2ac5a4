package pgledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// itemizing is a bench whose late usage becomes invoice items.
func itemizing(t *testing.T, item func(billing.Target) (billing.Target, bool)) *bench {
	t.Helper()
	b := setup(t)
	var err error
	b.Ledger, err = pgledger.New(b.pool, &pgledger.Options{
		Now: b.clock.Now, Late: map[tenant.Plan]billing.LatePolicy{tenant.Pro: billing.LateInvoiceItem}, InvoiceItem: item,
	})
	require.NoError(t, err)
	return b
}

// TestLateInvoiceItem: what a period takes no more, sealed in time or not, is
// charged for by itself, of its own period; it is explained with that, at risk of
// nothing, and taken back or moved on like anything else.
//
// Seen failing when the item's batch counts as at risk, and when Explain knows only
// targets with periods.
func TestLateInvoiceItem(t *testing.T) {
	t.Parallel()
	for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := itemizing(t, invoiceItem)
			id := tenant.NewID()
			s := b.subscribe(t, id, mode)
			first, end, to := s.PeriodStart, s.PeriodEnd, s.Targets[0]
			charged, _ := invoiceItem(to)
			provider := byMode{mode: billingtest.NewProvider(mode, b.clock.Now), billing.ModeInvoiceItem: billingtest.NewProvider(billing.ModeInvoiceItem, b.clock.Now)}
			items := provider[billing.ModeInvoiceItem]
			w := b.worker(t, provider)
			operator, err := billing.NewOperator(b.Ledger, w)
			require.NoError(t, err)
			ticks := func(n int) {
				for range n {
					require.NoError(t, w.Tick(t.Context()))
				}
			}
			b.clock.Advance(end.Add(-time.Minute).Sub(start))
			b.append(t, b.event(id, 5))
			late := b.event(id, 7)
			provider[mode].Fail(billingtest.Limited) // not in time
			ticks(1)
			b.clock.Advance(2 * time.Hour)
			s.PeriodStart, s.PeriodEnd = end, end.AddDate(0, 1, 0)
			b.save(t, id, s)
			b.append(t, late, b.event(id, 100))
			items.Fail(billingtest.DropAfter)
			ticks(2)
			require.Zero(t, b.stats(t, id).AtRisk, "an item that is on its way misses nothing")
			require.Equal(t, 1, b.stats(t, id).Unknown)
			b.clock.Advance(time.Minute)
			ticks(1)
			require.Zero(t, provider[mode].Total(to, first, end))
			require.EqualValues(t, 100, provider[mode].Total(to, end, s.PeriodEnd))
			require.EqualValues(t, 12, items.Total(charged, first, end))
			require.Zero(t, items.Total(charged, end, s.PeriodEnd))

			explained, err := b.Explain(t.Context(), pgledger.Question{Tenant: id, At: end.Add(-time.Minute)})
			require.NoError(t, err)
			require.Len(t, explained, 2)
			require.Equal(t, to, explained[0].Target)
			require.Equal(t, pgledger.Units{Produced: 12, Moved: 12}, explained[0].Units)
			require.Equal(t, charged, explained[1].Target)
			require.Equal(t, pgledger.Units{Produced: 12, Billed: 12}, explained[1].Units)
			for i, x := range explained[1].Batches {
				require.True(t, explained[1].Agrees)
				require.Equal(t, x.ID, explained[0].Batches[i].MovedTo)
				require.Contains(t, explained[0].Batches[i].Reason, x.ID)
			}

			// Months later, its invoice still a draft.
			b.clock.Advance(60 * 24 * time.Hour)
			void := explained[1].Batches[0]
			out, err := operator.Do(t.Context(), order(billing.VerbVoid, void.ID))
			require.NoError(t, err)
			require.Equal(t, billing.StateVoided, out.State)
			require.Equal(t, 12-void.Quantity, items.Total(charged, first, end))
		})
	}
}

// TestInvoiceItemRefused: an item that the provider refuses is for a person, who
// may have it billed with the present period.
//
// Seen failing when the operator's move looks for a period of invoice items.
func TestInvoiceItemRefused(t *testing.T) {
	t.Parallel()
	b := itemizing(t, invoiceItem)
	id := tenant.NewID()
	s := b.subscribe(t, id, billing.ModeMeter)
	end, to := s.PeriodEnd, s.Targets[0]
	provider := byMode{billing.ModeMeter: billingtest.NewProvider(billing.ModeMeter, b.clock.Now), billing.ModeInvoiceItem: billingtest.NewProvider(billing.ModeInvoiceItem, b.clock.Now)}
	provider[billing.ModeInvoiceItem].Fail(billingtest.Refused)
	w := b.worker(t, provider)
	operator, err := billing.NewOperator(b.Ledger, w)
	require.NoError(t, err)
	late := b.event(id, 7)
	b.clock.Advance(end.Add(2 * time.Hour).Sub(start))
	s.PeriodStart, s.PeriodEnd = end, end.AddDate(0, 1, 0)
	b.save(t, id, s)
	b.append(t, late)
	for range 2 {
		require.NoError(t, w.Tick(t.Context()))
	}
	batch := b.text(t, `select id::text from mcpsaas.usage_batches where state = 'rejected'`)
	out, err := operator.Do(t.Context(), order(billing.VerbMove, batch))
	require.NoError(t, err)
	require.Equal(t, billing.StateMoved, out.State)
	require.NoError(t, w.Tick(t.Context()))
	require.EqualValues(t, 7, provider[billing.ModeMeter].Total(to, end, s.PeriodEnd))
	require.Equal(t, "confirmed moved moved", b.text(t, `select string_agg(state, ' ' order by state) from mcpsaas.usage_batches`))
}

// TestNoInvoiceItem: a provider without invoice items bills with the next period,
// and a policy that nothing carries out is refused.
func TestNoInvoiceItem(t *testing.T) {
	t.Parallel()
	b := itemizing(t, func(billing.Target) (billing.Target, bool) { return billing.Target{}, false })
	id := tenant.NewID()
	s := b.subscribe(t, id, billing.ModeMeter)
	end := s.PeriodEnd
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	w := b.worker(t, provider)
	late := b.event(id, 7)
	b.clock.Advance(end.Add(2 * time.Hour).Sub(start))
	s.PeriodStart, s.PeriodEnd = end, end.AddDate(0, 1, 0)
	b.save(t, id, s)
	b.append(t, late)
	for range 2 {
		require.NoError(t, w.Tick(t.Context()))
	}
	require.EqualValues(t, 7, provider.Total(s.Targets[0], end, s.PeriodEnd))
	_, err := pgledger.New(b.pool, &pgledger.Options{Late: map[tenant.Plan]billing.LatePolicy{tenant.Pro: billing.LateInvoiceItem}})
	require.ErrorContains(t, err, `plan "pro" has the policy "invoice_item", which needs InvoiceItem`)
}
