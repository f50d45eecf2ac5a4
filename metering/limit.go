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

	// maxSlots is the largest limit of calls in flight: each of them is
	// remembered by itself.
	maxSlots = 10_000

	// exactUnits is the largest limit that is remembered call by call.
	exactUnits = 60
)

// Period is a span of the calendar that a limit counts in, instead of a
// sliding window.
type Period string

// The periods.
const (
	// CalendarDay is a day in UTC.
	CalendarDay Period = "day"

	// CalendarMonth is a month in UTC.
	CalendarMonth Period = "month"

	// BillingPeriod is the tenant's own billing period (tenant.Tenant
	// PeriodStart and PeriodEnd); a calendar month for a tenant that has none.
	BillingPeriod Period = "billing"
)

// Mode says what a limit does with a call that it does not admit.
type Mode string

// The modes.
const (
	// Hard refuses the call. The empty Mode is Hard.
	Hard Mode = "hard"

	// Soft refuses nothing. The tenant is told where it stands, and its alerts
	// say how far beyond the limit it is.
	Soft Mode = "soft"

	// Shadow refuses nothing and is not shown to the tenant: a new limit that
	// is tried out. What it would have refused is in [Observation.Over], in the
	// log once per period, and in alerts to the operator.
	//
	// Soft and shadow limits count every call, those too that they would have
	// refused; so once a sliding window holds more than its limit, they tell of
	// each call until it holds less, where a hard one would have let some
	// through.
	Shadow Mode = "shadow"
)

// Limit says how many units may be used in any window of a length, or in a
// period, or how many calls may run at once. Make one with [PerHour] and its
// siblings. Exactly one of Window, Period and Hold is set.
type Limit struct {
	// Name tells the limits of a plan apart, in refusals and to the tenant.
	// Defaults to the window ("hour", "15m0s"), the period ("month") or
	// "concurrent".
	Name string

	// Units is how many units the limit allows, 1 to MaxUnits.
	Units int64

	// Window is the length of a sliding window, 10 ms to 400 days: no window
	// of that length, wherever it begins, ever holds more than Units.
	Window time.Duration

	// Period counts from the start of a calendar or billing period instead.
	Period Period

	// Hold counts the calls in flight instead: whatever it costs, a call takes
	// one slot, which is free again when the call is settled. Hold is how long
	// a slot stays taken that nobody renews, so that a process that dies does
	// not keep it; 1 s to 1 h. The Meter renews the slots of calls that run.
	Hold time.Duration

	// Mode says what becomes of a call that the limit does not admit.
	// Defaults to Hard.
	Mode Mode
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

// Concurrent allows so many calls at once. It costs a call a second question to
// the limiter, when it ends.
func Concurrent(calls int64) Limit { return Limit{Units: calls, Hold: 30 * time.Second} }

// Resolution is how much later than Window a limiter may release a unit, so
// that it can remember many calls as one: a sixtieth of the window, or a
// millisecond for a limit of at most 60 units. It never releases one early.
func (l Limit) Resolution() time.Duration {
	if l.Units <= exactUnits {
		return time.Millisecond
	}
	return max(l.Window/buckets, time.Millisecond)
}

// short reports whether a refusal by this limit is a matter of moments, as that
// of calls in flight is.
func (l Limit) short() bool { return l.Period == "" && l.Window < rateWindow }

func (l Limit) withName() Limit {
	if l.Name != "" {
		return l
	}
	switch {
	case l.Period != "":
		l.Name = string(l.Period)
	case l.Hold != 0:
		l.Name = "concurrent"
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
	kinds := 0
	for _, set := range []bool{l.Window != 0, l.Period != "", l.Hold != 0} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		errs = append(errs, fmt.Errorf("%s: more than one of Window, Period and Hold is set", field))
	case l.Hold != 0 && (l.Hold < time.Second || l.Hold > time.Hour || l.Hold%time.Millisecond != 0):
		errs = append(errs, fmt.Errorf("%s.Hold: %v is not a number of milliseconds within 1s and 1h", field, l.Hold))
	case l.Hold != 0 && l.Units > maxSlots:
		errs = append(errs, fmt.Errorf("%s.Units: %d calls at once are more than %d", field, l.Units, maxSlots))
	case l.Hold == 0 && l.Period == "" && (l.Window < minWindow || l.Window > maxWindow || l.Window%time.Millisecond != 0):
		errs = append(errs, fmt.Errorf("%s.Window: %v is not a number of milliseconds within %v and %v", field, l.Window, minWindow, maxWindow))
	case l.Period != "" && l.Period != CalendarDay && l.Period != CalendarMonth && l.Period != BillingPeriod:
		errs = append(errs, fmt.Errorf("%s.Period: unknown period %q", field, l.Period))
	}
	if l.Mode != "" && l.Mode != Hard && l.Mode != Soft && l.Mode != Shadow {
		errs = append(errs, fmt.Errorf("%s.Mode: unknown mode %q", field, l.Mode))
	}
	return errors.Join(errs...)
}

// hard reports whether the limit refuses.
func (l Limit) hard() bool { return l.Mode == "" || l.Mode == Hard }

// id is what two limits of one scope share that go by one counter.
func (l Limit) id() string {
	switch {
	case l.Period != "":
		return string(l.Period)
	case l.Hold != 0:
		return "concurrent"
	default:
		return l.Window.String()
	}
}
