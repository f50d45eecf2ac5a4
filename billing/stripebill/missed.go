package stripebill

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// missedTypes are the events that Fetch makes something of; Stripe takes at most
// 20 types at once.
var missedTypes = append([]string{
	"checkout.session.completed",
	"checkout.session.async_payment_succeeded",
	"charge.refunded",
	"customer.subscription.created",
	"customer.subscription.updated",
	"customer.subscription.deleted",
	"customer.subscription.paused",
	"customer.subscription.resumed",
	"customer.subscription.trial_will_end",
}, slices.Sorted(maps.Keys(invoiceNotices))...)

// Missed lists Stripe's events of the last 30 days, which is as long as it keeps
// them: those that it could not deliver to some endpoint, or all. They are full
// events; one that a thin webhook has told of as well comes under another id, and
// is applied twice, which is once. It implements [billing.MissedLister]
// (https://docs.stripe.com/webhooks/process-undelivered-events).
func (s *Source) Missed(ctx context.Context, since time.Time, all bool, take func(billing.Notice) error) error {
	query := url.Values{"limit": {"100"}, "types[]": missedTypes}
	if !since.IsZero() {
		query.Set("created[gte]", strconv.FormatInt(since.Unix(), 10))
	}
	if !all {
		query.Set("delivery_success", "false")
	}
	for {
		page, err := readList[json.RawMessage](ctx, s.client, "/v1/events", query)
		if err != nil {
			return fmt.Errorf("stripebill: list events: %w", err)
		}
		var last string
		for _, event := range page.Data {
			n, err := parseNotice(event)
			if err != nil {
				return fmt.Errorf("stripebill: list events: %w", err)
			}
			if err := take(n); err != nil {
				return err
			}
			last = n.ID
		}
		if !page.HasMore || last == "" {
			return nil
		}
		query.Set("starting_after", last)
	}
}
