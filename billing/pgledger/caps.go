package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Cap is the most that a tenant is to spend on usage in a billing period. It is
// kept in money, since the price of a unit changes with the plan; what holds
// calls to it is a limit in units, which whoever sets it, or changes the plan,
// makes of it.
type Cap struct {
	Tenant tenant.ID `json:"tenant"`
	Amount int64     `json:"amount"` // in the currency's smallest unit
	Soft   bool      `json:"soft"`   // tells when it is reached, and refuses nothing
	Actor  string    `json:"actor"`  // who set it
	Reason string    `json:"reason,omitempty"`
	SetAt  time.Time `json:"set_at"` // read, never written
}

const (
	capSQL = `select amount, soft, actor, reason, set_at from mcpsaas.billing_caps where tenant_id = $1`

	setCapSQL = `
insert into mcpsaas.billing_caps (tenant_id, amount, soft, actor, reason, set_at) values ($1, $2, $3, $4, $5, $6)
on conflict (tenant_id) do update set amount = excluded.amount, soft = excluded.soft, actor = excluded.actor,
	reason = excluded.reason, set_at = excluded.set_at`

	unsetCapSQL = `delete from mcpsaas.billing_caps where tenant_id = $1`
)

// SetCap sets a tenant's cap; an Amount of 0 takes it back.
func (l *Ledger) SetCap(ctx context.Context, c Cap) error {
	var err error
	switch {
	case c.Tenant.IsZero():
		err = tenant.ErrNone
	case c.Amount < 0:
		err = fmt.Errorf("amount %d is negative", c.Amount)
	case c.Actor == "" || clean(c.Actor) != c.Actor || clean(c.Reason) != c.Reason:
		err = errors.New("actor or reason is empty, too long or no text")
	case c.Amount == 0:
		_, err = l.pool.Exec(ctx, unsetCapSQL, c.Tenant)
	default:
		_, err = l.pool.Exec(ctx, setCapSQL, c.Tenant, c.Amount, c.Soft, c.Actor, c.Reason, l.now())
	}
	if err != nil {
		return fmt.Errorf("pgledger: set cap: %w", err)
	}
	return nil
}

// Cap returns a tenant's cap, or [ErrNotFound].
func (l *Ledger) Cap(ctx context.Context, id tenant.ID) (Cap, error) {
	return readCap(ctx, l.pool, id)
}

// ReadCap is [Ledger.Cap] within a transaction of the control pool: for whoever
// makes limits of it in the one that changes the tenant's plan.
func ReadCap(ctx context.Context, tx pgx.Tx, id tenant.ID) (Cap, error) {
	return readCap(ctx, tx, id)
}

func readCap(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, id tenant.ID) (Cap, error) {
	c := Cap{Tenant: id}
	err := db.QueryRow(ctx, capSQL, id).Scan(&c.Amount, &c.Soft, &c.Actor, &c.Reason, timeOrZero{&c.SetAt})
	return c, found("cap of tenant", err)
}
