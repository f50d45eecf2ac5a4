package stripebill_test

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/stretchr/testify/require"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

// permutations returns all orders of n things.
func permutations(n int) (all [][]int) {
	var build func(order []int)
	build = func(order []int) {
		if len(order) == n {
			all = append(all, slices.Clone(order))
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				build(append(order, i))
			}
		}
	}
	build(nil)
	return all
}

// endSQL is all that webhooks decide about, without what counts how often.
const endSQL = `
select concat_ws(e'\n',
	(select concat_ws(' ', id, plan, status, period_start, period_end) from mcpsaas.tenants),
	(select concat_ws(' ', customer, tenant_id, email) from mcpsaas.billing_accounts),
	(select concat_ws(' ', id, tenant_id, customer, status, plan, period_start, period_end, cancel_at_period_end,
		past_due_since, collection_paused, ended_at) from mcpsaas.billing_subscriptions),
	(select string_agg(concat_ws(' ', t.key, t.meter, p.period_start, p.period_end, p.since, p.until, p.live), e'\n' order by t.key, p.since)
		from mcpsaas.billing_periods p join mcpsaas.billing_targets t on t.id = p.target_id),
	(select string_agg(state || ' ' || n, ', ' order by state) from (
		select state, count(*) as n from mcpsaas.billing_notices where via <> 'schedule' group by 1) as s))`

// TestOrders delivers six events of a subscription's life in each of their 720
// orders, each event twice, to real PostgreSQL: the end is always the same, that
// of Stripe. Another life ends with a payment that came after all, in some of
// the orders (in all of them with SOAK).
//
// Mutations seen by it: the status taken from the payload instead of fetched
// (half of the orders end elsewhere), the notice's id not unique (the second
// delivery is a notice of its own).
func TestOrders(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]struct {
		types []string
		some  bool // some of the orders will do
		end   func(shop, *testing.T, string)
		want  string
	}{
		"recovered": {
			types: []string{"checkout.session.completed", "customer.subscription.created", "customer.subscription.updated",
				"invoice.payment_failed", "customer.subscription.updated", "invoice.paid"},
			some: true,
			end:  func(s shop, t *testing.T, customer string) { s.stripe.CollectOpen(customer) },
			want: "pro active",
		},
		"deleted": {
			types: []string{"checkout.session.completed", "customer.subscription.created", "customer.subscription.updated",
				"invoice.payment_failed", "customer.subscription.updated", "customer.subscription.deleted"},
			end: func(s shop, t *testing.T, _ string) {
				sub := s.rawObject(t, http.MethodGet, "/v1/subscriptions?limit=1&status=all", "")["data"].([]any)[0].(map[string]any)["id"].(string)
				s.rawObject(t, http.MethodDelete, "/v1/subscriptions/"+sub, "")
			},
			want: "pro deprovision_scheduled",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t, nil)
			s.stripe.HoldWebhooks()
			id, paid := s.buy(t, "starter")
			s.change(t, paid.Subscription, "starter", "pro")
			require.NoError(t, s.stripe.Decline(paid.Customer, true))
			s.stripe.Advance(28*24*time.Hour + 73*time.Hour) // no webhook is heard, so the draft waits for three days
			require.NoError(t, s.stripe.Decline(paid.Customer, false))
			life.end(s, t, paid.Customer)
			events := lifeOf(t, s.stripe, life.types)

			var mu sync.Mutex
			ends := map[string]int{}
			orders := permutations(len(events))
			require.Len(t, orders, 720)
			if life.some && !devtest.Soak() {
				orders = slices.DeleteFunc(orders, func(order []int) bool { return (order[0]+2*order[1]+3*order[2])%19 > 0 })
			}
			var wg sync.WaitGroup
			for half := range 2 {
				b := s.books
				if half > 0 {
					b = openBooks(t, s.source, []string{s.stripe.WebhookSecret}, s.stripe.Now, func() time.Time { return start })
				}
				wg.Go(func() {
					for i := half; i < len(orders); i += 2 {
						end := b.hear(t, events, orders[i], s.stripe.WebhookSecret)
						mu.Lock()
						ends[end]++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			require.Len(t, ends, 1, "one end, whatever the order")
			for end := range ends {
				require.True(t, strings.HasPrefix(end, id.String()+" "+life.want), end)
				require.True(t, strings.HasSuffix(end, "applied 6"), end)
			}
		})
	}
}

// lifeOf picks an event of each type, the last one of a type that is asked for
// once, else in their order.
func lifeOf(t *testing.T, stripe *stripetest.Server, types []string) (events []stripetest.Event) {
	t.Helper()
	all := stripe.Events()
	taken := map[string]bool{}
	for _, want := range types {
		if i := slices.IndexFunc(all, func(e stripetest.Event) bool { return e.Type == want && !taken[e.ID] }); i >= 0 {
			taken[all[i].ID] = true
			events = append(events, all[i])
		}
	}
	require.Len(t, events, len(types))
	return events
}

// hear delivers the events in one order, each at once and once more after the
// next, to books that know nothing, and returns how they end.
func (b *books) hear(t *testing.T, events []stripetest.Event, order []int, secret string) (end string) {
	for _, table := range []string{"billing_periods", "billing_targets", "billing_subscriptions", "billing_accounts", "billing_notices", "tenants"} {
		if _, err := b.pool.Exec(t.Context(), "delete from mcpsaas."+table); err != nil {
			t.Error(err)
		}
	}
	deliver := func(n int) {
		if code := b.webhook(events[n].Payload, secret, start); code != http.StatusOK {
			t.Errorf("answer %d", code)
		}
		if err := b.inbox.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for i, n := range order {
		deliver(n)
		deliver(order[max(i-1, 0)])
	}
	deliver(order[len(order)-1])
	if err := b.pool.QueryRow(t.Context(), endSQL).Scan(&end); err != nil {
		t.Error(err)
	}
	return end
}
