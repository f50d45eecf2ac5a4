package apikey

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

const (
	touchEvery = time.Minute      // how exact last_used_at is
	flushEvery = 10 * time.Second // how late it is written
	sweepEvery = time.Hour
	flushLimit = 5 * time.Second // for the last flush, at the end of Run
)

// Run follows the table of keys and writes when keys were last used, until ctx
// is done; what is not written yet is written then. It returns nil.
func (s *Store) Run(ctx context.Context) error {
	var background sync.WaitGroup
	background.Go(func() { s.feed.Run(ctx) }) // outlives every failure, returns nil
	background.Go(func() { s.keep(ctx) })
	background.Wait()
	return nil
}

// keep does what is due now and then.
func (s *Store) keep(ctx context.Context) {
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-flush.C:
			s.flush(ctx)
		case <-sweep.C:
			s.memory.sweep(s.opts.Now())
			s.prune(ctx)
		case <-ctx.Done():
			// The context is done, the uses of the last seconds still count.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
			defer cancel()
			s.flush(last)
			return
		}
	}
}

// touch notes that a key was used, unless that was noted within the minute.
func (s *Store) touch(e *entry, now time.Time) {
	seconds, last := now.Unix(), e.used.Load()
	if seconds-last < int64(touchEvery/time.Second) || !e.used.CompareAndSwap(last, seconds) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched[e.id] = now // bounded by the number of keys
}

const touchSQL = `
update mcpsaas.api_keys k set last_used_at = u.at
from unnest($1::text[], $2::timestamptz[]) as u (id, at)
where k.id = u.id and (k.last_used_at is null or k.last_used_at < u.at)`

// flush writes the uses that were noted. What can't be written is kept for the
// next time.
func (s *Store) flush(ctx context.Context) {
	s.mu.Lock()
	touched := s.touched
	s.touched = make(map[keyID]time.Time)
	s.mu.Unlock()
	if len(touched) == 0 {
		return
	}
	ids := slices.SortedFunc(maps.Keys(touched), func(a, b keyID) int { return slices.Compare(a[:], b[:]) })
	names, times := make([]string, len(ids)), make([]time.Time, len(ids))
	for i, id := range ids {
		names[i], times[i] = id.String(), touched[id]
	}
	if _, err := s.pool.Exec(ctx, touchSQL, names, times); err != nil {
		s.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "apikey: last uses not written, will try again", slog.Any("err", pgredact.Error(err)))
		s.mu.Lock()
		defer s.mu.Unlock()
		for id, at := range touched {
			if s.touched[id].Before(at) {
				s.touched[id] = at
			}
		}
	}
}

const (
	pruneHandoffsSQL = `delete from mcpsaas.api_key_handoffs where expires_at < now()`
	pruneProbesSQL   = `delete from mcpsaas.api_keys where 'canary' = any (scopes) and expires_at < now() - interval '1 day'`
)

// prune deletes what can be of no use any more.
func (s *Store) prune(ctx context.Context) {
	for _, sql := range []string{pruneHandoffsSQL, pruneProbesSQL} {
		if _, err := s.pool.Exec(ctx, sql); err != nil {
			s.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "apikey: not pruned, will try again", slog.Any("err", pgredact.Error(err)))
		}
	}
}
