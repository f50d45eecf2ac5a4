package cloudevents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// window is the shortest stretch that OpenMeter tells the sum of.
const window = time.Minute

// Verify reads the total of the minute that d's slot lies in, and says whether d
// is in it; [billing.Unsupported] without Options.Meters or a Target.MeterID. It
// means something only once Caps.VerifyLag has passed since the last send.
func (r *Reporter) Verify(ctx context.Context, d billing.Delivery) (billing.Presence, error) {
	if err := checkTarget(d.Target); err != nil {
		return billing.Ambiguous, err
	}
	if !r.tells(d.Target) {
		return billing.Unsupported, nil
	}
	from := d.Slot.Truncate(window)
	total, err := r.total(ctx, d.Target, from, from.Add(window))
	if err != nil {
		return billing.Ambiguous, fmt.Errorf("cloudevents: verify %s: %w", d.ID, err)
	}
	return d.Proved(total), nil
}

// UsageTotal implements [billing.Totaler]: from is rounded down to a minute, and
// to is rounded up.
func (r *Reporter) UsageTotal(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	if err := checkTarget(t); err != nil {
		return 0, err
	}
	if !r.tells(t) {
		return 0, billing.ErrNoTotals
	}
	end := to.Truncate(window)
	if end.Before(to) {
		end = end.Add(window)
	}
	total, err := r.total(ctx, t, from.Truncate(window), end)
	if err != nil {
		return 0, fmt.Errorf("cloudevents: usage total: %w", err)
	}
	return total, nil
}

func (r *Reporter) tells(t billing.Target) bool { return r.opts.Meters != "" && t.MeterID != "" }

// total sums what the meter has of the target's customer in [from, to), both
// whole minutes (https://openmeter.io/docs/api, queryMeter).
func (r *Reporter) total(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	query := url.Values{
		"subject": {t.Customer},
		"from":    {from.UTC().Format(time.RFC3339)},
		"to":      {to.UTC().Format(time.RFC3339)},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.opts.Meters+"/"+url.PathEscape(t.MeterID)+"/query?"+query.Encode(), nil)
	if err != nil {
		return 0, errors.New("no such meter") // the URL is not for logs
	}
	req.Header.Set("Accept", "application/json")
	resp, err := r.do(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, describe(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(reason(resp))
	}
	var answer struct {
		Data *[]struct {
			Value json.Number `json:"value"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil || answer.Data == nil {
		return 0, errors.New("unreadable answer")
	}
	var total int64
	for _, row := range *answer.Data {
		n, ok := new(big.Rat).SetString(row.Value.String())
		if !ok || !n.IsInt() || !n.Num().IsInt64() {
			return 0, fmt.Errorf("total %.40q is not a whole number", row.Value.String())
		}
		total += n.Num().Int64()
	}
	return total, nil
}
