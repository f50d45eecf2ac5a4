package metering

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of what a limiter has to count exactly.
const (
	// MaxUnits is the largest number of units of a limit or of one call.
	MaxUnits = 1 << 40

	minWindow = 10 * time.Millisecond
	maxWindow = 400 * 24 * time.Hour

	// rateWindow parts the two answers a refused caller gets: limits with a
	// shorter window say "rate_limited" (wait a moment), the others
	// "quota_exceeded" (your plan is used up).
	rateWindow = time.Hour

	// buckets is how many entries a sliding window is remembered by.
	buckets = 60

	// exactUnits is the largest limit that is remembered call by call.
	exactUnits = 60
)

// Period is a span of the calendar that a limit counts in, instead of a
// sliding window.
type Period string

// The periods.
const (
	// CalendarMonth is a month in UTC.
	CalendarMonth Period = "month"

	// BillingPeriod is the tenant's own billing period (tenant.Tenant
	// PeriodStart and PeriodEnd); a calendar month for a tenant that has none.
	BillingPeriod Period = "billing"
)

// Limit says how many units may be used in any window of a length, or in a
// period. Make one with [PerHour] and its siblings. Exactly one of Window and
// Period is set.
type Limit struct {
	// Name tells the limits of a plan apart, in refusals and to the tenant.
	// Defaults to the window ("hour", "15m0s") or the period ("month").
	Name string

	// Units is how many units the limit allows, 1 to MaxUnits.
	Units int64

	// Window is the length of a sliding window, 10 ms to 400 days: no window
	// of that length, wherever it begins, ever holds more than Units.
	Window time.Duration

	// Period counts from the start of a calendar or billing period instead.
	Period Period
}

// Per allows units in any window of the given length.
func Per(window time.Duration, units int64) Limit {
	return Limit{Units: units, Window: window}
}

// PerMinute allows units in any 60 seconds.
func PerMinute(units int64) Limit { return Per(time.Minute, units) }

// PerHour allows units in any 60 minutes.
func PerHour(units int64) Limit { return Per(time.Hour, units) }

// PerDay allows units in any 24 hours.
func PerDay(units int64) Limit { return Per(24*time.Hour, units) }

// PerMonth allows units in each calendar month, in UTC.
func PerMonth(units int64) Limit { return Limit{Units: units, Period: CalendarMonth} }

// PerBillingPeriod allows units in each billing period of the tenant.
func PerBillingPeriod(units int64) Limit { return Limit{Units: units, Period: BillingPeriod} }

// Resolution is how much later than Window a limiter may release a unit, so
// that it can remember many calls as one: a sixtieth of the window, or a
// millisecond for a limit of at most 60 units. It never releases one early.
func (l Limit) Resolution() time.Duration {
	if l.Units <= exactUnits {
		return time.Millisecond
	}
	return max(l.Window/buckets, time.Millisecond)
}

// short reports whether a refusal by this limit is a matter of moments.
func (l Limit) short() bool { return l.Period == "" && l.Window < rateWindow }

func (l Limit) withName() Limit {
	if l.Name != "" {
		return l
	}
	switch {
	case l.Period != "":
		l.Name = string(l.Period)
	case l.Window == time.Minute:
		l.Name = "minute"
	case l.Window == time.Hour:
		l.Name = "hour"
	case l.Window == 24*time.Hour:
		l.Name = "day"
	default:
		l.Name = l.Window.String()
	}
	return l
}

func (l Limit) validate(field string) error {
	var errs []error
	if l.Units < 1 || l.Units > MaxUnits {
		errs = append(errs, fmt.Errorf("%s.Units: %d is not within 1 and %d", field, l.Units, int64(MaxUnits)))
	}
	switch {
	case l.Period == "" && (l.Window < minWindow || l.Window > maxWindow || l.Window%time.Millisecond != 0):
		errs = append(errs, fmt.Errorf("%s.Window: %v is not a number of milliseconds within %v and %v", field, l.Window, minWindow, maxWindow))
	case l.Period != "" && l.Window != 0:
		errs = append(errs, fmt.Errorf("%s: Window and Period are both set", field))
	case l.Period != "" && l.Period != CalendarMonth && l.Period != BillingPeriod:
		errs = append(errs, fmt.Errorf("%s.Period: unknown period %q", field, l.Period))
	}
	return errors.Join(errs...)
}

// id is what two limits of one scope must not share: they would be one counter.
func (l Limit) id() string {
	if l.Period != "" {
		return string(l.Period)
	}
	return l.Window.String()
}
