package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// traffic is a tenant that goes on working, whatever happens to it.
type traffic struct {
	stop chan struct{}
	wg   sync.WaitGroup
	made atomic.Int64 // products that were acknowledged
	read atomic.Int64

	// patient says that a call may be told to come again later.
	patient bool
}

// startTraffic has workers add products and read them back until they are
// stopped. No call may fail, and what was acknowledged must be there at once.
func startTraffic(t *testing.T, r *running, key string, workers int, patient bool) *traffic {
	t.Helper()
	f := &traffic{stop: make(chan struct{}), patient: patient}
	for worker := range workers {
		f.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-f.stop:
					return
				default:
				}
				name := fmt.Sprintf("traffic %d-%d.", worker, n)
				a, err := f.call(r, key, name, "add_product", map[string]any{"name": name, "price_cents": n})
				if err != nil || a.isErr || a.status != 200 {
					t.Errorf("add %q: %v, status %d: %s", name, err, a.status, a.text)
					return
				}
				f.made.Add(1)
				a, err = f.call(r, key, name, "search_products", map[string]any{"query": name})
				if err != nil || a.isErr || a.status != 200 || strings.Count(a.text, name) != 1 {
					t.Errorf("search %q: %v, status %d: %s", name, err, a.status, a.text)
					return
				}
				f.read.Add(1)
			}
		})
	}
	return f
}

// call makes a call, again if it was told to: nothing was done then.
func (f *traffic) call(r *running, key, id, tool string, args map[string]any) (answer, error) {
	for {
		a, err := post(context.Background(), r.MCPURL, key, "", id, tool, args)
		if err != nil || !f.patient || !a.isErr || !strings.HasPrefix(a.text, "unavailable") {
			return a, err
		}
	}
}

// more waits until so many further calls were answered.
func (f *traffic) more(t *testing.T, calls int64) {
	t.Helper()
	from := f.made.Load()
	eventually(t, "traffic goes on", func() bool { return t.Failed() || f.made.Load() >= from+calls })
	require.False(t, t.Failed())
}

func (f *traffic) end() {
	close(f.stop)
	f.wg.Wait()
}

// catalogue counts the products that the tenant sees.
func catalogue(t *testing.T, r *running, key string) reportOutput {
	t.Helper()
	a, err := post(t.Context(), r.MCPURL, key, "", "report", "generate_report", map[string]any{})
	require.NoError(t, err)
	require.False(t, a.isErr, a.text)
	var out reportOutput
	require.NoError(t, json.Unmarshal(a.out, &out))
	out.MadeAt = ""
	return out
}

func (w *world) placement(t *testing.T, id tenant.ID) (at string, epoch int64) {
	t.Helper()
	text, err := w.command("tenant", "show", id.String(), "-json")
	require.NoError(t, err)
	var row tenantRow
	require.NoError(t, json.Unmarshal([]byte(text), &row), text)
	return row.Placement, row.Epoch
}

// TestMove moves a tenant that goes on working from each tier into each other.
// No call fails, no write is lost, no neighbour notices, and Stripe is told of every
// unit.
//
// Mutation that it saw: a call that looks but once for rows that are nowhere, as
// they are in the switch between two databases.
func TestMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	pro, neighbour := r.tenant(tenant.Enterprise), r.tenant(tenant.Pro)
	before := catalogue(t, r, pro.APIKey)
	theirs := catalogue(t, r, neighbour.APIKey)
	own := "database:" + databaseRef(pro.ID)
	at, epoch := w.placement(t, pro.ID)
	require.Equal(t, own, at)
	require.EqualValues(t, 1, epoch)

	f := startTraffic(t, r, pro.APIKey, 3, false)
	f.more(t, 5)
	for _, to := range []string{"schema", "database", "shared", "schema", "shared", "database"} {
		start := time.Now()
		text, err := w.command("tenant", "move", pro.ID.String(), "-to", to, "-json")
		require.NoError(t, err, "to %s: %s", to, text)
		t.Logf("to %s in %v: %s", to, time.Since(start).Round(time.Millisecond), strings.Join(strings.Fields(text), " "))
		epoch++
		f.more(t, 5)
		want := to
		if to == "database" {
			want = own
		}
		at, now := w.placement(t, pro.ID)
		require.Equal(t, want, at)
		require.Equal(t, epoch, now)
	}
	f.end()
	if t.Failed() {
		return
	}
	after := catalogue(t, r, pro.APIKey)
	require.Equal(t, before.Products+f.made.Load(), after.Products)
	require.Equal(t, theirs, catalogue(t, r, neighbour.APIKey))
	w.billed(t, pro.StripeCustomer, f.made.Load()+f.read.Load()+2*tools["generate_report"].Units)
	w.billed(t, neighbour.StripeCustomer, 2*tools["generate_report"].Units)
	t.Logf("%d products made meanwhile", f.made.Load())
}

// moveUntil runs the command that moves a tenant, kills it with -9 as soon as over
// returns, and says whether that was in time. over's context ends with the command.
func (w *world) moveUntil(t *testing.T, id tenant.ID, to string, over func(ctx context.Context)) (killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "tenant", "move", id.String(), "-to", to)
	cmd.Env = append(os.Environ(), asServer+"=1")
	for name, value := range w.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ctx, ended := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	killer.Go(func() {
		if over(ctx); ctx.Err() == nil {
			cmd.Process.Kill()
		}
	})
	err := cmd.Wait()
	ended()
	killer.Wait()
	if cmd.ProcessState.ExitCode() < 0 {
		return true
	}
	require.NoError(t, err, out.String())
	return false
}

// TestMoveKilled kills the command that moves a tenant with -9, again and again
// and ever later, and then lets one through.
//
// Mutation that it saw: a move that doesn't take up what another process began.
func TestMoveKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	before := catalogue(t, r, pro.APIKey)
	f := startTraffic(t, r, pro.APIKey, 2, true)
	f.more(t, 5)
	var killed int
	for _, to := range []string{"database", "shared"} {
		wait := 20 * time.Millisecond
		for w.moveUntil(t, pro.ID, to, func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}) {
			killed++
			wait += wait / 2
			f.more(t, 1) // it is served, wherever it is
		}
	}
	f.end()
	if t.Failed() {
		return
	}
	t.Logf("killed %d times", killed)
	at, _ := w.placement(t, pro.ID)
	require.Equal(t, "shared", at)
	require.Equal(t, before.Products+f.made.Load(), catalogue(t, r, pro.APIKey).Products)
}

// TestMoveKilledInSwitch kills the command where the tenant is nowhere: the server
// lets it in again before a call has given up.
//
// Mutation that it saw: a server that recovers nothing.
func TestMoveKilledInSwitch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	before := catalogue(t, r, pro.APIKey)
	f := startTraffic(t, r, pro.APIKey, 2, true)
	pool := w.superPool(t)
	last := func(what string) (text string) {
		err := pool.QueryRow(context.Background(), "select coalesce((select "+what+"::text from mcpsaas.moves where tenant_id = $1 order by id desc limit 1), '')", pro.ID).Scan(&text)
		require.NoError(t, err)
		return text
	}
	ways := []string{"database", "shared"}
	var tries int
	for caught := false; !caught; tries++ {
		at, _ := w.placement(t, pro.ID)
		to := ways[0]
		if strings.HasPrefix(at, to) {
			to = ways[1]
		}
		killed := w.moveUntil(t, pro.ID, to, func(ctx context.Context) {
			for ctx.Err() == nil && last("state") != "switching" {
			}
		})
		caught = killed && last("switched_at is null") == "true"
	}
	f.more(t, 5)
	eventually(t, "the move stands where it was before the switch", func() bool { return last("state") == "caught_up" })
	_, err := w.command("tenant", "move", pro.ID.String(), "-to", "schema")
	require.Error(t, err, "the other move has to end first")
	_, err = w.command("tenant", "move", pro.ID.String(), "-abort")
	require.NoError(t, err)
	f.more(t, 5)
	f.end()
	require.False(t, t.Failed())
	t.Logf("caught at try %d, %d products made meanwhile", tries, f.made.Load())
	require.Equal(t, before.Products+f.made.Load(), catalogue(t, r, pro.APIKey).Products)
}
