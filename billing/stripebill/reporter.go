package stripebill

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// ReporterOptions configure a [Reporter].
type ReporterOptions struct {
	// VerifyLag is how long after a send the totals may not show it yet:
	// Stripe aggregates meter events later than it accepts them. Negative
	// means at once, which only an emulator does. Waiting longer costs nothing
	// but patience, an hour too little a double billing. Defaults to 45 minutes.
	VerifyLag time.Duration

	// MaxPerSecond bounds the requests of all targets of a mode together.
	// Negative means no bound. Defaults to four fifths of what Stripe allows
	// (https://docs.stripe.com/rate-limits): 800 for meters in live mode, 20
	// otherwise, and 5 for invoice items.
	MaxPerSecond float64
}

// Reporter is the [billing.Reporter] for Stripe, in all modes. It is safe for
// concurrent use.
type Reporter struct {
	client *Client
	opts   ReporterOptions
}

var (
	_ billing.Reporter = (*Reporter)(nil)
	_ billing.Totaler  = (*Reporter)(nil)
	_ billing.Voider   = (*Reporter)(nil)
)

// NewReporter returns a reporter that sends through c.
func NewReporter(c *Client, opts *ReporterOptions) *Reporter {
	r := &Reporter{client: c}
	if opts != nil {
		r.opts = *opts
	}
	switch {
	case r.opts.VerifyLag == 0:
		r.opts.VerifyLag = 45 * time.Minute
	case r.opts.VerifyLag < 0:
		r.opts.VerifyLag = 0
	}
	return r
}

const (
	maxIdentifier = 100                 // of a meter event
	maxKey        = 255                 // of an idempotency key
	maxQuantity   = 999_999_999_999_999 // 15 digits
)

// summaryWindow is the shortest stretch that Stripe tells the sum of: a whole
// minute (https://docs.stripe.com/api/billing/meter-event-summary/list).
const summaryWindow = time.Minute

// Caps returns Stripe's rules for t, each with a margin for clocks that differ.
//
// A meter knows an identifier for 24 hours, takes what is at most 35 days old,
// and what belongs to a period until that period's invoice is finalised, an
// hour after its end (https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api,
// .../configure-grace-period). It tells the sums of whole minutes. A usage
// record that is set at a timestamp replaces what was there, while the period is
// open, and not a second longer; only the sum of the period is told. One that
// can only be added (Target.Additive) is known by its idempotency key alone, for
// 24 hours (https://docs.stripe.com/api/idempotent_requests), and stays for good.
func (r *Reporter) Caps(t billing.Target) billing.Caps {
	caps := billing.Caps{
		DedupeWindow: 23 * time.Hour,
		VerifyLag:    r.opts.VerifyLag,
		MaxPerSecond: 20,
		MaxQuantity:  maxQuantity,
		// Timestamps are Unix seconds.
		SlotGranularity: time.Second,
	}
	switch t.Mode {
	case billing.ModeUsageRecord:
		caps.Overwrite, caps.KeyOnly = !t.Additive, t.Additive
	case billing.ModeInvoiceItem:
		caps.KeyOnly = true
		caps.MaxPerSecond = 5 // of three requests each
		// Each is listed, and can be deleted until its invoice is final: Stripe
		// says when.
		caps.LateGrace, caps.VoidWindow = always, always
	default:
		caps.VerifyWindow = summaryWindow
		caps.MaxAge = 35*24*time.Hour - time.Hour
		caps.MaxFuture = 4 * time.Minute
		caps.LateGrace = 50 * time.Minute
		caps.VoidWindow = 24*time.Hour - 10*time.Minute
		if !r.client.test {
			caps.MaxPerSecond = 800
		}
	}
	switch {
	case r.opts.MaxPerSecond > 0:
		caps.MaxPerSecond = r.opts.MaxPerSecond
	case r.opts.MaxPerSecond < 0:
		caps.MaxPerSecond = 0
	}
	return caps
}

// Report sends d once. A meter event carries d.ID as its identifier; a usage
// record sets the quantity at d.Slot: each can be sent again without being
// counted again. A usage record that is added can't, but under its key, and no
// more can an invoice item, which has d.ID in its metadata.
func (r *Reporter) Report(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	if err := checkTarget(d.Target); err != nil {
		return billing.Receipt{}, err
	}
	if reason := unsendable(d); reason != "" {
		return billing.Receipt{Result: billing.Rejected, Reason: reason}, nil
	}
	if err := ctx.Err(); err != nil {
		return billing.Receipt{}, fmt.Errorf("stripebill: report %s: %w", d.ID, err)
	}
	var receipt billing.Receipt
	switch d.Target.Mode {
	case billing.ModeInvoiceItem:
		receipt = r.charge(ctx, d)
	case billing.ModeUsageRecord:
		receipt = classify(r.record(ctx, d))
	default:
		receipt = classify(r.event(ctx, d))
	}
	if receipt.Reason != "" && ctx.Err() != nil {
		return receipt, fmt.Errorf("stripebill: report %s: %w", d.ID, ctx.Err())
	}
	return receipt, nil
}

// event sends a meter event.
func (r *Reporter) event(ctx context.Context, d billing.Delivery) (response, error) {
	var out meterEvent
	resp, err := r.client.do(ctx, request{
		method: "POST",
		path:   "/v1/billing/meter_events",
		form: url.Values{
			"event_name":                  {d.Target.Meter},
			"identifier":                  {d.ID},
			"timestamp":                   {strconv.FormatInt(d.Slot.Unix(), 10)},
			"payload[stripe_customer_id]": {d.Target.Customer},
			"payload[value]":              {strconv.FormatInt(d.Quantity, 10)},
		},
		idempotencyKey: d.IdempotencyKey,
	}, &out)
	// A proxy answers 200 as well; only the event itself proves anything.
	if err == nil && (out.Object != "billing.meter_event" || out.Identifier != d.ID) {
		err = errForeignAnswer
	}
	return resp, err
}

// record writes a usage record over whatever is at its slot, or adds it.
func (r *Reporter) record(ctx context.Context, d billing.Delivery) (response, error) {
	path, err := object("subscription_items", "si_", d.Target.Item)
	if err != nil {
		return response{}, err
	}
	action := "set"
	if d.Target.Additive {
		action = "increment"
	}
	var out usageRecord
	resp, err := r.client.do(ctx, request{
		method: "POST",
		path:   path + "/usage_records",
		form: url.Values{
			"action":    {action},
			"quantity":  {strconv.FormatInt(d.Quantity, 10)},
			"timestamp": {strconv.FormatInt(d.Slot.Unix(), 10)},
		},
		idempotencyKey: d.IdempotencyKey,
	}, &out)
	if err == nil && (out.Object != "usage_record" || out.Quantity.String() != strconv.FormatInt(d.Quantity, 10)) {
		err = errForeignAnswer
	}
	return resp, err
}

func checkTarget(t billing.Target) error {
	if t.Provider != Provider {
		return fmt.Errorf("stripebill: target of provider %q", t.Provider)
	}
	if t.Mode != billing.ModeMeter && t.Mode != billing.ModeUsageRecord && t.Mode != billing.ModeInvoiceItem {
		return fmt.Errorf("stripebill: target of mode %q", t.Mode)
	}
	return nil
}

// unsendable says why d can never be taken, or is empty.
func unsendable(d billing.Delivery) string {
	switch {
	case d.Quantity < 0 || d.Quantity > maxQuantity:
		return fmt.Sprintf("quantity %d is outside of 0..%d", d.Quantity, int64(maxQuantity))
	case d.Slot.IsZero():
		return "no slot"
	case len(d.IdempotencyKey) > maxKey:
		return fmt.Sprintf("idempotency key of more than %d characters", maxKey)
	case d.Target.Mode != billing.ModeMeter && !validID("si_", d.Target.Item):
		return fmt.Sprintf("subscription item %.40q is no id", d.Target.Item)
	case d.Target.Mode == billing.ModeUsageRecord:
		return ""
	case d.ID == "" || len(d.ID) > maxIdentifier:
		return fmt.Sprintf("identifier of %d characters, want 1 to %d", len(d.ID), maxIdentifier)
	case !validID("cus_", d.Target.Customer):
		return fmt.Sprintf("customer %.40q is no id", d.Target.Customer)
	case d.Target.Mode == billing.ModeMeter && d.Target.Meter == "":
		return "target without a meter"
	}
	return ""
}
