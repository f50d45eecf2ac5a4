package pgledger_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// start is when the tests' clocks begin: in the middle of a minute, so that
// slots don't fall on events by luck.
var start = time.Date(2026, 3, 10, 9, 17, 23, 0, time.UTC)

var template = devtest.Template{
	Name: "pgledger",
	Migrate: func(ctx context.Context, conn *pgx.Conn) error {
		if err := tenancy.Migrate(ctx, conn); err != nil {
			return err
		}
		if err := pgledger.Migrate(ctx, conn); err != nil {
			return err
		}
		// For the reporter of naive_test.go.
		_, err := conn.Exec(ctx, `create table mcpsaas.common_events (
			tenant_id uuid, units bigint, created_at timestamptz, reported_at timestamptz)`)
		return err
	},
}

// bench is a ledger on a database of the test's own, seen through the control
// role as in production.
type bench struct {
	*pgledger.Ledger
	clock *billingtest.Clock
	pool  *pgxpool.Pool // the control role's
	db    *devtest.Database
	seq   int64
}

func setup(t testing.TB) *bench {
	t.Helper()
	b := &bench{clock: billingtest.NewClock(start), db: devtest.DB(t, template)}
	var err error
	b.pool, err = controlPool(t.Context(), b.db.URL)
	require.NoError(t, err)
	t.Cleanup(b.pool.Close)
	b.Ledger, err = pgledger.New(b.pool, &pgledger.Options{Now: b.clock.Now})
	require.NoError(t, err)
	return b
}

// event is a billable call that occurs now.
func (b *bench) event(id tenant.ID, units int64) usage.Event {
	return usage.Event{
		ID: tenant.NewID().String(), Tenant: id, Plan: tenant.Pro, Tool: "search", Units: units,
		Outcome: usage.OK, Time: b.clock.Now(), Duration: 3 * time.Millisecond, RequestID: "1",
	}
}

func (b *bench) append(t testing.TB, events ...usage.Event) {
	t.Helper()
	added, err := b.Append(t.Context(), events)
	require.NoError(t, err)
	require.Equal(t, len(events), added)
}

// target is a place for a tenant's usage, of its own.
func target(id tenant.ID, mode billing.Mode) billing.Target {
	t := billing.Target{Tenant: id, Provider: "test", Mode: mode, Customer: "cus_" + id.String()}
	if mode == billing.ModeMeter {
		t.Meter, t.MeterID = "calls", "mtr_calls"
	} else {
		t.Item = "si_" + id.String()
	}
	return t
}

// subscribe has the tenant pay for a month from start on.
func (b *bench) subscribe(t testing.TB, id tenant.ID, modes ...billing.Mode) billing.Subscription {
	t.Helper()
	s := billing.Subscription{
		ID: "sub_" + id.String(), Customer: "cus_" + id.String(), Status: billing.Active, Plan: tenant.Pro,
		PeriodStart: start.Add(-24 * time.Hour), PeriodEnd: start.AddDate(0, 1, 0),
	}
	for _, m := range modes {
		s.Targets = append(s.Targets, target(id, m))
	}
	b.save(t, id, s)
	return s
}

// save applies s as the source would, told by a notice of s itself.
func (b *bench) save(t testing.TB, id tenant.ID, s billing.Subscription) {
	t.Helper()
	b.seq++
	c, err := b.Save(t.Context(), b.clock.Now(), billing.Notice{ObjectID: s.ID, Created: b.clock.Now()},
		billing.Change{Tenant: id, Customer: s.Customer, Subscription: &s, Seq: b.seq})
	require.NoError(t, err)
	require.Equal(t, id, c.Tenant)
}

func (b *bench) stats(t testing.TB, id tenant.ID) billing.Stats {
	t.Helper()
	s, err := b.Stats(t.Context(), id)
	require.NoError(t, err)
	return s
}

func (b *bench) worker(t testing.TB, r billing.Reporter) *billing.Worker {
	t.Helper()
	w, err := billing.NewWorker(b.Ledger, r, &billing.WorkerOptions{Now: b.clock.Now, Logger: devtest.Logger(t)})
	require.NoError(t, err)
	return w
}
