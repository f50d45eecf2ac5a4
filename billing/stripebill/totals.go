package stripebill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strconv"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// Verify reads Stripe's totals back and says whether d is in them. It means
// something only once Caps.VerifyLag has passed since the last send.
//
// The sum of the minute that d's slot lies in, or of the whole period for usage
// records, is compared with what else was confirmed of it. A sum that is larger
// by d.Quantity shows d, unless something else there is in doubt as well; one
// that is not larger shows that d is absent, since no quantity is below one. An
// invoice item is looked for by itself.
func (r *Reporter) Verify(ctx context.Context, d billing.Delivery) (billing.Presence, error) {
	if err := checkTarget(d.Target); err != nil {
		return billing.Ambiguous, err
	}
	var total int64
	switch d.Target.Mode {
	case billing.ModeInvoiceItem:
		id, err := r.charged(ctx, d)
		if err != nil {
			return billing.Ambiguous, fmt.Errorf("stripebill: verify %s: %w", d.ID, err)
		}
		if id == "" {
			return billing.Absent, nil
		}
		return billing.Present, nil
	case billing.ModeUsageRecord:
		sum, known, err := r.client.recordTotal(ctx, d.Target.Item, d.PeriodStart, d.PeriodEnd)
		if err != nil {
			return billing.Ambiguous, fmt.Errorf("stripebill: verify %s: %w", d.ID, err)
		}
		if !known {
			return billing.Ambiguous, nil
		}
		total = sum
	default:
		from := d.Slot.Truncate(summaryWindow)
		sum, err := r.client.meterTotal(ctx, d.Target, from, from.Add(summaryWindow))
		if err != nil {
			return billing.Ambiguous, fmt.Errorf("stripebill: verify %s: %w", d.ID, err)
		}
		total = sum
	}
	return d.Proved(total), nil
}

// UsageTotal implements [billing.Totaler]. See [Client.UsageTotal]. What Stripe no
// longer has (a deleted customer, item or meter) it can't tell the total of.
func (r *Reporter) UsageTotal(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	total, err := r.client.UsageTotal(ctx, t, from, to)
	if errors.Is(err, ErrNotFound) {
		err = errors.Join(billing.ErrNoTotals, err)
	}
	return total, err
}

// UsageTotal returns what Stripe has counted for t within [from, to). A meter
// counts whole minutes: from is rounded down and to is rounded up. Of usage
// records Stripe knows the totals of whole billing periods only, so the period
// that begins at from or ends at to is returned, and [ErrNotFound] when there
// is none.
func (c *Client) UsageTotal(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	if err := checkTarget(t); err != nil {
		return 0, err
	}
	if t.Mode == billing.ModeInvoiceItem {
		return 0, fmt.Errorf("stripebill: usage total of invoice items: %w", ErrNotFound)
	}
	if t.Mode == billing.ModeUsageRecord {
		sum, known, err := c.recordTotal(ctx, t.Item, from, to)
		if err == nil && !known {
			err = ErrNotFound
		}
		if err != nil {
			return 0, fmt.Errorf("stripebill: usage total: %w", err)
		}
		return sum, nil
	}
	end := to.Truncate(time.Minute)
	if end.Before(to) {
		end = end.Add(time.Minute)
	}
	sum, err := c.meterTotal(ctx, t, from.Truncate(time.Minute), end)
	if err != nil {
		return 0, fmt.Errorf("stripebill: usage total: %w", err)
	}
	return sum, nil
}

// meterTotal sums what a meter counted of a customer in [from, to), both whole
// minutes.
func (c *Client) meterTotal(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	path, err := object("billing/meters", "mtr_", t.MeterID)
	if err != nil {
		return 0, err
	}
	query := url.Values{
		"customer":   {t.Customer},
		"start_time": {strconv.FormatInt(from.Unix(), 10)},
		"end_time":   {strconv.FormatInt(to.Unix(), 10)},
		"limit":      {"100"},
	}
	var total int64
	for {
		page, err := readList[meterEventSummary](ctx, c, path+"/event_summaries", query)
		if err != nil {
			return 0, err
		}
		for _, s := range page.Data {
			n, err := whole(s.AggregatedValue)
			if err != nil {
				return 0, err
			}
			total += n
		}
		if !page.HasMore || len(page.Data) == 0 {
			return total, nil
		}
		query.Set("starting_after", page.Data[len(page.Data)-1].ID)
	}
}

// recordTotal returns the total of the billing period [from, to) of an item.
// known is false when Stripe lists no such period.
func (c *Client) recordTotal(ctx context.Context, item string, from, to time.Time) (total int64, known bool, err error) {
	path, err := object("subscription_items", "si_", item)
	if err != nil {
		return 0, false, err
	}
	// Newest first; a hundred periods are years.
	page, err := readList[usageRecordSummary](ctx, c, path+"/usage_record_summaries", url.Values{"limit": {"100"}})
	if err != nil {
		return 0, false, err
	}
	for i, s := range page.Data {
		start, end := s.Period.Start.time(), s.Period.End.time()
		match := !start.IsZero() && start.Equal(from.Truncate(time.Second)) || !end.IsZero() && end.Equal(to.Truncate(time.Second))
		// The period that is still open may come without its bounds.
		if start.IsZero() && end.IsZero() && i == 0 && s.Invoice == "" && c.now().Before(to) {
			match = true
		}
		if match {
			total, err = whole(s.TotalUsage)
			return total, err == nil, err
		}
	}
	return 0, false, nil
}

// whole reads a number that Stripe sends as a float. A sum that is not whole,
// or beyond an int64, is an error: money is never rounded.
func whole(n json.Number) (int64, error) {
	if n == "" {
		return 0, nil
	}
	r, ok := new(big.Rat).SetString(n.String())
	if !ok || !r.IsInt() || !r.Num().IsInt64() {
		return 0, fmt.Errorf("stripe: total %.40q is not a whole number", n.String())
	}
	return r.Num().Int64(), nil
}
