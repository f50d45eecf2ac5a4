package pgledger_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The test binary is its own child: a process that can be killed.
const (
	childDatabase = "PGLEDGER_CHILD_DATABASE"
	childSpool    = "PGLEDGER_CHILD_SPOOL"  // records into this spool and stores from it
	childStream   = "PGLEDGER_CHILD_STREAM" // stores from the stream in this Redis
	childStripe   = "PGLEDGER_CHILD_STRIPE" // reports to the Stripe at this address
)

func TestMain(m *testing.M) {
	if os.Getenv(childDatabase) == "" {
		os.Exit(m.Run())
	}
	if err := child(context.Background()); err != nil {
		fmt.Println("error:", err)
	}
}

func child(ctx context.Context) error {
	pool, err := controlPool(ctx, os.Getenv(childDatabase))
	if err != nil {
		return err
	}
	ledger, err := pgledger.New(pool, nil)
	if err != nil {
		return err
	}
	if url := os.Getenv(childStream); url != "" {
		client, err := redisquota.NewClient(url)
		if err != nil {
			return err
		}
		s, err := redisquota.NewStream(client, &redisquota.StreamOptions{ClaimAfter: 100 * time.Millisecond, BatchEvents: 100})
		if err != nil {
			return err
		}
		return s.Run(ctx, ledger)
	}
	if base := os.Getenv(childStripe); base != "" {
		w, err := reporting(ledger, base, func(r billing.Reporter) billing.Reporter { return telling{r} })
		if err != nil {
			return err
		}
		fmt.Println("ready")
		return w.Run(ctx)
	}
	s, err := usage.OpenSpool(os.Getenv(childSpool), &usage.SpoolOptions{FlushInterval: time.Millisecond})
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(os.Stdout, 1) // nothing is held back
	var mu sync.Mutex
	for range 4 {
		go func() {
			id := tenant.NewID()
			for {
				e := meteringtest.NewEvent(id)
				if s.Record(ctx, e) == nil {
					mu.Lock()
					fmt.Fprintln(out, e.ID)
					mu.Unlock()
				}
			}
		}()
	}
	return s.Run(ctx, ledger)
}

// controlPool logs in as the control role.
func controlPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.RuntimeParams["role"] = tenancy.ControlRole
	config.MaxConns = 16
	return pgxpool.NewWithConfig(ctx, config)
}

// startChild returns a process that goes on until it is killed, and what it
// prints.
func (b *bench) startChild(t *testing.T, env ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childDatabase+"="+b.db.URL), env...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

// requireExact checks that the events with these ids are stored, each once in
// the events and once in the sums, and at most a few others.
func (b *bench) requireExact(t *testing.T, acknowledged []string, others int) {
	t.Helper()
	rows, err := b.pool.Query(t.Context(), `select event_id::text from mcpsaas.usage_events`)
	require.NoError(t, err)
	stored := make(map[string]bool)
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		require.False(t, stored[id], "event %s is there twice", id)
		stored[id] = true
	}
	require.NoError(t, rows.Err())
	for _, id := range acknowledged {
		require.True(t, stored[id], "event %s was acknowledged and is lost", id)
	}
	require.LessOrEqual(t, len(stored), len(acknowledged)+others)
	require.Equal(t, fmt.Sprint(len(stored), len(stored)*20), b.text(t, `select sum(calls) || ' ' || sum(units) from mcpsaas.usage_hourly`))
}

// TestKilledWhileStoring: a process that records and stores at once is killed,
// and the next takes over, several times: every event that was acknowledged is
// there, and none twice.
//
// Seen failing with the sums taken from all rows instead of the new ones.
func TestKilledWhileStoring(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dir := t.TempDir()
	var acknowledged []string
	for range 5 {
		cmd, lines := b.startChild(t, childSpool+"="+dir)
		n := len(acknowledged) + 2_500
		for len(acknowledged) < n && lines.Scan() {
			acknowledged = append(acknowledged, lines.Text())
		}
		require.NoError(t, cmd.Process.Kill()) // SIGKILL
		for lines.Scan() {
			if id := lines.Text(); len(id) == 36 {
				acknowledged = append(acknowledged, id)
			}
		}
		require.GreaterOrEqual(t, len(acknowledged), n)
	}
	s, err := usage.OpenSpool(dir, nil)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, b.Ledger) }()
	require.Eventually(t, func() bool { return s.Flush(t.Context()) == nil }, time.Minute, time.Millisecond)
	stop()
	require.NoError(t, <-done)
	require.NoError(t, s.Close())
	b.requireExact(t, acknowledged, 5*8)
}
