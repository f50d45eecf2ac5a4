package stripebill

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/mcpsaas/mcpsaas/billing"
)

// Void takes back what Stripe has accepted: a meter event by its identifier,
// within 24 hours of its receipt and as long as no invoice has been finalised
// with it (https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api);
// a usage record by setting it to nothing, while its period is open, unless it
// could only be added; an invoice item until its invoice is finalised.
func (r *Reporter) Void(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	if err := checkTarget(d.Target); err != nil {
		return billing.Receipt{}, err
	}
	if d.Target.Additive {
		return billing.Receipt{Result: billing.Rejected, Reason: "a subscription with billing thresholds takes no usage record back"}, nil
	}
	if d.Target.Mode == billing.ModeUsageRecord {
		// Another key than the one it was sent under: that one's answer is saved.
		d.Quantity, d.IdempotencyKey = 0, ""
		return r.Report(ctx, d)
	}
	if reason := unsendable(d); reason != "" {
		return billing.Receipt{Result: billing.Rejected, Reason: reason}, nil
	}
	if err := ctx.Err(); err != nil {
		return billing.Receipt{}, fmt.Errorf("stripebill: void %s: %w", d.ID, err)
	}
	if d.Target.Mode == billing.ModeInvoiceItem {
		receipt := r.uncharge(ctx, d)
		if receipt.Reason != "" && ctx.Err() != nil {
			return receipt, fmt.Errorf("stripebill: void %s: %w", d.ID, ctx.Err())
		}
		return receipt, nil
	}
	var out meterEventAdjustment
	// No idempotency key: a failure would be saved under it, and the identifier
	// makes a repetition harmless.
	resp, err := r.client.do(ctx, request{
		method: "POST",
		path:   "/v1/billing/meter_event_adjustments",
		form: url.Values{
			"event_name":         {d.Target.Meter},
			"type":               {"cancel"},
			"cancel[identifier]": {d.ID},
		},
	}, &out)
	if err == nil && (out.Object != "billing.meter_event_adjustment" || out.Cancel.Identifier != d.ID) {
		err = errForeignAnswer
	}
	receipt := classify(resp, err)
	if receipt.Result == billing.Rejected && strings.Contains(strings.ToLower(receipt.Reason), "already cancel") {
		receipt.Result, receipt.Reason = billing.AlreadyAccepted, ""
	}
	if err != nil && ctx.Err() != nil {
		return receipt, fmt.Errorf("stripebill: void %s: %w", d.ID, ctx.Err())
	}
	return receipt, nil
}
