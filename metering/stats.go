package metering

import "sync/atomic"

// Stats are counts since the Meter was made.
type Stats struct {
	Admitted    int64 // calls that ran, free ones and replays too
	Denied      int64 // calls that a limit refused, or whose tool the plan does not have
	Unmetered   int64 // calls let through while the limiter was away
	Unavailable int64 // calls refused because the limiter was away, or the sink known not to take their events
	Replayed    int64 // calls that an earlier charge paid for, by idempotency key

	// SettleFailed counts calls whose units could not be given back, or taken
	// in addition, because the limiter was away. They are given back later if
	// there is a journal, else they stay as reserved.
	SettleFailed int64

	// Unjournaled counts what the limiter will not be told of when it is back,
	// for want of a journal or because the journal did not take it, and InDoubt
	// the questions whose answers were lost and of which nothing tells, for want
	// of a journal or of a limiter with receipts, whether they were carried out:
	// those calls may be counted too much, never too little.
	Unjournaled, InDoubt int64

	// Unrecorded counts answers that were withheld because their usage could
	// not be made durable, and EventsLost the events of uncharged calls (a
	// refusal, an error) that were answered all the same.
	Unrecorded, EventsLost int64

	// AlertsTold counts alerts that were told by this process, AlertsFailed the
	// tries that failed and will be repeated, and AlertsLost the alerts that
	// were given up.
	AlertsTold, AlertsFailed, AlertsLost int64

	// BreakerOpen is set while the limiter is not asked, after repeated failures.
	BreakerOpen bool
}

type counters struct {
	admitted, denied, unmetered, unavailable, replayed atomic.Int64
	settleFailed, unrecorded, eventsLost               atomic.Int64
	unjournaled, inDoubt                               atomic.Int64
}

// Stats returns the counts so far.
func (m *Meter) Stats() Stats {
	return Stats{
		Admitted:     m.admitted.Load(),
		Denied:       m.denied.Load(),
		Unmetered:    m.unmetered.Load(),
		Unavailable:  m.unavailable.Load(),
		Replayed:     m.replayed.Load(),
		SettleFailed: m.settleFailed.Load(),
		Unrecorded:   m.unrecorded.Load(),
		EventsLost:   m.eventsLost.Load(),
		AlertsTold:   m.watch.told.Load(),
		AlertsFailed: m.watch.failed.Load(),
		AlertsLost:   m.watch.lost.Load(),
		Unjournaled:  m.unjournaled.Load(),
		InDoubt:      m.inDoubt.Load(),
		BreakerOpen:  m.guard.open(),
	}
}
