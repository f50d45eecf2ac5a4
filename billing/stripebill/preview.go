package stripebill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Preview is the invoice that a subscription's present period would end with if
// it ended now.
type Preview struct {
	Currency string        `json:"currency"`
	Total    int64         `json:"total"` // in the currency's smallest unit
	DueAt    time.Time     `json:"due_at,omitzero"`
	Lines    []PreviewLine `json:"lines"`
}

// PreviewLine is one line of a [Preview].
type PreviewLine struct {
	Description string    `json:"description,omitempty"`
	Quantity    int64     `json:"quantity"` // of a metered price: the units that were reported
	Amount      int64     `json:"amount"`
	Start       time.Time `json:"start"`
	End         time.Time `json:"end"`
}

// Preview asks Stripe what the subscription's next invoice will be, with what was
// reported so far. The error matches [ErrNotFound] when there will be none: the
// subscription has ended, or is unknown. Nothing is changed.
func (c *Client) Preview(ctx context.Context, subscription string) (Preview, error) {
	if !validID("sub_", subscription) {
		return Preview{}, fmt.Errorf("stripebill: preview: subscription %.40q: %w", subscription, ErrNotFound)
	}
	var out struct {
		Object    string `json:"object"`
		Currency  string `json:"currency"`
		Total     int64  `json:"total"`
		PeriodEnd unix   `json:"period_end"`
		Lines     list[struct {
			Description string `json:"description"`
			Quantity    int64  `json:"quantity"`
			Amount      int64  `json:"amount"`
			Period      struct {
				Start unix `json:"start"`
				End   unix `json:"end"`
			} `json:"period"`
		}] `json:"lines"`
	}
	// The endpoint has another name and method from API version 2025-03-31 on.
	r := request{method: http.MethodGet, path: "/v1/invoices/upcoming", form: url.Values{"subscription": {subscription}}}
	if c.gate.header.Get("Stripe-Version") >= "2025-03-31" {
		r.method, r.path = http.MethodPost, "/v1/invoices/create_preview"
	}
	_, err := c.do(ctx, r, &out)
	if refused, ok := errors.AsType[*APIError](err); ok && refused.Code == "invoice_upcoming_none" {
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err == nil && out.Object != "invoice" {
		err = errForeignAnswer
	}
	if err != nil {
		return Preview{}, fmt.Errorf("stripebill: preview: %w", err)
	}
	p := Preview{Currency: out.Currency, Total: out.Total, DueAt: out.PeriodEnd.time()}
	for _, l := range out.Lines.Data {
		p.Lines = append(p.Lines, PreviewLine{Description: l.Description, Quantity: l.Quantity, Amount: l.Amount,
			Start: l.Period.Start.time(), End: l.Period.End.time()})
	}
	return p, nil
}
