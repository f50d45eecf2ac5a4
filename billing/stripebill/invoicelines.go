package stripebill

import (
	"context"
	"fmt"
	"net/url"
	"time"
)

// InvoiceLine is a line of an invoice that is about a subscription item, or about
// a batch that was charged by itself.
type InvoiceLine struct {
	ID       string    `json:"id"`
	Item     string    `json:"item,omitempty"`  // the subscription item
	Batch    string    `json:"batch,omitempty"` // else the batch
	Quantity int64     `json:"quantity"`        // of a metered item: the usage that is billed
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
}

type invoiceLine struct {
	ID               string   `json:"id"`
	Quantity         int64    `json:"quantity"`
	SubscriptionItem ref      `json:"subscription_item"` // before 2025-03-31
	Metadata         metadata `json:"metadata"`          // an invoice item's own
	Parent           struct {
		SubscriptionItemDetails struct {
			SubscriptionItem ref `json:"subscription_item"`
		} `json:"subscription_item_details"`
	} `json:"parent"`
	Period struct {
		Start unix `json:"start"`
		End   unix `json:"end"`
	} `json:"period"`
}

// InvoiceLines returns the customer of an invoice, and its lines that are about
// subscription items: of metered ones, what Stripe bills for usage; and those of
// [InvoiceItem]. The error
// matches [ErrNotFound] when there is no such invoice.
func (c *Client) InvoiceLines(ctx context.Context, id string) (customer string, lines []InvoiceLine, err error) {
	inv, err := readInvoice(ctx, c, id)
	if err != nil {
		return "", nil, fmt.Errorf("stripebill: invoice lines: %w", err)
	}
	path, query := "/v1/invoices/"+inv.ID+"/lines", url.Values{"limit": {"100"}}
	for {
		page, err := readList[invoiceLine](ctx, c, path, query)
		if err != nil {
			return "", nil, fmt.Errorf("stripebill: invoice lines: %w", err)
		}
		for _, l := range page.Data {
			item := l.SubscriptionItem
			if item == "" {
				item = l.Parent.SubscriptionItemDetails.SubscriptionItem
			}
			line := InvoiceLine{ID: l.ID, Item: string(item), Quantity: l.Quantity, From: l.Period.Start.time(), To: l.Period.End.time()}
			if item == "" && l.Metadata[metaNamespace] == c.namespace {
				line.Batch = l.Metadata[metaBatch]
			}
			if line.Item != "" || line.Batch != "" {
				lines = append(lines, line)
			}
		}
		if !page.HasMore || len(page.Data) == 0 {
			return string(inv.Customer), lines, nil
		}
		query.Set("starting_after", page.Data[len(page.Data)-1].ID)
	}
}
