package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// databaseWatch looks at tenants' own databases, some at a time and in turn, so
// that one which is away is seen without a monitor for each tenant. What it has
// found red it looks at each time.
type databaseWatch struct {
	control *pgxpool.Pool
	canary  func(ctx context.Context, tenantID string) error

	last string // the reference that the turn has come to

	mu  sync.Mutex
	at  time.Time // of the last look
	red []string  // the references of those that failed
}

const (
	watchEvery = 10 * time.Second
	watchSome  = 20              // databases at a time
	watchOne   = 5 * time.Second // for one of them
	watchStale = time.Minute
)

const (
	watchSQL = `
select distinct on (database_ref) database_ref, id from mcpsaas.tenants
where placement = 'database' and status = 'active' and database_ref > $1
order by database_ref limit $2`
	watchRedSQL = `
select distinct on (database_ref) database_ref, id from mcpsaas.tenants
where placement = 'database' and status = 'active' and database_ref = any($1)
order by database_ref`
)

// run looks until ctx ends.
func (w *databaseWatch) run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look takes its turn. Where the list can't be read, nothing is known of the
// databases either: check says so when it lasts.
func (w *databaseWatch) look(ctx context.Context) {
	some, turn := make(map[string]tenant.ID), make(map[string]tenant.ID)
	if err := w.read(ctx, some, watchRedSQL, w.red); err != nil {
		return
	}
	if err := w.read(ctx, turn, watchSQL, w.last, watchSome); err != nil {
		return
	}
	if len(turn) < watchSome {
		w.last = "" // from the beginning
	} else {
		w.last = slices.Max(slices.Collect(maps.Keys(turn)))
	}
	maps.Copy(some, turn)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var red []string
	slots := make(chan struct{}, watchSome)
	for ref, id := range some {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			one, cancel := context.WithTimeout(ctx, watchOne)
			defer cancel()
			if err := w.canary(one, id.String()); err != nil {
				mu.Lock()
				defer mu.Unlock()
				red = append(red, ref)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	slices.Sort(red)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.red = time.Now(), red
}

func (w *databaseWatch) read(ctx context.Context, some map[string]tenant.ID, sql string, args ...any) error {
	rows, err := w.control.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	var ref string
	var id tenant.ID
	_, err = pgx.ForEachRow(rows, []any{&ref, &id}, func() error {
		some[ref] = id
		return nil
	})
	return err
}

// check is what health runs.
func (w *databaseWatch) check(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.at.IsZero():
		return errors.New("tenants' own databases have not been looked at yet")
	case time.Since(w.at) > watchStale:
		return fmt.Errorf("tenants' own databases have not been looked at for %v", time.Since(w.at).Round(time.Second))
	case len(w.red) > 0:
		return fmt.Errorf("%d of tenants' own databases failed their canary: %q", len(w.red), w.red[:min(5, len(w.red))])
	}
	return nil
}
