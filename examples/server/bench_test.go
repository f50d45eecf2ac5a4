package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// searchCall is a call at the newest revision, as a client of it makes it.
const searchCall = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_products","arguments":{"query":"a"},"_meta":{` +
	`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"v1"},` +
	`"io.modelcontextprotocol/clientCapabilities":{}}}}`

// side is one of the two servers that BenchmarkCall compares: another process,
// reached over loopback on connections that are kept.
type side struct {
	name    string
	mcp     string   // URL
	metrics string   // URL
	tokens  []string // of the tenants that take turns; none for the bare server
	client  *http.Client

	idle   usageOf // a second of doing nothing
	before usageOf

	spent     time.Duration
	latencies []time.Duration
}

// usageOf is what a process has used, from its metrics.
type usageOf struct{ allocs, bytes, cpu float64 }

func (s *side) usage(b *testing.B) (u usageOf) {
	b.Helper()
	res, err := s.client.Get(s.metrics)
	require.NoError(b, err)
	defer res.Body.Close()
	require.Equal(b, http.StatusOK, res.StatusCode)
	found := 0
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		var dest *float64
		switch name {
		case "go_memstats_mallocs_total":
			dest = &u.allocs
		case "go_memstats_alloc_bytes_total":
			dest = &u.bytes
		case "process_cpu_seconds_total":
			dest = &u.cpu
		default:
			continue
		}
		*dest, err = strconv.ParseFloat(value, 64)
		require.NoError(b, err)
		found++
	}
	require.Equal(b, 3, found)
	return u
}

// rest learns what the server uses while nobody calls it.
func (s *side) rest(b *testing.B, d time.Duration) {
	before := s.usage(b)
	<-time.After(d)
	after := s.usage(b)
	s.idle = usageOf{
		(after.allocs - before.allocs) / d.Seconds(), (after.bytes - before.bytes) / d.Seconds(), (after.cpu - before.cpu) / d.Seconds(),
	}
}

func (s *side) call(n int) error {
	req, err := http.NewRequest(http.MethodPost, s.mcp, strings.NewReader(searchCall))
	if err != nil {
		return err
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"search_products"},
	}
	if len(s.tokens) > 0 {
		req.Header.Set("Authorization", "Bearer "+s.tokens[n%len(s.tokens)])
	}
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("Anvil")) || bytes.Contains(body, []byte(`"isError":true`)) {
		return fmt.Errorf("%s server: %s: %s", s.name, res.Status, body)
	}
	return nil
}

// round makes so many calls by so many clients and returns how long they took.
func (s *side) round(b *testing.B, clients, calls int) time.Duration {
	latencies := make([]time.Duration, calls)
	var next atomic.Int64
	var all sync.WaitGroup
	start := time.Now()
	for range clients {
		all.Go(func() {
			for n := next.Add(1); int(n) <= calls; n = next.Add(1) {
				start := time.Now()
				if err := s.call(int(n)); err != nil {
					b.Error(err)
					return
				}
				latencies[n-1] = time.Since(start)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	s.spent += took
	s.latencies = append(s.latencies, latencies...)
	return took
}

// begin forgets earlier rounds.
func (s *side) begin(b *testing.B) {
	s.spent, s.latencies, s.before = 0, nil, s.usage(b)
}

// report tells of all rounds since begin. What the server uses when idle isn't
// charged to the calls.
func (s *side) report(b *testing.B, elapsed time.Duration) {
	after, calls := s.usage(b), float64(len(s.latencies))
	perCall := func(before, after, idle float64) float64 { return (after - before - idle*elapsed.Seconds()) / calls }
	b.ReportMetric(calls/s.spent.Seconds(), s.name+"-calls/s")
	b.ReportMetric(micros(percentile(s.latencies, 50)), s.name+"-p50-us")
	b.ReportMetric(micros(percentile(s.latencies, 99)), s.name+"-p99-us")
	b.ReportMetric(perCall(s.before.allocs, after.allocs, s.idle.allocs), s.name+"-allocs")
	b.ReportMetric(perCall(s.before.bytes, after.bytes, s.idle.bytes)/1024, s.name+"-KiB")
	b.ReportMetric(perCall(s.before.cpu, after.cpu, s.idle.cpu)*1e6, s.name+"-cpu-us")
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// percentile sorts the values.
func percentile[T time.Duration | float64](values []T, p int) T {
	slices.Sort(values)
	return values[(len(values)-1)*p/100]
}

// BenchmarkCall calls search_products on the whole stack (API key, tenant,
// quota in Redis, row-level security, usage on its way to Stripe) and on the
// bare SDK with a pool. Both are processes of their own with the same GOGC. They
// take turns in short rounds, so that a busy machine is as unkind to each;
// calls-ratio is the median of the rounds' ratios. Sixteen tenants take turns,
// each with a quota of its own that Redis counts.
func BenchmarkCall(b *testing.B) {
	const tenants = 16
	b.Setenv("GOGC", gogc())
	w := newWorld(b)
	quota := devtest.Redis(b) // in memory: the durable one writes each command to disk
	w.env["REDIS_URL"], w.env["REPORT_INTERVAL"] = quota.URL, "5s"
	bareBase := w.spawnBare()
	r := w.spawn()
	transport := &http.Transport{MaxIdleConnsPerHost: tenants}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	bare := &side{name: "bare", mcp: bareBase + "/mcp", metrics: bareBase + "/metrics", client: client}
	whole := &side{name: "whole", mcp: r.MCPURL, metrics: r.AdminURL + "/metrics", client: client}
	for range tenants {
		whole.tokens = append(whole.tokens, signUp(b, r, tenant.Pro).key)
	}
	opts, err := redis.ParseURL(quota.URL)
	require.NoError(b, err)
	pinger := redis.NewClient(opts)
	b.Cleanup(func() { pinger.Close() })
	for _, s := range []*side{bare, whole} {
		s.round(b, 16, 500) // connects, prepares, warms up
		s.rest(b, 2*time.Second)
	}

	for _, bm := range []struct{ clients, calls int }{{1, 100}, {16, 800}} {
		b.Run(fmt.Sprintf("clients=%d", bm.clients), func(b *testing.B) {
			bare.begin(b)
			whole.begin(b)
			start := time.Now()
			var ratios []float64
			var pings []time.Duration
			for i := 0; b.Loop(); i++ {
				sides := []*side{bare, whole}
				if i%2 == 1 {
					slices.Reverse(sides)
				}
				took := make(map[*side]time.Duration, 2)
				for _, s := range sides {
					took[s] = s.round(b, bm.clients, bm.calls)
				}
				if b.Failed() {
					return
				}
				ratios = append(ratios, took[bare].Seconds()/took[whole].Seconds())
				for range 10 {
					start := time.Now()
					require.NoError(b, pinger.Ping(b.Context()).Err())
					pings = append(pings, time.Since(start))
				}
			}
			elapsed := time.Since(start)
			b.ReportMetric(0, "ns/op") // of a pair of rounds: says nothing
			for _, s := range []*side{bare, whole} {
				s.report(b, elapsed)
			}
			b.ReportMetric(percentile(ratios, 50), "calls-ratio")
			b.ReportMetric(micros(percentile(pings, 50)), "redis-ping-us")
		})
	}
}

func gogc() string {
	if v := os.Getenv("GOGC"); v != "" {
		return v
	}
	return "400"
}

// BenchmarkSignup is what a buyer waits for, one after the other: from the
// payment on the checkout page to the tenant that serves.
func BenchmarkSignup(b *testing.B) {
	w := newWorld(b)
	r := w.spawn()
	var took []time.Duration
	for b.Loop() {
		var began struct{ Tenant, URL string }
		// It opens so many checkouts in a second and no more.
		poll := time.NewTicker(time.Millisecond)
		for status := 0; status != http.StatusOK; <-poll.C {
			status = formPost(b, r.base+"/signup", url.Values{"plan": {string(tenant.Pro)}}, &began).StatusCode
			require.Contains(b, []int{http.StatusOK, http.StatusTooManyRequests}, status)
		}
		start := time.Now()
		paid := formPost(b, began.URL, url.Values{"email": {"buyer@example.com"}}, nil)
		require.Equal(b, http.StatusSeeOther, paid.StatusCode)
		for live := false; !live; <-poll.C {
			require.NoError(b, w.db.QueryRow(b.Context(), `select exists (select from mcpsaas.tenant_lifecycle where tenant = $1 and state = 'active')`, began.Tenant).Scan(&live))
		}
		poll.Stop()
		took = append(took, time.Since(start))
	}
	b.ReportMetric(0, "ns/op") // holds the making of the checkout
	b.ReportMetric(micros(percentile(took, 50))/1000, "p50-ms")
	b.ReportMetric(micros(percentile(took, 99))/1000, "p99-ms")
	b.ReportMetric(micros(slices.Max(took))/1000, "max-ms")
}
