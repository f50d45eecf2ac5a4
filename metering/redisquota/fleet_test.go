package redisquota_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const fleetEnv = "REDISQUOTA_TEST_FLEET"

// fleetJob is what one process of a fleet does.
type fleetJob struct {
	URL     string
	Cluster []string // addresses, instead of URL
	Tenant  string
	Leased  bool
	Window  time.Duration
	Limit   int64
	Until   time.Time
	Calls   int // at least
	Seed    int
	Tell    bool // of each admitted call at once
}

// fleetCall is one admitted call, or a refusal.
type fleetCall struct {
	At      int64 // Unix ms, by the clock of Redis
	Asked   int64
	Units   int64 // charged in the end; 0: refused, or given back
	Source  metering.Source
	Refused bool
}

func TestMain(m *testing.M) {
	if job := os.Getenv(fleetEnv); job != "" {
		if err := work(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if job := os.Getenv(alertsEnv); job != "" {
		if err := alertWork(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// No window holds more than the limit, however many processes draw on it, and
// whatever they hold and give back. Without leases no unit is released late
// either: a call is refused only if the limit is used up. These are processes;
// the fleets of the conformance suite are limiters within one. Mutations seen here: a block that is spent
// beyond its end, and entries that are dropped by the time of the last one. Not
// seen here: a block that counts from when it was lent; the conformance suite
// sees that.
func TestFleet(t *testing.T) {
	t.Parallel()
	testFleets(t, fleetJob{URL: devtest.SharedRedis(t)}, 5*time.Second)
}

// testFleets runs each kind of fleet on the server of job, for so long.
func testFleets(t *testing.T, job fleetJob, long time.Duration) {
	for _, leased := range []bool{false, true} {
		for _, processes := range []int{1, 4} {
			t.Run(fmt.Sprintf("leased %t, %d processes", leased, processes), func(t *testing.T) {
				t.Parallel()
				job := job
				job.Tenant, job.Leased = tenant.NewID().String(), leased
				job.Window, job.Limit = 1500*time.Millisecond, 4_000
				job.Until = time.Now().Add(long)
				if soak := calls(0); soak > 0 {
					job.Calls = soak / processes
				}
				var all []fleetCall
				out := make(chan []fleetCall, processes)
				for i := range processes {
					job.Seed = i
					go func(job fleetJob) { out <- fleet(t, job) }(job)
				}
				for range processes {
					all = append(all, <-out...)
				}
				slices.SortFunc(all, func(a, b fleetCall) int { return int(a.At - b.At) })
				var inside, most, before, admitted, fromBlocks int64
				refused := false
				window := all[:0:0]
				for i, c := range all {
					if c.Refused {
						refused = true
						if !leased {
							require.Greater(t, mostAt(all, i, job)+c.Asked, job.Limit, "refused although the limit had room: units were released late")
						}
						continue
					}
					if !refused {
						before += c.Units
					}
					admitted++
					if c.Source == metering.SourceLease {
						fromBlocks++
					}
					inside += c.Units
					window = append(window, c)
					for c.At-window[0].At >= job.Window.Milliseconds() {
						inside -= window[0].Units
						window = window[1:]
					}
					most = max(most, inside)
				}
				t.Logf("%d calls, %d admitted, %d of them from blocks, most in a window %d of %d, %d idle at the first refusal",
					len(all), admitted, fromBlocks, most, job.Limit, job.Limit-before)
				require.True(t, refused, "the limit was never reached")
				require.LessOrEqual(t, most, job.Limit, "over-admitted: a window holds more than the limit")
				if leased {
					require.NotZero(t, fromBlocks)
				}
			})
		}
	}
}

// mostAt returns the most that the limit may count when the i-th call is
// decided: what may have been taken before, in the same millisecond too, and
// given back after.
func mostAt(all []fleetCall, i int, job fleetJob) (most int64) {
	for i+1 < len(all) && all[i+1].At == all[i].At {
		i++
	}
	late := (job.Window + metering.Per(job.Window, job.Limit).Resolution()).Milliseconds()
	for j := i; j >= 0 && all[i].At-all[j].At < late; j-- {
		if !all[j].Refused {
			most += all[j].Asked
		}
	}
	return most
}

// fleet runs one process and returns its calls.
func fleet(t *testing.T, job fleetJob) []fleetCall {
	encoded, err := json.Marshal(job)
	if err != nil {
		t.Error(err)
		return nil
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), fleetEnv+"="+string(encoded))
	child.Stderr = os.Stderr
	out, err := child.Output()
	if err != nil {
		t.Errorf("process of the fleet: %v", err)
	}
	var result []fleetCall
	if err := json.Unmarshal(out, &result); err != nil {
		t.Error(err)
	}
	return result
}

// A process is killed while it spends blocks. What it took and what it held
// counts; Redis drops all of it when a window has passed since the last moment
// at which it could be spent. (That each unit counts until then, and not longer,
// is seen with a clock that can be moved: metering's TestCrashedBlock.)
func TestKilledWithABlock(t *testing.T) {
	t.Parallel()
	job := fleetJob{
		URL: devtest.SharedRedis(t), Tenant: tenant.NewID().String(), Leased: true, Tell: true,
		Window: time.Hour, Limit: 1_000_000_000, Until: time.Now().Add(time.Minute),
	}
	encoded, err := json.Marshal(job)
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), fleetEnv+"="+string(encoded))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	told := bufio.NewScanner(out)
	var units int64 // told of
	for fromBlocks := 0; fromBlocks < 500 && told.Scan(); {
		var c fleetCall
		require.NoError(t, json.Unmarshal(told.Bytes(), &c))
		units += c.Asked
		if c.Source == metering.SourceLease {
			fromBlocks++
		}
	}
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())

	limiter, client := newLimiter(t, job.URL)
	id, err := tenant.ParseID(job.Tenant)
	require.NoError(t, err)
	limit := metering.Per(job.Window, job.Limit)
	d, err := limiter.Peek(t.Context(), metering.Request{Tenant: id, Bounds: []metering.Bound{{Limit: limit}}})
	require.NoError(t, err)
	used := job.Limit - d.Limits[0].Remaining
	t.Logf("%d units told of, %d counted", units, used)
	require.GreaterOrEqual(t, used, units)
	keys, err := client.Keys(t.Context(), "*:w:*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	ttl, err := client.PTTL(t.Context(), keys[0]).Result()
	require.NoError(t, err)
	require.Positive(t, ttl)
	require.LessOrEqual(t, ttl, job.Window+limit.Resolution()+leaseTTL)
}
