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

// place is where a tenant's rows are, or are to be, as their owner reaches it.
// What it gives access to is not checked against the table of tenants again:
// [Data.hold] sees to it that the tenant stays where it is.
type place struct {
	tenant tenant.ID
	at     Placement

	// schema is where a name without one is looked for: public, or the tenant's
	// own.
	schema string

	// control logs in as the owner and runs as the control role, owner runs as
	// the owner. Both are of the database that the place is in.
	control, owner *pgxpool.Pool

	pools *ownerPools
}

// placeAt returns a place that need not be the tenant's, nor exist. It doesn't
// connect.
func (d *Data) placeAt(id tenant.ID, at Placement) (place, error) {
	if id.IsZero() || id == Sentinel {
		return place{}, ErrUnknownTenant
	}
	if err := at.validate(); err != nil {
		return place{}, err
	}
	if at.Tier == "" {
		at.Tier = TierShared
	}
	p := place{tenant: id, at: at, schema: "public", pools: d.pools}
	if at.Tier == TierSchema {
		p.schema = SchemaName(id)
	}
	var err error
	if p.control, err = d.pools.get(at.Database, false); err != nil {
		return place{}, err
	}
	if p.owner, err = d.pools.get(at.Database, true); err != nil {
		return place{}, err
	}
	return p, nil
}

// within runs fn in a transaction of the control role, under the tenant's
// policies: a fault in it can't reach another tenant's rows, nor one in any
// table that isn't protected.
func (p place) within(ctx context.Context, opts pgx.TxOptions, fn func(tx pgx.Tx) error) error {
	return p.run(ctx, p.control, opts, fn)
}

// asOwner runs fn in a transaction of the owner. The policies bind it too, in
// protected tables, unless it is a superuser.
func (p place) asOwner(ctx context.Context, opts pgx.TxOptions, fn func(tx pgx.Tx) error) error {
	return p.run(ctx, p.owner, opts, fn)
}

func (p place) run(ctx context.Context, pool *pgxpool.Pool, opts pgx.TxOptions, fn func(tx pgx.Tx) error) error {
	conn, err := p.acquire(ctx, pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	return pgx.BeginTxFunc(ctx, conn, opts, func(tx pgx.Tx) error {
		if err := p.enter(ctx, tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

// acquireBound is how long a connection may take to be had. Whoever waits may
// hold the tenant's lock.
const acquireBound = 30 * time.Second

// acquire takes a connection of one of the place's two pools. Its errors name the
// reference of a database, never its address.
func (p place) acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	bounded, cancel := context.WithTimeout(ctx, acquireBound)
	defer cancel()
	conn, err := pool.Acquire(bounded)
	if err != nil && p.at.Tier == TierDatabase && p.pools.renew(p.at.Database, err) {
		conn, err = pool.Acquire(bounded) // the password may be a new one
	}
	known, resolving := errors.AsType[*ResolveError](err)
	switch {
	case err == nil:
		return conn, nil
	case p.at.Tier != TierDatabase || ctx.Err() != nil:
		return nil, redact(err)
	case resolving:
		return nil, known
	}
	return nil, fmt.Errorf("%w %q: %w", ErrDatabaseUnavailable, p.at.Database, redact(err))
}

// enterPlaceSQL makes a transaction the tenant's. It checks no fence: this side
// reads the placement itself, and holds it.
const enterPlaceSQL = `select set_config('search_path', $1, true), set_config('` + Setting + `', $2, true),
	set_config('` + tokenSetting + `', mcpsaas.token($2), true)`

// enter makes tx, which has run nothing yet, the tenant's.
func (p place) enter(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, enterPlaceSQL, p.path(), p.tenant.String())
	return err
}

// path ends with pg_temp, which would else be searched first.
func (p place) path() string { return pgx.Identifier{p.schema}.Sanitize() + ", pg_temp" }

// holding says against whom a tenant's place is held.
type holding int

const (
	holdShared    holding = iota // against those who hold it alone
	holdExclusive                // against everybody
	holdMove                     // against everybody, also if a move has begun
)

// holdSQL locks a tenant against others of this side, for as long as the
// transaction lasts. Tenants' own transactions take no notice of it.
const (
	holdSharedSQL    = `select pg_advisory_xact_lock_shared(hashtextextended($1, 7809644653577529455))`
	holdExclusiveSQL = `select pg_advisory_xact_lock(hashtextextended($1, 7809644653577529455))`

	holdSettingsSQL = `select set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '0', true)`

	homeSQL = `select placement, database_ref, epoch, status from mcpsaas.tenants where id = $1`
)

// home is what the table of tenants says of one.
type home struct {
	known  bool // else the tenant is one of the shared tables, as everybody is by default
	status tenant.Status
	epoch  int64
}

// hold runs fn with the place that the tenant is in, and keeps it there: whoever
// makes, moves, copies, fills or empties a tenant's place holds it. tx is the
// transaction that does, in the database of the table of tenants: read committed,
// as the control role, and committed if fn returns nil. It isn't the
// one to work with, since a snapshot of it could be older than the wait for the
// lock: [place.within] takes another connection, so that a pool of n connections
// lets n/2 of them in at a time.
func (d *Data) hold(ctx context.Context, id tenant.ID, how holding, fn func(tx pgx.Tx, h home, p place) error) error {
	if id.IsZero() || id == Sentinel {
		return ErrUnknownTenant
	}
	select {
	case d.turns <- struct{}{}:
		defer func() { <-d.turns }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := pgx.BeginTxFunc(ctx, d.control, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, holdSettingsSQL); err != nil {
			return err
		}
		sql := holdSharedSQL
		if how != holdShared {
			sql = holdExclusiveSQL
		}
		if _, err := tx.Exec(ctx, sql, id.String()); err != nil {
			if sqlState(err) == "55P03" { // lock_not_available
				err = ErrTenantBusy
			}
			return err
		}
		h, at := home{epoch: 1}, Placement{}
		var tier string
		var database *string
		err := tx.QueryRow(ctx, homeSQL, id).Scan(&tier, &database, &h.epoch, &h.status)
		switch {
		case err == nil:
			h.known, at = true, placementOf(tier, database)
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		if how != holdMove {
			if err := standsStill(ctx, tx, id); err != nil {
				return err
			}
		}
		p, err := d.placeAt(id, at)
		if err != nil {
			return err
		}
		return fn(tx, h, p)
	})
	return redact(err)
}

const (
	// movingSQL also finds a move that nobody works on: its end decides which of two
	// copies counts.
	movingSQL = `select exists (select from mcpsaas.moves where tenant_id = $1 and state not in ('kept', 'purged', 'aborted'))`

	keptSQL = `select distinct source from mcpsaas.moves where tenant_id = $1 and state = 'kept'`
)

// standsStill fails if a move of the tenant has begun and not come to its end.
func standsStill(ctx context.Context, tx pgx.Tx, id tenant.ID) error {
	var yes bool
	if err := tx.QueryRow(ctx, movingSQL, id).Scan(&yes); err != nil || !yes {
		return err
	}
	return fmt.Errorf("%w: a move has begun: end or abort it first", ErrTenantBusy)
}

// keptCopies are the places that moves have left a copy in.
func keptCopies(ctx context.Context, tx pgx.Tx, id tenant.ID) ([]Placement, error) {
	rows, err := tx.Query(ctx, keptSQL, id)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Placement, error) {
		var s string
		if err := row.Scan(&s); err != nil {
			return Placement{}, err
		}
		return ParsePlacement(s)
	})
}
