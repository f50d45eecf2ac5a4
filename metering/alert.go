package metering

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Alert says that a tenant has used a part of a limit.
type Alert struct {
	// ID is the same whoever finds out and however often it is told.
	ID string `json:"id"`

	Tenant  tenant.ID   `json:"tenant"`
	Plan    tenant.Plan `json:"plan"`
	Limit   string      `json:"limit"`
	Mode    Mode        `json:"mode,omitempty"` // an alert of a [Shadow] limit is not for the tenant
	Percent int         `json:"percent"`        // the threshold

	// Used is how many units were used when the threshold was found to be
	// reached. It is less than Percent of Allowed only if the limit has refused
	// a call that costs more than was left.
	Used    int64 `json:"used"`
	Allowed int64 `json:"allowed"`

	// Start and End are the period in which the threshold is told once.
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`

	Time time.Time `json:"time"` // when it was found out

	// Attempt counts the tries to tell it, from 1.
	Attempt int `json:"-"`
}

// AlertOptions say of which thresholds alerts are told, and to whom.
//
// A threshold of a limit is told once per period of the limit, whatever the
// number of replicas. The period of a sliding window is a piece of the clock as
// long as the window, counted from midnight, UTC: an hourly limit tells a
// threshold at most once from 10:00 to 11:00. A limit whose units were changed is
// another limit. There are no alerts of windows below an hour, nor of calls in
// flight: those are matters of moments.
//
// Where a limit stands is known from the decisions about calls; the limiter is
// not asked for it. A threshold is reached by a call when it has been settled; 100
// is reached as well by a call that the limit refuses. With a [Leased] limiter,
// what other processes hold counts as used, so a threshold may be told up to a
// block of each of them early. While the limiter is away nothing is found out;
// the first calls after that make up for it.
//
// What is found is put into the Store within moments, and told from there by
// any replica, again and again until Tell returns nil or RetryFor is over. So:
//
//   - Once it is in the Store, it is told at least once, whatever process is
//     killed at whatever moment. A process that is killed between the answer of
//     a call and the Store, or loses what waits because the Store is away too,
//     leaves it to the tenant's next call in the period.
//   - It is told twice only if a process is killed, or loses the Store, between
//     telling and noting it down; Alert.ID is then the same. A receiver that
//     drops ids that it knows gets each threshold exactly once.
//   - There is no promise of order.
type AlertOptions struct {
	// Tell tells an alert: it writes the log, sends a webhook (see package
	// metering/alert), or both. It is called away from any call and at several
	// places at once, and must end when its context does. After an error it is
	// called again later, maybe by another replica.
	Tell func(context.Context, Alert) error

	// Store is where the replicas agree on what has been told, such as
	// redisquota.Alerts. Defaults to a [MemoryAlerts]: fit for one process.
	Store AlertStore

	// Percent are the thresholds, each 1 to 100. Defaults to 80 and 100.
	Percent []int

	// LimitPercent are other thresholds for single limits, by their names. Tenants
	// may have limits of their own of any name, so a name that no plan has is no
	// mistake, and one that no limit has means nothing.
	LimitPercent map[string][]int

	// OwnPercent returns the tenant's own threshold, which is told beside the
	// others. 0 is that of a tenant which has not set one, 95; a negative one is
	// none. It is asked in the background and remembered for five minutes.
	// Defaults to 95 for every tenant.
	OwnPercent func(context.Context, tenant.ID) (int, error)

	// Timeout is how long Tell may take; after twice that long another replica
	// tries. Defaults to 15 s.
	Timeout time.Duration

	// Backoff is how long a failed try is waited after; it doubles up to an
	// hour. Defaults to 5 s.
	Backoff time.Duration

	// RetryFor is how long an alert is tried to be told. Then it is lost, logged
	// and counted. Defaults to 24 hours.
	RetryFor time.Duration
}

// AlertStore is where replicas agree on who tells what. All methods are safe for
// concurrent use; meteringtest.TestAlertStore is what one must pass.
type AlertStore interface {
	// Add keeps an alert that is to be told, due at once, unless an alert with
	// its ID was added before and not yet forgotten: then added is false. The ID
	// is remembered at least until forget.
	Add(ctx context.Context, a Alert, forget time.Time) (added bool, err error)

	// Claim returns at most so many alerts that are due, with their Attempt
	// counted, and makes them due again after the lease.
	Claim(ctx context.Context, most int, lease time.Duration) ([]Alert, error)

	// Release ends the claim of an alert. With a negative again it has been
	// told, or is given up, and goes for good; else it is due again after so
	// long, unless it has been claimed anew.
	Release(ctx context.Context, a Alert, again time.Duration) error
}

const (
	defaultOwnPercent = 95
	maxAlertBackoff   = time.Hour
	alertMemory       = 48 * time.Hour // how long beyond its period an alert is remembered
)

func (o *AlertOptions) validate(field string) error {
	var errs []error
	if o.Tell == nil {
		errs = append(errs, fmt.Errorf("%s.Tell: is nil", field))
	}
	percents := func(at string, percents []int) {
		for i, p := range percents {
			if p < 1 || p > 100 {
				errs = append(errs, fmt.Errorf("%s[%d]: %d is not within 1 and 100", at, i, p))
			}
		}
	}
	percents(field+".Percent", o.Percent)
	for name, list := range o.LimitPercent {
		percents(fmt.Sprintf("%s.LimitPercent[%q]", field, name), list)
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"Timeout", o.Timeout}, {"Backoff", o.Backoff}, {"RetryFor", o.RetryFor}} {
		if d.d < 0 || d.d > 0 && d.d < 10*time.Millisecond {
			errs = append(errs, fmt.Errorf("%s.%s: %v is less than 10ms", field, d.name, d.d))
		}
	}
	return errors.Join(errs...)
}

func (o AlertOptions) withDefaults(now func() time.Time) AlertOptions {
	if o.Store == nil {
		o.Store = NewMemoryAlerts(now)
	}
	if o.Percent == nil {
		o.Percent = []int{80, 100}
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Backoff == 0 {
		o.Backoff = 5 * time.Second
	}
	if o.RetryFor == 0 {
		o.RetryFor = 24 * time.Hour
	}
	return o
}

// alertID is the name of a threshold of one period.
func alertID(a Alert) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d\n%d\n%d", a.Tenant, a.Limit, a.Allowed, a.Percent, a.Start.Unix()))
	return "alert_" + hex.EncodeToString(sum[:16])
}
