package pgledger_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestErrorsNameNoAddress asks while the database is away: what is said ends in
// logs.
func TestErrorsNameNoAddress(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://hidden_user:s3cr3t@127.0.0.1:1/hidden_database")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	l, err := pgledger.New(pool, nil)
	require.NoError(t, err)
	ctx, id, now := t.Context(), tenant.NewID(), time.Now()
	for name, call := range map[string]func() error{
		"append": func() error {
			_, err := l.Append(ctx, []usage.Event{{ID: id.String(), Tenant: id, Time: now}})
			return err
		},
		"backlog":       func() error { _, err := l.Backlog(ctx, now, now); return err },
		"stats":         func() error { _, err := l.Stats(ctx, id); return err },
		"check":         func() error { return l.Check(ctx) },
		"customer":      func() error { _, err := l.Customer(ctx, id); return err },
		"subscriptions": func() error { _, err := l.Subscriptions(ctx, id); return err },
		"usage":         func() error { _, err := l.Usage(ctx, id, now, now); return err },
		"open":          func() error { _, err := l.Open(ctx, id, now); return err },
		"accept":        func() error { _, err := l.Accept(ctx, billing.Notice{ID: "x"}); return err },
		"notice":        func() error { _, err := l.NextNotice(ctx, now, time.Minute); return err },
		"requeue":       func() error { return l.Requeue(ctx, id.String(), "me", "why") },
		"notices":       func() error { return l.RequeueNotice(ctx, "x") },
		"dead":          func() error { _, err := l.DeadNotices(ctx, 1); return err },
		"pulls":         func() error { _, err := l.LastPulls(ctx); return err },
		"drifts":        func() error { _, err := l.Drifts(ctx, id); return err },
		"events": func() (err error) {
			for _, err = range l.Events(ctx, id) {
			}
			return err
		},
	} {
		err := call()
		require.ErrorContains(t, err, "connect to the database: unreachable", name)
		for _, secret := range []string{"hidden", "s3cr3t", "127.0.0.1"} {
			require.NotContains(t, err.Error(), secret, name)
		}
	}
}
