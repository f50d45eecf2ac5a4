package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// GrantKind says where the units of a [Grant] come from.
type GrantKind string

// The kinds of grants.
const (
	GrantFree    GrantKind = "free"
	GrantPrepaid GrantKind = "prepaid"
)

// Grant is a number of units that a tenant has for nothing, or has paid for
// already. Usage that occurred while it is valid is taken from it when it is
// sealed, whenever that is, and only the rest is reported to the provider. Usage
// that was sealed before the grant was there is billed as it is.
type Grant struct {
	ID     tenant.ID `json:"id"` // chosen by AddGrant
	Tenant tenant.ID `json:"tenant"`
	Kind   GrantKind `json:"kind"` // defaults to GrantFree
	Units  int64     `json:"units"`

	// Priority decides which of several is used first: the lowest number, then
	// the one that expires first, then the oldest.
	Priority int `json:"priority"`

	// StartsAt and ExpiresAt bound the usage that it is for: from the one until
	// before the other. StartsAt defaults to now; a zero ExpiresAt is never.
	StartsAt  time.Time `json:"starts_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`

	// Reference is what it is for: an invoice, a checkout, a month. A tenant has
	// one grant for each, so that adding it twice is adding it once. Defaults to
	// its own ID.
	Reference string `json:"reference"`

	Actor  string `json:"actor"` // who gave it
	Reason string `json:"reason,omitempty"`

	// Remaining and CreatedAt are read, never written.
	Remaining int64     `json:"remaining"`
	CreatedAt time.Time `json:"created_at"`
}

// maxGrant bounds a grant, so that sums of them can't overflow.
const maxGrant = 1 << 53

const (
	addGrantSQL = `
insert into mcpsaas.billing_grants (id, tenant_id, kind, units, remaining, priority, starts_at, expires_at,
	reference, created_at, actor, reason)
values ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (tenant_id, reference) do nothing`

	grantColumns = `
select id, tenant_id, kind, units, remaining, priority, starts_at, expires_at, reference, created_at, actor, reason
from mcpsaas.billing_grants `

	grantOrder = ` order by priority, expires_at nulls last, created_at, id`

	sameGrantSQL = grantColumns + `where tenant_id = $1 and reference = $2`
	grantsSQL    = grantColumns + `where tenant_id = $1` + grantOrder
	oneGrantSQL  = grantColumns + `where id = $1`

	entrySQL = `
insert into mcpsaas.billing_grant_entries (at, grant_id, debit, credit, units, events_in, actor, reason)
values ($1, $2, $3, $4, $5, $6, $7, $8)`

	takeBackSQL = `update mcpsaas.billing_grants set taken_back = greatest(taken_back, least($2, units)) where id = $1`
	takeNowSQL  = `select mcpsaas.billing_grant_take_back($1, $2, $3, $4)`
)

// The accounts of a grant: issued is its source, available what is left of it.
const (
	accountIssued    = "issued"
	accountAvailable = "available"
	accountBurned    = "burned"
	accountRevoked   = "revoked"
)

// AddGrant gives a tenant units and returns the grant as it is stored. Where the
// tenant has one of that reference, that one is returned and added is false.
func (l *Ledger) AddGrant(ctx context.Context, g Grant) (_ Grant, added bool, err error) {
	err = pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		g, added, err = addGrant(ctx, tx, l.now(), g)
		return err
	})
	if err != nil {
		return Grant{}, false, fmt.Errorf("pgledger: add grant: %w", err)
	}
	return g, added, nil
}

func addGrant(ctx context.Context, tx pgx.Tx, now time.Time, g Grant) (_ Grant, added bool, err error) {
	g.ID, g.CreatedAt = tenant.NewID(), now // any new UUIDv7 will do
	if g.Kind == "" {
		g.Kind = GrantFree
	}
	if g.StartsAt.IsZero() {
		g.StartsAt = g.CreatedAt
	}
	if g.Reference == "" {
		g.Reference = g.ID.String()
	}
	if err := g.check(); err != nil {
		return Grant{}, false, err
	}
	tag, err := tx.Exec(ctx, addGrantSQL, g.ID, g.Tenant, g.Kind, g.Units, g.Priority, g.StartsAt,
		timeOrNull(g.ExpiresAt), g.Reference, g.CreatedAt, g.Actor, g.Reason)
	if err != nil {
		return Grant{}, false, err
	}
	if added = tag.RowsAffected() == 1; added {
		_, err = tx.Exec(ctx, entrySQL, g.CreatedAt, g.ID, accountIssued, accountAvailable, g.Units, nil, g.Actor, g.Reason)
		if err != nil {
			return Grant{}, false, err
		}
	}
	rows, err := tx.Query(ctx, sameGrantSQL, g.Tenant, g.Reference)
	if err != nil {
		return Grant{}, false, err
	}
	g, err = pgx.CollectExactlyOneRow(rows, scanGrant)
	return g, added, err
}

func (g Grant) check() error {
	var errs []error
	if g.Tenant.IsZero() {
		errs = append(errs, tenant.ErrNone)
	}
	if g.Kind != GrantFree && g.Kind != GrantPrepaid {
		errs = append(errs, fmt.Errorf("Kind %.20q: want free or prepaid", g.Kind))
	}
	if g.Units < 1 || g.Units > maxGrant {
		errs = append(errs, fmt.Errorf("Units: %d is not within 1 and %d", g.Units, int64(maxGrant)))
	}
	if g.Priority < -1<<31 || g.Priority > 1<<31-1 {
		errs = append(errs, fmt.Errorf("Priority: %d has more than 32 bits", g.Priority))
	}
	if !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(g.StartsAt) {
		errs = append(errs, errors.New("ExpiresAt: is not after StartsAt"))
	}
	if g.Actor == "" {
		errs = append(errs, errors.New("Actor: is empty"))
	}
	for _, s := range []string{g.Reference, g.Actor, g.Reason} {
		if clean(s) != s {
			errs = append(errs, fmt.Errorf("%.20q: is too long or no text", s))
		}
	}
	return errors.Join(errs...)
}

// Grants returns the tenant's grants in the order in which they are used, those
// that are used up or have expired among them.
func (l *Ledger) Grants(ctx context.Context, id tenant.ID) ([]Grant, error) {
	rows, err := l.pool.Query(ctx, grantsSQL, id)
	if err != nil {
		return nil, fmt.Errorf("pgledger: list grants: %w", err)
	}
	grants, err := pgx.CollectRows(rows, scanGrant)
	if err != nil {
		return nil, fmt.Errorf("pgledger: list grants: %w", err)
	}
	return grants, nil
}

// RevokeGrant takes what is left of a grant, so that asking twice is asking once,
// and returns the grant as it was before. Usage that was sealed stays covered;
// should it be voided, what it had used isn't there again. It returns [ErrNotFound]
// for an unknown id.
func (l *Ledger) RevokeGrant(ctx context.Context, id tenant.ID, actor, reason string) (g Grant, err error) {
	if actor == "" || clean(actor) != actor || clean(reason) != reason {
		return Grant{}, errors.New("pgledger: revoke grant: actor or reason is empty, too long or no text")
	}
	err = pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, oneGrantSQL+` for update`, id)
		if err != nil {
			return err
		}
		g, err = pgx.CollectExactlyOneRow(rows, scanGrant)
		if err != nil {
			return err
		}
		return takeBack(ctx, tx, l.now(), id, g.Units, actor, reason)
	})
	return g, found("grant", err)
}

// takeBack sees to it that so many units of a grant in all are not used any more,
// as far as they are left.
func takeBack(ctx context.Context, tx pgx.Tx, now time.Time, id tenant.ID, units int64, actor, reason string) error {
	if _, err := tx.Exec(ctx, takeBackSQL, id, units); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, takeNowSQL, id, now, actor, reason)
	return err
}

// savePurchase makes a grant of what was paid for, once, and takes back what was
// paid back. A purchase that was paid back before anybody heard of it leaves a
// grant with nothing in it, so that hearing late of the payment gives nothing.
func savePurchase(ctx context.Context, tx pgx.Tx, now time.Time, id tenant.ID, p billing.Purchase) error {
	g, _, err := addGrant(ctx, tx, now, Grant{
		Tenant: id, Kind: GrantPrepaid, Units: p.Units, StartsAt: p.At, ExpiresAt: p.ExpiresAt,
		Reference: p.ID, Actor: worker, Reason: "pack " + p.Pack,
	})
	if err != nil || p.Refunded == 0 {
		return err
	}
	return takeBack(ctx, tx, now, g.ID, p.Refunded, worker, "paid back")
}

func scanGrant(row pgx.CollectableRow) (g Grant, err error) {
	err = row.Scan(&g.ID, &g.Tenant, &g.Kind, &g.Units, &g.Remaining, &g.Priority, timeOrZero{&g.StartsAt},
		timeOrZero{&g.ExpiresAt}, &g.Reference, timeOrZero{&g.CreatedAt}, &g.Actor, &g.Reason)
	return g, err
}
