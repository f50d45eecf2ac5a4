package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// lease is a connection on loan. Release closes one that is busy or in a
// transaction.
type lease interface {
	Conn() *pgx.Conn
	Release()
}

// route leads to a tenant's rows.
type route struct {
	tenant   tenant.ID
	id       string // the same
	epoch    int64  // of the placement; zero for a router that knows of none
	database string // reference of a database of its own; empty for the home database
	schema   string // the tenant's own, and its role; empty for the shared tables
	limits   Limits

	readOnly bool      // no statement may write
	replica  bool      // by way of the replica
	lost     time.Time // when a route first led nowhere, if one has
}

const (
	// movePatience is how long a call looks for rows that are nowhere: in the
	// switch between two databases the old place is closed before the new one
	// opens. [MoverOptions.MaxPause] is shorter.
	movePatience = 2 * time.Second

	// movePause is between two looks at the same place.
	movePause = 10 * time.Millisecond
)

// find returns the route to the rows of the tenant in ctx, with what the caller
// wants of it: readOnly, replica, limits, and lost.
func (db *DB) find(ctx context.Context, want route) (route, error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return route{}, tenant.ErrNone
	}
	if t.ID == Sentinel {
		return route{}, ErrUnknownTenant
	}
	r := want
	r.tenant, r.id, r.epoch, r.schema, r.database = t.ID, t.ID.String(), 0, "", ""
	if db.directory != nil {
		e, ok := db.directory.entry(t.ID)
		if !ok {
			// It may be a moment old. Whoever got here is authenticated, so that
			// waiting for the next poll can't be used to wear the database out.
			if err := db.directory.Sync(ctx); err != nil {
				return route{}, err
			}
			if e, ok = db.directory.entry(t.ID); !ok {
				return route{}, ErrUnknownTenant
			}
		}
		t, r.epoch = e.tenant, e.epoch
		switch e.placement.Tier {
		case TierSchema:
			r.schema = SchemaName(t.ID)
		case TierDatabase:
			r.database = e.placement.Database
		}
	}
	if db.limits != nil {
		r.limits = want.limits.or(db.limits(t))
	}
	r.replica = want.replica && r.database == "" && db.replica.ready()
	return r, nil
}

// acquire takes a connection that leads to the rows, and sees to it that it is
// fit to be used.
func (db *DB) acquire(ctx context.Context, r route) (lease, *session, error) {
	l, err := db.lend(ctx, r)
	if err != nil {
		return nil, nil, &notEntered{redact(err)}
	}
	s, err := db.session(ctx, l.Conn())
	if err != nil {
		l.Release()
		return nil, nil, &notEntered{err}
	}
	return l, s, nil
}

func (db *DB) lend(ctx context.Context, r route) (lease, error) {
	switch {
	case r.database != "" && db.tenants == nil:
		return nil, errors.New("tenancy: the tenant's rows are in a database of its own, and Options.Databases is not set")
	case r.database != "":
		return db.tenants.acquire(ctx, r.database)
	case r.replica:
		return db.replica.acquire(ctx)
	case r.schema != "" && db.tenants != nil && db.tenants.schemas:
		return db.tenants.acquireSchema(ctx, r.schema)
	}
	return acquireFrom(ctx, db.pool)
}

// acquireFrom keeps a nil pointer from becoming an interface that isn't nil.
func acquireFrom(ctx context.Context, pool *pgxpool.Pool) (lease, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// notEntered is an error that came before the tenant's context was set, so that
// nothing of the caller's has run.
type notEntered struct{ error }

func (e *notEntered) Unwrap() error { return e.error }

// errElsewhere is enter's answer if the tenant's rows are not where the route
// leads.
var errElsewhere = errors.New("the tenant's rows are not here")

// instead returns the route to take after an attempt by r ended with err, if
// there is another; nothing of the caller's has run then. Otherwise it returns
// the error for the caller.
func (db *DB) instead(ctx context.Context, r route, err error) (route, error) {
	n, ok := errors.AsType[*notEntered](err)
	if !ok || ctx.Err() != nil {
		if ok {
			err = n.error
		}
		return route{}, err
	}
	err = n.error
	switch {
	case errors.Is(err, ErrTampered):
		return route{}, err
	case r.replica:
		if !errors.Is(err, errElsewhere) {
			db.replica.rest()
		}
		r.replica = false
		return r, nil
	case !errors.Is(err, errElsewhere):
		return route{}, err
	case db.directory == nil || !r.lost.IsZero() && time.Since(r.lost) > db.patience:
		return route{}, ErrMoved
	}
	if err := db.directory.Sync(ctx); err != nil {
		return route{}, fmt.Errorf("%w: %w", ErrMoved, err)
	}
	if r.lost.IsZero() {
		r.lost = time.Now()
	}
	next, err := db.find(ctx, r)
	if err != nil || next.epoch != r.epoch {
		return next, err
	}
	pause := time.NewTimer(movePause)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return route{}, fmt.Errorf("%w: %w", ErrMoved, ctx.Err())
	case <-pause.C:
		return next, nil
	}
}
