package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestBillingCommands: an operator finds out what an invoice line is made of, and
// sets right what workers leave to people, beside a server that runs.
func TestBillingCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	id := pro.ID.String()
	command := func(out any, args ...string) {
		t.Helper()
		text, err := w.command(append(args, "-json")...)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal([]byte(text), out), text)
	}
	decide := func(args ...string) []string { return append(args, "-actor", "ann", "-reason", "ticket 7") }
	report := func() {
		t.Helper()
		a, err := post(t.Context(), r.MCPURL, pro.APIKey, "", "1", "generate_report", nil)
		require.NoError(t, err)
		require.False(t, a.isErr, a.text)
	}

	// Each unit of the period, down to its event.
	report()
	w.billed(t, pro.StripeCustomer, 20)
	var all []explained
	command(&all, "billing", "explain", id, "-events")
	require.Len(t, all, 1)
	require.True(t, all[0].Agrees)
	require.Equal(t, pgledger.Units{Produced: 20, Billed: 20}, all[0].Units)
	require.Len(t, all[0].Batches, 1)
	batch := all[0].Batches[0]
	require.Len(t, batch.EventIDs, 1)
	for _, about := range []string{batch.ID, batch.EventIDs[0]} {
		var one []explained
		command(&one, "billing", "explain", about)
		require.Len(t, one, 1)
		require.Len(t, one[0].Batches, 1)
		require.Equal(t, batch.ID, one[0].Batches[0].ID)
		require.Equal(t, billing.StateConfirmed, one[0].Batches[0].Log[len(one[0].Batches[0].Log)-1].State)
	}
	text, err := w.command("billing", "explain", id)
	require.NoError(t, err)
	require.Contains(t, text, "20 units: 20 billed, 0 open")
	command(&all, "billing", "explain", id, "-at", "2020-01-01")
	require.Empty(t, all)
	_, err = w.command("billing", "explain", tenant.NewID().String())
	require.ErrorContains(t, err, "no batch, no event and no tenant")

	// Taken back, once.
	_, err = w.command("billing", "void", batch.ID)
	require.ErrorIs(t, err, errUsage)
	require.ErrorContains(t, err, "-actor and -reason")
	var outcomes []outcome
	for again := range 2 {
		command(&outcomes, decide("billing", "void", batch.ID)...)
		require.Equal(t, billing.StateVoided, outcomes[0].State)
		require.Equal(t, again == 0, outcomes[0].Changed)
		require.Zero(t, w.stripe.UsageTotal(pro.StripeCustomer, unitsMeter))
	}
	text, err = w.command(decide("billing", "write-off", batch.ID, "-json")...)
	require.ErrorContains(t, err, "it is voided")
	require.Contains(t, text, `"error"`)
	_, err = w.command(decide("billing", "move-to-period", tenant.NewID().String())...)
	require.ErrorIs(t, err, pgledger.ErrNotFound)

	// Refused, mended, sent again.
	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Refused, Method: "POST", Path: "/v1/billing/meter_events"})
	report()
	var rejected string
	eventually(t, "Stripe refuses a batch", func() bool {
		command(&all, "billing", "explain", id)
		for _, b := range all[0].Batches {
			if b.State == billing.StateRejected {
				rejected = b.ID
			}
		}
		return rejected != ""
	})
	command(&outcomes, decide("billing", "requeue", rejected)...)
	require.True(t, outcomes[0].Changed)
	eventually(t, "it is billed", func() bool { return w.stripe.UsageTotal(pro.StripeCustomer, unitsMeter) == 20 })

	// Left behind by a server that is no more.
	left := usage.Event{ID: tenant.NewID().String(), Tenant: pro.ID, Plan: tenant.Pro, Tool: "generate_report", Units: 7, Outcome: usage.OK, Time: time.Now().UTC()}
	line, err := json.Marshal(left)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "usage_events.jsonl")
	require.NoError(t, os.WriteFile(path, append(line, '\n'), 0o600))
	var b pgledger.Backfill
	command(&b, "billing", "backfill", path, "-dry-run")
	require.True(t, b.DryRun)
	require.Equal(t, 1, b.Added)
	require.EqualValues(t, 7, b.Billable)
	require.EqualValues(t, 20, w.stripe.UsageTotal(pro.StripeCustomer, unitsMeter))
	for again := range 2 {
		command(&b, decide("billing", "backfill", path)...)
		require.Equal(t, 1-again, b.Added)
		require.Equal(t, again, b.Known)
	}
	eventually(t, "it is billed", func() bool { return w.stripe.UsageTotal(pro.StripeCustomer, unitsMeter) == 27 })

	var drifts []billing.Drift
	command(&drifts, decide("billing", "reconcile", id)...)
	require.Empty(t, drifts)
	require.Positive(t, w.number(t, `select count(*) from mcpsaas.billing_operations where actor = 'ann' and reason = 'ticket 7' and verb in ('void', 'requeue', 'backfill', 'reconcile')
		having count(distinct verb) = 4`))
	_, err = w.command(decide("billing", "accept", "4711")...)
	require.ErrorIs(t, err, pgledger.ErrNotFound)

	// The line of an invoice, when the billing period has ended.
	w.stripe.Advance(32 * 24 * time.Hour)
	eventually(t, "an invoice has a line with the usage", func() bool {
		command(&all, "billing", "explain", w.lastInvoice(t, pro.StripeCustomer), "-events")
		return len(all) == 1 && all[0].Line.Quantity == 27
	})
	require.Equal(t, pgledger.Units{Produced: 47, Billed: 27, Voided: 20}, all[0].Units)
	require.True(t, all[0].Agrees)
	require.Equal(t, pro.ID, all[0].Target.Tenant)
	_, err = w.command("billing", "explain", "in_nothing")
	require.Error(t, err)
	for _, c := range commands() {
		if strings.HasPrefix(c.name, "billing ") && c.name != "billing status" && c.name != "billing notices" {
			_, err := w.command(strings.Fields(c.name)...)
			require.ErrorIs(t, err, errUsage, c.name)
		}
	}
}

// lastInvoice returns the id of the customer's latest invoice.
func (w *world) lastInvoice(t *testing.T, customer string) string {
	t.Helper()
	var page struct{ Data []struct{ ID string } }
	w.askStripe(t, http.MethodGet, "/v1/invoices?customer="+customer, nil, &page)
	require.NotEmpty(t, page.Data)
	return page.Data[0].ID
}
