package stripebill

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrAmbiguous is matched when an object at Stripe contradicts itself, so that
// acting on it would be a guess: two plans in one subscription, say.
var ErrAmbiguous = errors.New("stripebill: ambiguous")

// describe translates a subscription. One that grants nothing any more is
// described even without a plan, so that its end can always be applied.
func (s *Source) describe(ctx context.Context, t tenant.ID, sub subscription) (*billing.Subscription, error) {
	out := &billing.Subscription{
		ID:                sub.ID,
		Customer:          string(sub.Customer),
		Status:            billing.SubscriptionStatus(sub.Status),
		CancelAtPeriodEnd: sub.CancelAtPeriodEnd,
		CollectionPaused:  sub.PauseCollection != nil,
		EndedAt:           sub.EndedAt.time(),
	}
	ended := sub.ended()
	var flat subscriptionItem
	for _, item := range sub.Items.Data {
		plan, ok := s.planOf(item.Price)
		if !ok {
			continue
		}
		if out.Plan != "" && out.Plan != plan && !ended {
			return nil, fmt.Errorf("%w: subscription %s is of the plans %q and %q", ErrAmbiguous, sub.ID, out.Plan, plan)
		}
		out.Plan, flat = plan, item
	}
	if out.Plan == "" && !ended {
		return nil, fmt.Errorf("%w: no price of subscription %s has the lookup key of a plan", ErrAmbiguous, sub.ID)
	}
	metered, err := s.meteredItems(sub)
	if err != nil && !ended {
		return nil, err
	}
	for _, item := range metered {
		target, err := s.target(ctx, t, sub, item)
		if err != nil {
			return nil, err
		}
		out.Targets = append(out.Targets, target)
	}
	out.PeriodStart, out.PeriodEnd = period(sub, flat, metered)
	if out.Status == billing.PastDue {
		if out.PastDueSince, err = s.pastDueSince(ctx, sub, out.PeriodStart); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ended reports whether no invoice will come any more.
func (s subscription) ended() bool {
	status := billing.SubscriptionStatus(s.Status)
	return status == billing.Canceled || status == billing.IncompleteExpired
}

// planOf tells the plan that a flat price stands for. A price that was
// replaced has lost its lookup key to its successor; its metadata still knows.
func (s *Source) planOf(p price) (tenant.Plan, bool) {
	if p.metered() {
		return "", false
	}
	if plan, ok := s.plans[p.LookupKey]; ok && p.LookupKey != "" {
		return plan, true
	}
	if plan, ok := s.client.planOfKey(p.LookupKey); ok {
		return plan, true
	}
	if p.Metadata[metaNamespace] == s.client.namespace && p.Metadata[metaKind] == kindFlat {
		return tenant.Plan(p.Metadata[metaPlan]), p.Metadata[metaPlan] != ""
	}
	return "", false
}

// meteredItems are the items that the usage of this product goes to: at most
// one of each mode, both while a subscription migrates. A metered item that
// belongs to something else the customer buys must not get our units, so where
// one bears our mark those without it don't count.
func (s *Source) meteredItems(sub subscription) ([]subscriptionItem, error) {
	var ours, all []subscriptionItem
	for _, item := range sub.Items.Data {
		if !item.Price.metered() {
			continue
		}
		all = append(all, item)
		if item.Price.Metadata[metaNamespace] == s.client.namespace || s.client.usageKey(item.Price.LookupKey) {
			ours = append(ours, item)
		}
	}
	if len(ours) == 0 {
		ours = all
	}
	var out []subscriptionItem
	var meter, legacy bool
	for _, item := range ours {
		seen := &legacy
		if item.Price.Recurring.Meter != "" {
			seen = &meter
		}
		if *seen {
			return nil, fmt.Errorf("%w: subscription %s has two metered items of the same kind", ErrAmbiguous, sub.ID)
		}
		*seen = true
		out = append(out, item)
	}
	return out, nil
}

func (s *Source) target(ctx context.Context, t tenant.ID, sub subscription, item subscriptionItem) (billing.Target, error) {
	target := billing.Target{
		Tenant:   t,
		Provider: Provider,
		Mode:     billing.ModeUsageRecord,
		Customer: string(sub.Customer),
		Item:     item.ID,
	}
	if id := item.Price.Recurring.Meter; id != "" {
		name, err := s.eventName(ctx, id)
		if err != nil {
			return billing.Target{}, err
		}
		target.Mode, target.MeterID, target.Meter = billing.ModeMeter, id, name
	}
	target.Additive = target.Mode == billing.ModeUsageRecord && sub.additive()
	return target, nil
}

// eventName returns the event name of a meter, asking Stripe once per meter.
func (s *Source) eventName(ctx context.Context, id string) (string, error) {
	if name, ok := s.meters.Load(id); ok {
		return name.(string), nil
	}
	m, err := readMeter(ctx, s.client, id)
	if err != nil {
		return "", err
	}
	if m.EventName == "" {
		return "", fmt.Errorf("%w: meter %s has no event name", ErrAmbiguous, id)
	}
	s.meters.Store(id, m.EventName)
	return m.EventName, nil
}

// period finds the current period: on the subscription before API version
// 2025-03-31, on each item since. The metered item's own decides, for it is
// usage that has to fall into it.
func period(sub subscription, flat subscriptionItem, metered []subscriptionItem) (start, end time.Time) {
	candidates := append(metered[:len(metered):len(metered)], flat)
	for _, item := range candidates {
		if item.CurrentPeriodStart != 0 {
			return item.CurrentPeriodStart.time(), item.CurrentPeriodEnd.time()
		}
	}
	return sub.CurrentPeriodStart.time(), sub.CurrentPeriodEnd.time()
}

// pastDueSince is when payment became due: Stripe keeps no such time on the
// subscription, so it is read off the oldest invoice that is open. A period
// later there is another one, which must not renew the grace.
func (s *Source) pastDueSince(ctx context.Context, sub subscription, periodStart time.Time) (time.Time, error) {
	query := url.Values{"subscription": {sub.ID}, "status": {"open"}, "limit": {"100"}}
	open, err := readList[invoice](ctx, s.client, "/v1/invoices", query)
	if err != nil {
		return time.Time{}, err
	}
	since := time.Time{}
	for _, inv := range open.Data {
		if at := inv.due(); since.IsZero() || !at.IsZero() && at.Before(since) {
			since = at
		}
	}
	if !since.IsZero() {
		return since, nil
	}
	return periodStart, nil
}

// due is when the invoice is, or was, to be paid.
func (i invoice) due() time.Time {
	for _, at := range []unix{i.DueDate, i.StatusTransitions.FinalizedAt, i.Created} {
		if at != 0 {
			return at.time()
		}
	}
	return time.Time{}
}
