package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/cloudevents"
	"github.com/mcpsaas/mcpsaas/billing/filebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
)

// soldMeter is the type of CloudEvents, and the slug of the meter at OpenMeter
// that sums their data.units by subject.
const soldMeter = "tool_calls"

// reporting is where usage is billed: at Stripe, in a file, as CloudEvents over
// HTTP, or at several at once while moving from one to another.
type reporting struct {
	billing.Reporters
	to    []string // providers, each of which gets all usage
	files []io.Closer
}

// newReporting reads REPORTER. Stripe is always among those that can be reported
// to, for what is on its way there.
func newReporting(c *config, stripe *stripebill.Client) (r *reporting, err error) {
	r = &reporting{Reporters: billing.Reporters{stripebill.Provider: stripebill.NewReporter(stripe, nil)}}
	defer func() {
		if err != nil {
			r.close()
			err = fmt.Errorf("REPORTER: %w", err)
		}
	}()
	for _, where := range split(c.reporter) {
		var provider string
		var one billing.Reporter
		if path, ok := strings.CutPrefix(where, "file:"); ok {
			f, err := filebill.Open(path)
			if err != nil {
				return r, err
			}
			r.files = append(r.files, f)
			provider, one = filebill.Provider, f
		} else if strings.Contains(where, "://") {
			opts := &cloudevents.Options{Token: c.reporterToken}
			if base, ok := strings.CutSuffix(where, "/api/v1/events"); ok { // OpenMeter, which tells its totals too
				opts.Meters = base + "/api/v1/meters"
			}
			if one, err = cloudevents.New(where, opts); err != nil {
				return r, err
			}
			provider = cloudevents.Provider
		} else if where == stripebill.Provider {
			r.to = append(r.to, where)
			continue
		} else {
			return r, fmt.Errorf("%q: want stripe, file:PATH or a URL", where)
		}
		if r.Reporters[provider] != nil {
			return r, fmt.Errorf("%q: there is another one like that", where)
		}
		r.Reporters[provider] = one
		r.to = append(r.to, provider)
	}
	if len(r.to) == 0 {
		return r, errors.New("is empty: want stripe, file:PATH or a URL")
	}
	return r, nil
}

// route says where the usage of one of Stripe's targets goes. Only Stripe bills
// by subscription item.
func (r *reporting) route(t billing.Target) (all []billing.Target) {
	for _, provider := range r.to {
		there := t
		if provider != stripebill.Provider {
			there.Provider, there.Mode, there.Meter, there.MeterID, there.Item = provider, billing.ModeMeter, soldMeter, soldMeter, ""
		}
		all = append(all, there)
	}
	return all
}

func (r *reporting) close() {
	for _, f := range r.files {
		f.Close()
	}
}
