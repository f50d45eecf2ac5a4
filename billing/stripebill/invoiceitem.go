package stripebill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// metaBatch names the batch that an invoice item stands for.
const metaBatch = "batch"

// always is longer than any batch is on its way.
const always = 10 * 365 * 24 * time.Hour

// InvoiceItem returns the target that charges for usage of t by itself, as an
// item of the customer's next invoice, at the price that t's subscription item
// has then: it is for pgledger.Options. It returns false for targets of other
// providers.
func InvoiceItem(t billing.Target) (billing.Target, bool) {
	if t.Provider != Provider || t.Mode != billing.ModeMeter && t.Mode != billing.ModeUsageRecord || t.Item == "" {
		return billing.Target{}, false
	}
	t.Mode, t.Additive = billing.ModeInvoiceItem, false
	return t, true
}

// charge adds an item to the next invoice of the subscription.
func (r *Reporter) charge(ctx context.Context, d billing.Delivery) billing.Receipt {
	form, err := r.invoiceItem(ctx, d)
	if unpriced, ok := errors.AsType[*unpricedError](err); ok {
		return billing.Receipt{Result: billing.Rejected, Reason: unpriced.reason}
	}
	if err != nil {
		// Nothing was sent yet.
		receipt := classify(response{}, err)
		if receipt.NewEpoch = false; receipt.Result == billing.Unknown {
			receipt.Result = billing.NotApplied
		}
		return receipt
	}
	var out invoiceItem
	resp, err := r.client.do(ctx, request{method: http.MethodPost, path: "/v1/invoiceitems", form: form, idempotencyKey: d.IdempotencyKey}, &out)
	if err == nil && (out.Object != "invoiceitem" || out.Metadata[metaBatch] != d.ID) {
		err = errForeignAnswer
	}
	return classify(resp, err)
}

// unpricedError says why usage can't be charged by itself.
type unpricedError struct{ reason string }

func (e *unpricedError) Error() string { return "stripebill: " + e.reason }

// invoiceItem is what is charged for d. A price that isn't the same for each unit
// makes no sense by itself: what the units cost depends on the rest of their
// period.
func (r *Reporter) invoiceItem(ctx context.Context, d billing.Delivery) (url.Values, error) {
	item, err := read[subscriptionItem](ctx, r.client, "subscription_items", "si_", d.Target.Item)
	if err != nil {
		return nil, err
	}
	sub, err := readSubscription(ctx, r.client, item.Subscription)
	if err != nil {
		return nil, err
	}
	each := item.Price.UnitAmountDecimal
	if each == "" {
		each = item.Price.UnitAmount.String()
	}
	switch {
	case sub.ended():
		return nil, &unpricedError{"the subscription has ended: no invoice would take the item"}
	case string(sub.Customer) != d.Target.Customer:
		return nil, &unpricedError{"the subscription item is not of that customer"}
	case item.Price.TransformQuantity != nil, each == "": // packages, tiers
		return nil, &unpricedError{fmt.Sprintf("price %s is not the same for each unit", item.Price.ID)}
	}
	return url.Values{
		"customer":            {d.Target.Customer},
		"subscription":        {sub.ID},
		"currency":            {item.Price.Currency},
		"unit_amount_decimal": {each},
		"quantity":            {strconv.FormatInt(d.Quantity, 10)},
		"description":         {fmt.Sprintf("Usage from %s to %s", d.PeriodStart.UTC().Format(time.DateOnly), d.PeriodEnd.UTC().Format(time.DateOnly))},
		"period[start]":       {strconv.FormatInt(d.PeriodStart.Unix(), 10)},
		"period[end]":         {strconv.FormatInt(d.PeriodEnd.Unix(), 10)},
		"metadata[tenant_id]": {d.Target.Tenant.String()},
		"metadata[batch]":     {d.ID},
		"metadata[namespace]": {r.client.namespace},
	}, nil
}

// charged finds the invoice item of a batch; its id is empty when there is none.
func (r *Reporter) charged(ctx context.Context, d billing.Delivery) (string, error) {
	if !validID("cus_", d.Target.Customer) {
		return "", ErrNotFound
	}
	query := url.Values{"customer": {d.Target.Customer}, "limit": {"100"}}
	for {
		page, err := readList[invoiceItem](ctx, r.client, "/v1/invoiceitems", query)
		if err != nil {
			return "", err
		}
		for _, o := range page.Data {
			if o.Metadata[metaBatch] == d.ID {
				return o.ID, nil
			}
		}
		if !page.HasMore || len(page.Data) == 0 {
			return "", nil
		}
		query.Set("starting_after", page.Data[len(page.Data)-1].ID)
	}
}

// uncharge deletes the invoice item of a batch, which Stripe allows until its
// invoice is finalised (https://docs.stripe.com/api/invoiceitems/delete).
func (r *Reporter) uncharge(ctx context.Context, d billing.Delivery) billing.Receipt {
	id, err := r.charged(ctx, d)
	if err == nil && id == "" {
		return billing.Receipt{Result: billing.AlreadyAccepted}
	}
	if err != nil {
		receipt := classify(response{}, err)
		if receipt.Result == billing.Rejected {
			receipt.Result = billing.Unknown // it says nothing of the item
		}
		return receipt
	}
	path, err := object("invoiceitems", "ii_", id)
	if err != nil {
		return billing.Receipt{Reason: err.Error()}
	}
	var out invoiceItem
	resp, err := r.client.do(ctx, request{method: http.MethodDelete, path: path}, &out)
	if err == nil && (out.ID != id || !out.Deleted) {
		err = errForeignAnswer
	}
	return classify(resp, err)
}
