package pgledger

import (
	"context"
	"time"
)

// staleAfter is the age from which on usage is not moved to another period by
// itself, where the provider sets no limit: nobody expects it on an invoice any
// more. It is Stripe's (https://docs.stripe.com/api/billing/meter-event/create).
const staleAfter = 35 * 24 * time.Hour

const moveSQL = `
update mcpsaas.usage_events set bill_at = $4, mark = 'late', late_for = $5
where event_id in (
	select event_id from mcpsaas.usage_events
	where tenant_id = $1 and due and bill_at >= $2 and bill_at < $3 limit $6)`

// lateness is what becomes of usage whose billing period is over.
type lateness int

const (
	inTime  lateness = iota // sealed into its period, which takes it, or else is parked for a person
	moves                   // billed with the present period, and marked
	waiting                 // for the provider to tell of the present period
)

// lateness decides about usage of the time first, which the given periods
// cover.
func (s sealer) lateness(periods, covering []period, first time.Time) lateness {
	for _, p := range covering {
		caps := s.caps(p.target)
		oldest := caps.MaxAge
		if oldest == 0 {
			oldest = staleAfter
		}
		if s.now.Before(p.end.Add(caps.LateGrace)) || s.now.Sub(first) >= oldest {
			return inTime
		}
	}
	late := inTime // the subscription is over: there is no other period
	for _, p := range periods {
		switch {
		case !s.now.Before(p.since) && s.now.Before(p.until):
			return moves
		case p.live:
			late = waiting
		}
	}
	return late
}

// move has the due usage of [from, to) billed as of now. When it occurred, and
// the period it was of, stay with it.
func (s sealer) move(ctx context.Context, of period, from, to time.Time) error {
	_, err := s.tx.Exec(ctx, moveSQL, s.tenant, from, to, s.now, of.start, maxEvents)
	return err
}
