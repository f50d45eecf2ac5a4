package pgledger

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
)

var errNoSlot = errors.New("no free slot")

const takenSQL = `select slot from mcpsaas.usage_batches where target_id = $1 and slot >= $2 and slot <= $3`

// slot returns a free slot for a batch of p whose last event occurred at
// latest: that time, else the nearest free one after it that is not in the
// future, else the nearest before it, else the nearest in the future that the
// provider takes.
func (s sealer) slot(ctx context.Context, p period, latest time.Time) (time.Time, error) {
	caps := s.caps(p.target)
	step := max(caps.SlotGranularity, time.Millisecond)
	lowest, highest, ok := slots(p, caps, step, s.now.Add(caps.MaxFuture))
	if !ok {
		return time.Time{}, errNoSlot
	}
	want := clamp(latest.Truncate(step), lowest, highest)
	present := clamp(s.now.Truncate(step), want, highest)
	for _, scan := range []struct {
		from, to time.Time
		step     time.Duration
	}{
		{want, present, step},
		{want.Add(-step), lowest, -step},
		{present.Add(step), highest, step},
	} {
		if slot, err := s.scan(ctx, p.targetID, scan.from, scan.to, scan.step); err != nil || !slot.IsZero() {
			return slot, err
		}
	}
	return time.Time{}, errNoSlot
}

// slots returns the first and the last slot that a batch of p may have, none of
// them after ahead.
//
// They lie strictly within the period: at its very start a provider may count
// usage to the one before. A provider that adds up by windows may also round a
// period's bounds to them, down or up, so the windows that the bounds fall into
// are left out where the period has others.
func slots(p period, caps billing.Caps, step time.Duration, ahead time.Time) (lowest, highest time.Time, ok bool) {
	start := p.start.Add(time.Second)
	for _, limit := range []struct{ lowest, end time.Time }{
		{ceil(ceil(start, max(caps.VerifyWindow, step)), step), p.until.Truncate(max(caps.VerifyWindow, 1))},
		{ceil(start, step), p.until},
		// The subscription ended before its first slot.
		{ceil(start, step), p.end},
	} {
		lowest, highest = limit.lowest, ahead.Truncate(step)
		if !highest.Before(limit.end) {
			highest = limit.end.Add(-1).Truncate(step)
		}
		if !highest.Before(lowest) {
			return lowest, highest, true
		}
		if lowest.Before(limit.end) {
			return lowest, highest, false // still to come
		}
	}
	return lowest, highest, false
}

// scan returns the first free slot from one time to another in steps that may
// be negative, or zero. It gives up after a few thousand that are all taken:
// whoever seals that often can do so later, with more usage in each batch.
func (s sealer) scan(ctx context.Context, target int64, from, to time.Time, step time.Duration) (time.Time, error) {
	const page, pages = 1000, 4
	past := func(t time.Time) bool { return step > 0 && t.After(to) || step < 0 && t.Before(to) }
	for range pages {
		if past(from) {
			break
		}
		end := from.Add((page - 1) * step)
		low, high := from, end
		if step < 0 {
			low, high = end, from
		}
		rows, err := s.tx.Query(ctx, takenSQL, target, low, high)
		if err != nil {
			return time.Time{}, err
		}
		slots, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
		if err != nil {
			return time.Time{}, err
		}
		taken := make(map[int64]bool, len(slots))
		for _, t := range slots {
			taken[t.UnixMicro()] = true
		}
		for range page {
			if past(from) {
				return time.Time{}, nil
			}
			if !taken[from.UnixMicro()] {
				return from, nil
			}
			from = from.Add(step)
		}
	}
	return time.Time{}, nil
}

func ceil(t time.Time, step time.Duration) time.Time {
	if down := t.Truncate(step); down.Before(t) {
		return down.Add(step)
	}
	return t
}

func clamp(t, low, high time.Time) time.Time {
	if t.Before(low) {
		return low
	}
	if t.After(high) {
		return high
	}
	return t
}
