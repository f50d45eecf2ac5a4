package cloudevents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Provider is the name of this provider in billing.Target.
const Provider = "cloudevents"

// Options configure a [Reporter]. The zero value suits OpenMeter.
type Options struct {
	// Token is sent as bearer token. Empty: none.
	Token string

	// Source is the source of every event. Together with the id it is what the
	// receiver recognises a repetition by, so it must not change while batches
	// are on their way. Defaults to "mcpsaas".
	Source string

	// Meters is where OpenMeter's meters are, ".../api/v1/meters": totals are
	// read there, of the meter that Target.MeterID names. Without it nothing can
	// be looked up: what is still in doubt after DedupeWindow is parked.
	Meters string

	// DedupeWindow is for how long a repeated event is sure to be recognised.
	// Defaults to 31 days: OpenMeter's 32 and a margin.
	DedupeWindow time.Duration

	// VerifyLag is how long after a send the totals may not show it yet.
	// Negative: at once. Defaults to 15 minutes.
	VerifyLag time.Duration

	// LateGrace is for how long after the end of a billing period its usage is
	// still billed with it. Negative: not at all. Defaults to 50 minutes: OpenMeter
	// collects for an hour.
	LateGrace time.Duration

	// Duplicate is the status that says the receiver has the event already: 409
	// at some. Zero means that it says so of none, as OpenMeter does.
	Duplicate int

	// MaxPerSecond bounds the requests of all targets together. Negative means
	// no bound. Defaults to 100.
	MaxPerSecond float64

	// HTTPClient makes the requests. Redirects should not be followed.
	// Defaults to a client of its own with a timeout of 10 seconds.
	HTTPClient *http.Client
}

// Reporter is a [billing.Reporter] that sends CloudEvents. It is safe for
// concurrent use.
type Reporter struct {
	endpoint string
	opts     Options
}

var (
	_ billing.Reporter = (*Reporter)(nil)
	_ billing.Totaler  = (*Reporter)(nil)
)

// New returns a reporter that posts to endpoint, ".../api/v1/events" at
// OpenMeter. It makes no request.
func New(endpoint string, opts *Options) (*Reporter, error) {
	r := &Reporter{endpoint: endpoint}
	if opts != nil {
		r.opts = *opts
	}
	o := &r.opts
	var errs []error
	if err := checkURL(endpoint); err != nil {
		errs = append(errs, fmt.Errorf("endpoint: %w", err))
	}
	if o.Meters != "" {
		if err := checkURL(o.Meters); err != nil {
			errs = append(errs, fmt.Errorf("Options.Meters: %w", err))
		}
		o.Meters = strings.TrimRight(o.Meters, "/")
	}
	if strings.ContainsFunc(o.Token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		errs = append(errs, errors.New("Options.Token has characters that no header can hold"))
	}
	if o.Duplicate != 0 && (o.Duplicate < 400 || o.Duplicate > 499) {
		errs = append(errs, fmt.Errorf("Options.Duplicate is %d: want a status of 4xx", o.Duplicate))
	}
	if o.DedupeWindow < 0 {
		errs = append(errs, errors.New("Options.DedupeWindow is negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("cloudevents: configure reporter: %w", err)
	}
	if o.Source == "" {
		o.Source = "mcpsaas"
	}
	for _, d := range []struct {
		value  *time.Duration
		preset time.Duration
	}{{&o.DedupeWindow, 31 * 24 * time.Hour}, {&o.VerifyLag, 15 * time.Minute}, {&o.LateGrace, 50 * time.Minute}} {
		if *d.value == 0 {
			*d.value = d.preset
		}
		*d.value = max(*d.value, 0)
	}
	if o.MaxPerSecond == 0 {
		o.MaxPerSecond = 100
	}
	o.MaxPerSecond = max(o.MaxPerSecond, 0)
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return r, nil
}

// checkURL refuses what is no address, without quoting it.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want an http or https URL without credentials and query")
	}
	return nil
}

// maxQuantity is what JSON numbers hold to the unit in every receiver
// (RFC 8259, section 6).
const maxQuantity = 1<<53 - 1

// Caps returns the receiver's rules as the options tell them. Slots are whole
// seconds; totals are told of whole minutes.
func (r *Reporter) Caps(billing.Target) billing.Caps {
	return billing.Caps{
		DedupeWindow:    r.opts.DedupeWindow,
		VerifyLag:       r.opts.VerifyLag,
		SlotGranularity: time.Second,
		VerifyWindow:    window,
		LateGrace:       r.opts.LateGrace,
		MaxPerSecond:    r.opts.MaxPerSecond,
		MaxQuantity:     maxQuantity,
	}
}

// event is the JSON format of a CloudEvent.
type event struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	ContentType string    `json:"datacontenttype"`
	Data        data      `json:"data"`
}

type data struct {
	Units       int64     `json:"units"`
	Tenant      tenant.ID `json:"tenant"`
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
}

// Report sends d once, as an event whose id is d.ID.
func (r *Reporter) Report(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	if err := checkTarget(d.Target); err != nil {
		return billing.Receipt{}, err
	}
	if reason := unsendable(d); reason != "" {
		return billing.Receipt{Result: billing.Rejected, Reason: reason}, nil
	}
	body, err := json.Marshal(event{
		SpecVersion: "1.0", ID: d.ID, Source: r.opts.Source, Type: d.Target.Meter, Subject: d.Target.Customer,
		Time: d.Slot.UTC(), ContentType: "application/json",
		Data: data{Units: d.Quantity, Tenant: d.Target.Tenant, PeriodStart: d.PeriodStart.UTC(), PeriodEnd: d.PeriodEnd.UTC()},
	})
	if err != nil {
		return billing.Receipt{}, fmt.Errorf("cloudevents: report %s: %w", d.ID, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.endpoint, bytes.NewReader(body))
	if err != nil {
		return billing.Receipt{}, fmt.Errorf("cloudevents: report %s: %w", d.ID, err)
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	// Other receivers go by this header; OpenMeter by the event's id.
	req.Header.Set("Idempotency-Key", d.ID)
	resp, err := r.do(req)
	if err != nil {
		if ctx.Err() != nil {
			return billing.Receipt{}, fmt.Errorf("cloudevents: report %s: %w", d.ID, ctx.Err())
		}
		return lost(err), nil
	}
	defer resp.Body.Close()
	return r.classify(resp), nil
}

func (r *Reporter) do(req *http.Request) (*http.Response, error) {
	if r.opts.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.opts.Token)
	}
	return r.opts.HTTPClient.Do(req)
}

func checkTarget(t billing.Target) error {
	if t.Provider != Provider || t.Mode != billing.ModeMeter {
		return fmt.Errorf("cloudevents: target of provider %q and mode %q", t.Provider, t.Mode)
	}
	return nil
}

// unsendable says why d can never be taken, or is empty.
func unsendable(d billing.Delivery) string {
	switch {
	case d.Quantity < 0 || d.Quantity > maxQuantity:
		return fmt.Sprintf("quantity %d is outside of 0..%d", d.Quantity, int64(maxQuantity))
	case d.ID == "":
		return "no id"
	case d.Slot.IsZero():
		return "no slot"
	case d.Target.Customer == "":
		return "target without a customer"
	case d.Target.Meter == "":
		return "target without a meter"
	}
	return ""
}
