package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgfeed"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Directory has every tenant in memory, at most a second out of date: who
// calls is looked up without a round trip, and a change of plan or status holds
// on every replica a second after its commit. It is safe for concurrent use.
type Directory struct {
	feed *pgfeed.Feed

	mu      sync.RWMutex
	tenants map[tenant.ID]entry
}

// entry is a tenant and where its rows live.
type entry struct {
	tenant    tenant.Tenant
	placement Placement
	epoch     int64
}

// DirectoryOptions configure [NewDirectory]. The zero value is the default.
type DirectoryOptions struct {
	// PollOnly does without LISTEN, for a control pool behind a transaction
	// pooler: a change is then seen by the next poll.
	PollOnly bool

	// Logger gets one record when the directory stops following the table and
	// one when it follows again.
	// Defaults to none.
	Logger *slog.Logger
}

const directorySQL = `
select id, plan, status, version, period_start, period_end, placement, database_ref, epoch, limits
from mcpsaas.tenants where changed >= $1`

// NewDirectory returns a directory that reads through the control pool. It is
// empty until [Directory.Run] is called.
func NewDirectory(control *pgxpool.Pool, opts *DirectoryOptions) (*Directory, error) {
	if control == nil {
		return nil, errors.New("tenancy: new directory: the control pool is nil")
	}
	if opts == nil {
		opts = &DirectoryOptions{}
	}
	d := &Directory{tenants: make(map[tenant.ID]entry)}
	source := pgfeed.Source[entry]{Query: directorySQL, Scan: scanEntry, Apply: d.apply, Channel: channel}
	if opts.PollOnly {
		source.Channel = ""
	}
	var err error
	if d.feed, err = pgfeed.New(control, source, &pgfeed.Options{Logger: opts.Logger}); err != nil {
		return nil, fmt.Errorf("tenancy: new directory: %w", err)
	}
	return d, nil
}

func scanEntry(row pgx.CollectableRow) (entry, error) {
	var e entry
	var start, end *time.Time
	var tier string
	var database *string
	err := row.Scan(&e.tenant.ID, &e.tenant.Plan, &e.tenant.Status, &e.tenant.Version, &start, &end, &tier, &database, &e.epoch, &e.tenant.Limits)
	e.placement = placementOf(tier, database)
	e.tenant.PeriodStart, e.tenant.PeriodEnd, e.tenant.Limits = utc(start), utc(end), orNone(e.tenant.Limits)
	return e, err
}

func (d *Directory) apply(entries []entry, full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if full {
		d.tenants = make(map[tenant.ID]entry, len(entries))
	}
	for _, e := range entries {
		d.tenants[e.tenant.ID] = e
	}
}

// Run follows the table until ctx is done, and then returns nil.
func (d *Directory) Run(ctx context.Context) error { return d.feed.Run(ctx) }

// Ready waits until the table has been read once, or ctx is done.
func (d *Directory) Ready(ctx context.Context) error { return d.feed.Ready(ctx) }

// Sync waits until everything that was committed before the call is known, or
// ctx is done. A writer that is about to look up what it wrote calls it.
func (d *Directory) Sync(ctx context.Context) error { return d.feed.Sync(ctx) }

// Check fails while the directory was never read, or not for a second: a tenant
// may have been suspended meanwhile.
func (d *Directory) Check(ctx context.Context) error { return d.feed.Check(ctx) }

// Lookup returns the tenant of this id, from memory. ok is false if there is
// none; a tenant in any status is returned, deleted ones too: ask
// [tenant.Status.Serves].
func (d *Directory) Lookup(id tenant.ID) (t tenant.Tenant, ok bool) {
	e, ok := d.entry(id)
	return e.tenant, ok
}

// Placement returns where the tenant's rows live, from memory, and the epoch,
// which counts its moves from 1.
func (d *Directory) Placement(id tenant.ID) (p Placement, epoch int64, ok bool) {
	e, ok := d.entry(id)
	return e.placement, e.epoch, ok
}

func (d *Directory) entry(id tenant.ID) (e entry, ok bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e, ok = d.tenants[id]
	return e, ok
}
