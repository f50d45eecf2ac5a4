package pgledger

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates or updates the package's tables in schema mcpsaas. conn must
// own the database. It may be called again, and by several processes at once;
// it comes after tenancy.Migrate, whose default privileges give the control
// role access to the tables.
func Migrate(ctx context.Context, conn *pgx.Conn) error {
	if err := pgmigrate.Run(ctx, conn, "pgledger", migrations); err != nil {
		return fmt.Errorf("pgledger: migrate: %w", pgredact.Error(err))
	}
	return nil
}

// Options adjusts a [Ledger]. The zero value is ready for production.
type Options struct {
	// Now is the clock of what the ledger dates itself: when an event was
	// recorded and a notice received. Defaults to time.Now.
	Now func() time.Time

	// Retention is how long [Ledger.Run] keeps usage events, by the months of
	// their ids; the hourly sums stay. At least 62 days, so that a month is
	// gone only when no provider takes its usage any more. Zero: for ever.
	Retention time.Duration

	// Late is what becomes of usage that its billing period takes no more, by
	// the plan of the subscription. Defaults to [billing.LateNextPeriod] for
	// every plan that is not in it.
	Late map[tenant.Plan]billing.LatePolicy

	// InvoiceItem returns the target of mode [billing.ModeInvoiceItem] that
	// charges for a target's usage by itself, and false where there is none. It is
	// stripebill.InvoiceItem for Stripe, and needed for [billing.LateInvoiceItem].
	InvoiceItem func(billing.Target) (billing.Target, bool)

	// Logger takes what the operator should know. Nil discards it.
	Logger *slog.Logger
}

// Ledger keeps usage and billing state in PostgreSQL. It is safe for
// concurrent use, and any number of processes may share a database.
type Ledger struct {
	pool      *pgxpool.Pool
	now       func() time.Time
	retention time.Duration
	late      map[tenant.Plan]billing.LatePolicy
	charge    func(billing.Target) (billing.Target, bool) // Options.InvoiceItem
	log       *slog.Logger
}

var (
	_ usage.Store         = (*Ledger)(nil)
	_ billing.Ledger      = (*Ledger)(nil)
	_ billing.NoticeStore = (*Ledger)(nil)
)

// New returns a ledger on the tables that [Migrate] made. The pool's role is
// the control role (or the owner); the pool stays the caller's to close.
func New(pool *pgxpool.Pool, opts *Options) (*Ledger, error) {
	if pool == nil {
		return nil, errors.New("pgledger: new: pool is nil")
	}
	if opts == nil {
		opts = &Options{}
	}
	l := &Ledger{pool: pool, now: opts.Now, retention: opts.Retention, late: maps.Clone(opts.Late),
		charge: opts.InvoiceItem, log: opts.Logger}
	if l.now == nil {
		l.now = time.Now
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.retention != 0 && l.retention < leastRetention {
		return nil, fmt.Errorf("pgledger: new: Retention: %v is less than 62 days", l.retention)
	}
	for plan, policy := range l.late {
		switch policy {
		case billing.LateNextPeriod, billing.LatePark, billing.LateWriteOff:
		case billing.LateInvoiceItem:
			if l.charge == nil {
				return nil, fmt.Errorf("pgledger: new: Late: plan %q has the policy %q, which needs InvoiceItem", plan, policy)
			}
		default:
			return nil, fmt.Errorf("pgledger: new: Late: plan %q has the unknown policy %q", plan, policy)
		}
	}
	return l, nil
}
