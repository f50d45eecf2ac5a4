package metering

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	tellers      = 16 // alerts that are told at once
	storeTimeout = 2 * time.Second
	loadTimeout  = 5 * time.Second

	maxLoadFailures = 3 // in a row
)

// run tells what is found, until ctx is done. What is found by then is left in
// the store for another replica.
func (w *watcher) run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { w.every(ctx, w.retryStore(), w.wake, w.put) })
	group.Go(func() { w.every(ctx, time.Minute, w.fresh, w.load) })
	group.Go(func() { w.tellAll(ctx) })
	group.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	w.put(last)
	return nil
}

// lease is how long an alert is one replica's to tell.
func (w *watcher) lease() time.Duration { return 2 * w.o.Timeout }

// retryStore is how often the store is looked into without a reason.
func (w *watcher) retryStore() time.Duration { return min(5*time.Second, w.o.Timeout) }

// every calls do when woken, and from time to time.
func (w *watcher) every(ctx context.Context, interval time.Duration, wake <-chan struct{}, do func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-ticker.C:
		}
		do(ctx)
	}
}

// put brings what was found into the store. What can't be brought there stays.
func (w *watcher) put(ctx context.Context) {
	w.foundMu.Lock()
	found := slices.Collect(maps.Values(w.found))
	w.foundMu.Unlock()
	for _, a := range found {
		adding, cancel := context.WithTimeout(ctx, storeTimeout)
		added, err := w.o.Store.Add(adding, a, a.End.Add(alertMemory))
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				w.log.LogAttrs(ctx, slog.LevelWarn, "alerts can't be stored, they wait in memory", slog.Int("waiting", len(found)), slog.Any("err", err))
			}
			return
		}
		w.foundMu.Lock()
		delete(w.found, a.ID)
		w.foundMu.Unlock()
		if added {
			nudge(w.due)
		}
	}
}

// tellAll tells what is due, whoever found it.
func (w *watcher) tellAll(ctx context.Context) {
	slots := make(chan struct{}, tellers)
	// Who has begun to tell may end it, within a moment.
	telling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(storeTimeout, cancel) })
	var group sync.WaitGroup
	defer group.Wait()
	w.every(ctx, w.retryStore(), w.due, func(ctx context.Context) {
		for {
			select {
			case slots <- struct{}{}: // one is free at least
			case <-ctx.Done():
				return
			}
			free := 1 + cap(slots) - len(slots)
			claiming, cancel := context.WithTimeout(ctx, storeTimeout)
			alerts, err := w.o.Store.Claim(claiming, free, w.lease())
			cancel()
			<-slots
			if err != nil && ctx.Err() == nil {
				w.log.LogAttrs(ctx, slog.LevelWarn, "alerts can't be read, they wait", slog.Any("err", err))
			}
			for _, a := range alerts {
				slots <- struct{}{}
				group.Go(func() {
					defer func() { <-slots }()
					w.tell(telling, a)
				})
			}
			if len(alerts) < free {
				return
			}
		}
	})
}

// tell tries to tell an alert and notes what came of it.
func (w *watcher) tell(ctx context.Context, a Alert) {
	err := w.try(ctx, a)
	again, count := time.Duration(-1), &w.told
	switch {
	case err == nil:
	case ctx.Err() != nil: // stopped from outside: another replica's turn
		again, count = 0, nil
	case w.now().Sub(a.Time) > w.o.RetryFor:
		count = &w.lost
		w.log.LogAttrs(ctx, slog.LevelError, "alert given up", slog.String("tenant", a.Tenant.String()), slog.String("event", a.ID), slog.Int("attempt", a.Attempt), slog.Any("err", err))
	default:
		again, count = maxAlertBackoff, &w.failed
		if a.Attempt < 20 {
			again = min(again, w.o.Backoff<<(a.Attempt-1))
		}
		w.log.LogAttrs(ctx, slog.LevelWarn, "alert not told, it will be tried again", slog.String("tenant", a.Tenant.String()), slog.String("event", a.ID), slog.Int("attempt", a.Attempt), slog.Any("err", err))
	}
	// Not noting it down would have it told again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := w.o.Store.Release(ctx, a, again); err != nil {
		w.log.LogAttrs(ctx, slog.LevelWarn, "told alert not noted down, it will be told again", slog.String("event", a.ID), slog.Any("err", err))
	}
	if again > 0 {
		time.AfterFunc(again, func() { nudge(w.due) })
	}
	if count != nil {
		count.Add(1) // when all is noted down: whoever sees it may go by that
	}
}

func (w *watcher) try(ctx context.Context, a Alert) (err error) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("metering: tell alert: panic: %v", v)
		}
	}()
	return w.o.Tell(ctx, a)
}

// load asks for the thresholds of tenants that make calls, and forgets tenants
// that don't.
func (w *watcher) load(ctx context.Context) {
	now := w.now()
	w.mu.Lock()
	var ids []tenant.ID
	for id, t := range w.tenants {
		if seen := t.seen.Load(); seen > 0 && now.Unix()-seen > int64(watchedIdle/time.Second) {
			delete(w.tenants, id)
			continue
		}
		t.mu.Lock()
		if w.o.OwnPercent != nil && (t.asked.IsZero() || now.Sub(t.asked) >= ownPercentAge) {
			ids = append(ids, id)
		}
		t.mu.Unlock()
	}
	w.mu.Unlock()
	failed := 0
	for _, id := range ids {
		loading, cancel := context.WithTimeout(ctx, loadTimeout)
		percent, err := w.o.OwnPercent(loading, id)
		cancel()
		w.mu.RLock()
		t := w.tenants[id]
		w.mu.RUnlock()
		if ctx.Err() != nil || t == nil {
			continue
		}
		again := ownPercentAge
		if err == nil {
			if percent == 0 || percent > 100 {
				percent = defaultOwnPercent
			}
			t.own.Store(int32(percent))
		} else {
			again = time.Minute
		}
		t.mu.Lock()
		t.asked = now.Add(again - ownPercentAge)
		t.mu.Unlock()
		if err != nil {
			w.log.LogAttrs(ctx, slog.LevelWarn, "a tenant's threshold can't be read", slog.String("tenant", id.String()), slog.Any("err", err))
			if failed++; failed == maxLoadFailures {
				return // whatever it is asked of is away; in a minute again
			}
			continue
		}
		failed = 0
	}
}
