package stripebill_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// packCatalog sells a thousand units for 80.00 beside the plans.
func packCatalog() stripebill.Catalog {
	cat := lifeCatalog
	cat.Packs = []stripebill.CatalogPack{{Pack: "units-1000", Name: "1,000 units", Amount: 8000, Units: 1000, Days: 365}}
	return cat
}

func packRequest(id tenant.ID, customer string) stripebill.CheckoutRequest {
	r := request(id, "", customer)
	r.Pack = "units-1000"
	return r
}

// openPack opens a checkout for a thousand units.
func (w world) openPack(t *testing.T, id tenant.ID, customer string) stripebill.Checkout {
	t.Helper()
	_, err := w.client.EnsureCatalog(t.Context(), packCatalog())
	require.NoError(t, err)
	open, err := w.client.CreateCheckout(t.Context(), packRequest(id, customer))
	require.NoError(t, err)
	require.Equal(t, "units-1000", open.Pack)
	require.False(t, open.Paid())
	return open
}

// charge is that of a session's payment.
func (w world) charge(t *testing.T, session string) string {
	t.Helper()
	intent := w.rawObject(t, http.MethodGet, "/v1/checkout/sessions/"+session, "")["payment_intent"].(string)
	return w.rawObject(t, http.MethodGet, "/v1/charges?payment_intent="+intent, "")["data"].([]any)[0].(map[string]any)["id"].(string)
}

func (w world) refund(t *testing.T, session string, cents int) {
	t.Helper()
	w.rawObject(t, http.MethodPost, "/v1/refunds", fmt.Sprintf("charge=%s&amount=%d", w.charge(t, session), cents))
}

// TestCatalogPacks: a pack has a product and a price of its own, which is replaced
// when what is in it changes; one that was being bought stays what it was.
//
// Mutation seen by it: the units left out of the comparison.
func TestCatalogPacks(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	cat := packCatalog()
	changes, err := w.client.EnsureCatalog(t.Context(), cat)
	require.NoError(t, err)
	require.Contains(t, changes, stripebill.CatalogChange{Action: "create", Kind: "price", Key: "mcpsaas:units-1000:pack"})
	require.Contains(t, changes, stripebill.CatalogChange{Action: "create", Kind: "product", Key: "mcpsaas_units-1000"})
	changes, err = w.client.EnsureCatalog(t.Context(), cat)
	require.NoError(t, err)
	require.Empty(t, changes)

	id := tenant.NewID()
	open := w.openPack(t, id, "")
	cat.Packs = []stripebill.CatalogPack{{Pack: "units-1000", Name: "1,000 units", Amount: 8000, Units: 1200}}
	changes, err = w.client.EnsureCatalog(t.Context(), cat)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	require.Equal(t, `replace price mcpsaas:units-1000:pack: units is "1000", want "1200", days is "365", want "0"`, changes[0].String())
	later, err := w.client.CreateCheckout(t.Context(), packRequest(id, ""))
	require.NoError(t, err)
	for _, sold := range []struct {
		session   string
		units     int64
		expiresAt time.Time
	}{{open.ID, 1000, start.AddDate(0, 0, 365)}, {later.ID, 1200, time.Time{}}} {
		require.Equal(t, billing.Change{}, w.fetch(t, "checkout.session.completed", sold.session), "not paid yet")
		require.NoError(t, w.stripe.Pay(sold.session))
		change := w.fetch(t, "checkout.session.completed", sold.session)
		require.Equal(t, billing.Change{
			Tenant: id, Email: "ada@example.com",
			Purchase: &billing.Purchase{ID: sold.session, Pack: "units-1000", Units: sold.units, At: start, ExpiresAt: sold.expiresAt},
		}, change)
	}

	for want, spoil := range map[string]stripebill.CatalogPack{
		"named twice":  {Pack: "pro", Amount: 1, Units: 1},
		`pack "a:b"`:   {Pack: "a:b", Amount: 1, Units: 1},
		"Amount -1":    {Pack: "a", Amount: -1, Units: 1},
		"Units 0":      {Pack: "a", Amount: 1},
		"Days -1":      {Pack: "a", Amount: 1, Units: 1, Days: -1},
		"Units 900719": {Pack: "a", Amount: 1, Units: 1 << 53 * 10},
	} {
		cat.Packs = []stripebill.CatalogPack{spoil}
		_, err := w.client.EnsureCatalog(t.Context(), cat)
		require.ErrorContains(t, err, want)
	}
	r := packRequest(id, "")
	r.Plan = "pro"
	_, err = w.client.CreateCheckout(t.Context(), r)
	require.ErrorContains(t, err, "Plan, Pack")
	r.Plan, r.Pack = "", "pro"
	_, err = w.client.CreateCheckout(t.Context(), r)
	require.ErrorIs(t, err, stripebill.ErrNotFound)
}

// TestPackRefunded: the same change whichever notice it is fetched for; units are
// paid back in proportion, rounded in favour of who bought them.
func TestPackRefunded(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	id := tenant.NewID()
	open := w.openPack(t, id, "")
	require.NoError(t, w.stripe.Pay(open.ID))
	charge := w.charge(t, open.ID)
	paidBack := 0
	for _, step := range []struct {
		cents int
		units int64
	}{{0, 0}, {7, 0}, {1993, 250}, {5999, 999}, {1, 1000}} {
		if step.cents > 0 {
			w.refund(t, open.ID, step.cents)
		}
		paidBack += step.cents
		change := w.fetch(t, "checkout.session.completed", open.ID)
		require.Equal(t, step.units, change.Purchase.Refunded, "%d cents of 8000", paidBack)
		require.Equal(t, change, w.fetch(t, "charge.refunded", charge))
		require.Equal(t, change, w.fetch(t, "v1.charge.refunded", charge))
	}
}

// TestPackOfStrangers: what else an account sells, and refunds, gives nothing.
func TestPackOfStrangers(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	id := tenant.NewID()
	price := w.rawObject(t, http.MethodPost, "/v1/prices", "currency=usd&unit_amount=8000&product_data[name]=Mug")["id"].(string)
	sell := func(metadata string) string {
		session := w.rawObject(t, http.MethodPost, "/v1/checkout/sessions",
			"mode=payment&success_url=https://x.example&line_items[0][price]="+price+"&metadata[tenant_id]="+id.String()+metadata)["id"].(string)
		require.NoError(t, w.stripe.Pay(session))
		return session
	}
	const pack = "&metadata[kind]=pack&metadata[pack]=mug"
	for _, metadata := range []string{"", pack + "&metadata[units]=5&metadata[days]=0", pack + "&metadata[namespace]=other&metadata[units]=5&metadata[days]=0"} {
		session := sell(metadata)
		w.refund(t, session, 10)
		require.Equal(t, billing.Change{}, w.fetch(t, "checkout.session.completed", session))
		require.Equal(t, billing.Change{}, w.fetch(t, "charge.refunded", w.charge(t, session)))
	}
	for _, metadata := range []string{"", "&metadata[units]=0", "&metadata[units]=5", "&metadata[units]=99999999999999999&metadata[days]=0", "&metadata[units]=5&metadata[days]=-1"} {
		session := sell(pack + "&metadata[namespace]=mcpsaas" + metadata)
		_, err := w.source.Fetch(t.Context(), billing.Notice{Type: "checkout.session.completed", ObjectID: session})
		require.ErrorIs(t, err, stripebill.ErrAmbiguous, metadata)
		_, permanent := errors.AsType[*billing.PermanentError](err)
		require.True(t, permanent)
	}
	_, err := w.source.Fetch(t.Context(), billing.Notice{Type: "charge.refunded", ObjectID: "ch_/../customers"})
	require.ErrorIs(t, err, stripebill.ErrNotFound)
}

// grantSQL is what a purchase leads to.
const grantSQL = `
select concat_ws(' ', count(*), min(g.kind), sum(g.units), sum(g.remaining), sum((select count(*) from mcpsaas.billing_grant_entries e where e.grant_id = g.id and debit = 'issued')))
from mcpsaas.billing_grants g`

// TestPackOrders delivers what tells of a bank debit that came, and of two refunds,
// in each of the 24 orders, each twice, to real PostgreSQL: one grant, of which
// a quarter is left. Before the refunds it is told of the payment in half of the orders.
//
// Mutations seen by it: a reference of its own for each grant, refunds not read.
func TestPackOrders(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.stripe.HoldWebhooks()
	orders := permutations(4)
	require.Len(t, orders, 24)
	for i, order := range orders {
		id, paid := s.buy(t, "starter")
		open := s.openPack(t, id, paid.Customer)
		require.NoError(t, s.stripe.PayLater(open.ID))
		require.NoError(t, s.stripe.Settle(open.ID, true))
		if i%2 > 0 {
			require.NoError(t, s.inbox.Drain(t.Context()))
			early, err := s.source.Fetch(t.Context(), billing.Notice{Type: "checkout.session.completed", ObjectID: open.ID})
			require.NoError(t, err)
			_, err = s.ledger.Save(t.Context(), start, billing.Notice{}, early)
			require.NoError(t, err)
		}
		s.refund(t, open.ID, 2000)
		s.refund(t, open.ID, 4000)
		all := s.stripe.Events()
		var events []stripetest.Event
		for _, want := range []string{"checkout.session.completed", "checkout.session.async_payment_succeeded", "charge.refunded", "charge.refunded"} {
			n := -1
			for j, e := range all {
				if e.Type == want && !slices.ContainsFunc(events, func(o stripetest.Event) bool { return o.ID == e.ID }) &&
					(want != "charge.refunded" || e.ObjectID == s.charge(t, open.ID)) && (e.ObjectID == open.ID || want == "charge.refunded") {
					n = j
				}
			}
			require.GreaterOrEqual(t, n, 0, want)
			events = append(events, all[n])
		}
		for range 2 {
			for _, n := range order {
				require.Equal(t, http.StatusOK, s.webhook(events[n].Payload, s.stripe.WebhookSecret, start))
				require.NoError(t, s.inbox.Drain(t.Context()))
			}
		}
		require.Equal(t, "1 prepaid 1000 250 1", s.text(t, grantSQL+` where tenant_id = $1`, id), "%v", order)
	}
}

// TestPackDebitFailed: a bank debit that fails gives nothing.
//
// Mutation seen by it: a session that is complete taken for paid.
func TestPackDebitFailed(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	id, paid := s.buy(t, "starter")
	open := s.openPack(t, id, paid.Customer)
	require.NoError(t, s.stripe.PayLater(open.ID))
	s.settle(t)
	require.NoError(t, s.stripe.Settle(open.ID, false))
	s.settle(t)
	require.Equal(t, "0", s.text(t, `select count(*)::text from mcpsaas.billing_grants`))
	require.Equal(t, "0", s.text(t, `select count(*)::text from mcpsaas.billing_notices where state not in ('applied', 'ignored')`))
}

// TestPackLost: webhooks that never came are asked for, the payment's and the
// refund's, of any layout.
//
// Mutations seen by it: charge.refunded not asked for, or nothing made of it.
func TestPackLost(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2023-10-16", "2026-10-28.endive"} {
		for _, thin := range []bool{false, true} {
			t.Run(fmt.Sprint(version, " thin ", thin), func(t *testing.T) {
				t.Parallel()
				s := openShop(t, &stripetest.Options{APIVersion: version, ThinWebhooks: thin})
				id, paid := s.buy(t, "starter")
				open := s.openPack(t, id, paid.Customer)
				s.settle(t)
				s.stripe.DisturbWebhooks(func(stripetest.Event) stripetest.Fate { return stripetest.Lost })
				pull := func(want string) {
					t.Helper()
					s.settle(t)
					s.stripe.Advance(15 * time.Minute)
					_, err := s.inbox.Pull(t.Context())
					require.NoError(t, err)
					require.NoError(t, s.inbox.Drain(t.Context()))
					require.Equal(t, want, s.text(t, grantSQL))
				}
				require.NoError(t, s.stripe.Pay(open.ID))
				pull("1 prepaid 1000 1000 1")
				s.refund(t, open.ID, 4000)
				pull("1 prepaid 1000 500 1")
				s.stripe.DisturbWebhooks(nil)
				s.refund(t, open.ID, 4000)
				s.settle(t)
				require.Equal(t, "1 prepaid 1000 0 1", s.text(t, grantSQL))
			})
		}
	}
}

// TestPackCrash: a process that dies while it works on the payment, before the grant is
// stored, after it, or with an application that fails, leaves one grant, made by
// whoever takes over.
//
// Mutation seen by it: a reference of its own for each grant.
func TestPackCrash(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprint("stored ", after), func(t *testing.T) {
			t.Parallel()
			s := openShop(t, nil)
			id, paid := s.buy(t, "starter")
			s.settle(t)
			open := s.openPack(t, id, paid.Customer)
			require.NoError(t, s.stripe.Pay(open.ID))
			require.Eventually(t, func() bool { return len(s.stripe.Undelivered()) == 0 }, time.Minute, time.Millisecond)
			require.Equal(t, "0", s.text(t, `select count(*)::text from mcpsaas.billing_grants`))

			// Dead with the notice in its hands.
			for {
				claim, err := s.ledger.NextNotice(t.Context(), s.stripe.Now(), time.Minute)
				require.NoError(t, err)
				require.NotNil(t, claim)
				if claim.ObjectID != open.ID {
					require.NoError(t, s.ledger.FinishNotice(t.Context(), *claim, s.stripe.Now(), billing.NoticeVerdict{State: billing.NoticeIgnored}))
					continue
				}
				change, err := s.source.Fetch(t.Context(), claim.Notice)
				require.NoError(t, err)
				if after {
					_, err = s.ledger.Save(t.Context(), s.stripe.Now(), claim.Notice, change)
					require.NoError(t, err)
				}
				break
			}
			require.NoError(t, s.inbox.Drain(t.Context()))
			require.Equal(t, after, s.text(t, `select count(*)::text from mcpsaas.billing_grants`) == "1", "it is leased")
			s.stripe.Advance(2 * time.Minute)

			// Taken over by one whose application fails.
			broken, err := billing.NewInboxWorker(s.ledger, s.source, billing.SubscriberFunc(func(context.Context, billing.Change) error {
				panic("not today")
			}), &billing.InboxOptions{Now: s.stripe.Now, Logger: devtest.Logger(t)})
			require.NoError(t, err)
			require.NoError(t, broken.Drain(t.Context()))
			s.stripe.Advance(time.Minute)
			require.NoError(t, s.inbox.Drain(t.Context()))
			require.Equal(t, "1 prepaid 1000 1000 1", s.text(t, grantSQL))
			require.Equal(t, "applied 3", s.text(t, `select state || ' ' || tries from mcpsaas.billing_notices where object_id = $1`, open.ID))
		})
	}
}
