package pgledger

import (
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// span is a row of billing_periods as the planning below sees it.
type span struct {
	id           int64 // zero: to be inserted
	target       int64
	start, end   time.Time // the billing period
	since, until time.Time // what of it goes to the target
	live         bool      // the next period follows on it
	dirty        bool      // to be written
}

// bounds is what decides about periods in a subscription.
type bounds struct {
	bills      bool
	start, end time.Time
	ended      time.Time // zero: not ended
}

func boundsOf(s billing.Subscription) bounds {
	return bounds{bills: s.Status.Bills(), start: s.PeriodStart, end: s.PeriodEnd, ended: s.EndedAt}
}

// plan returns the spans of one subscription after it was seen as now, having
// been seen as before (nil: never), with its metered items on targets. at is
// when the change took effect.
//
// A subscription or period that is new counts from its own start. Within a
// known period, targets that come or go do so at the time of the change, so
// that no usage goes to both and none to neither. A period that went by unseen
// is filled in.
func plan(spans []span, before *bounds, now bounds, targets []int64, at time.Time) []span {
	if !now.bills {
		end := at
		if !now.ended.IsZero() {
			end = now.ended
		}
		for i := range spans {
			spans[i].endAt(end)
			spans[i].stop()
		}
		return spans
	}
	if !now.start.Before(now.end) {
		return spans // no period to speak of
	}
	since := now.start
	if before != nil && before.bills && before.start.Equal(now.start) {
		since = later(now.start, earlier(at, now.end))
	}
	wanted := make(map[int64]bool, len(targets))
	for _, t := range targets {
		wanted[t] = true
	}
	var gaps []span
	for i := range spans {
		s := &spans[i]
		switch {
		case !s.live:
			if !s.start.Equal(now.start) {
				s.endAt(now.start) // of another meter, in the period that was cut short
			}
		case !s.start.Equal(now.start):
			s.endAt(now.start)
			s.stop()
			if wanted[s.target] && s.until.Before(now.start) {
				gaps = append(gaps, span{
					target: s.target, start: s.end, end: now.start,
					since: s.until, until: now.start, dirty: true,
				})
			}
		case wanted[s.target]:
			delete(wanted, s.target)
			if !s.end.Equal(now.end) {
				s.end, s.until, s.dirty = now.end, now.end, true
			}
		default:
			s.cut(since)
			s.stop()
		}
	}
	spans = append(spans, gaps...)
	for _, t := range targets {
		if !wanted[t] {
			continue
		}
		delete(wanted, t) // named twice is wanted once
		spans = append(spans, span{
			target: t, start: now.start, end: now.end,
			since: since, until: now.end, live: true, dirty: true,
		})
	}
	return spans
}

// cut ends s at the given time, if it would last longer.
func (s *span) cut(at time.Time) {
	if at = later(at, s.since); at.Before(s.until) {
		s.until, s.dirty = at, true
	}
}

// endAt ends s and its billing period, which the provider cut short: its usage
// is taken for as long as that of any period that ends then. One that ended
// with its beginning keeps its length, for the sake of its slots.
func (s *span) endAt(at time.Time) {
	s.cut(at)
	if end := later(at, s.until); end.Before(s.end) && end.Sub(s.start) >= 2*time.Second {
		s.end, s.dirty = end, true
	}
}

func (s *span) stop() {
	if s.live {
		s.live, s.dirty = false, true
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
