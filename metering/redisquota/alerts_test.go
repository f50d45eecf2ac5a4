package redisquota_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func newAlerts(t testing.TB, url string) *redisquota.Alerts {
	t.Helper()
	client, err := redisquota.NewClient(url)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	alerts, err := redisquota.NewAlerts(client, nil)
	require.NoError(t, err)
	return alerts
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	url := devtest.SharedRedis(t)
	meteringtest.TestAlertStore(t, func(t *testing.T) metering.AlertStore { return newAlerts(t, url) })
}

// What stands in for Redis where there is none.
func TestAlertsOnMiniredis(t *testing.T) {
	t.Parallel()
	url := "redis://" + miniredis.RunT(t).Addr()
	meteringtest.TestAlertStore(t, func(t *testing.T) metering.AlertStore { return newAlerts(t, url) })
}

func TestAlertsOnCluster(t *testing.T) {
	t.Parallel()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: devtest.RedisCluster(t), ContextTimeoutEnabled: true, MaxRetries: -1})
	defer client.Close()
	alerts, err := redisquota.NewAlerts(client, nil)
	require.NoError(t, err)
	meteringtest.TestAlertStore(t, func(*testing.T) metering.AlertStore { return alerts })
}

// What waits survives Redis if Redis keeps its data, and goes with its tenant.
func TestAlertsStay(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	alerts := newAlerts(t, server.URL)
	mine, other := metering.Alert{ID: "a", Tenant: tenant.NewID()}, metering.Alert{ID: "b", Tenant: tenant.NewID()}
	for _, a := range []metering.Alert{mine, other} {
		added, err := alerts.Add(t.Context(), a, time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.True(t, added)
	}
	server.Kill()
	_, err := alerts.Claim(t.Context(), 10, time.Hour)
	require.Error(t, err)
	server.Start()
	require.Eventually(t, func() bool { return alerts.Forget(t.Context(), mine.Tenant) == nil }, time.Minute, time.Millisecond)
	left, err := alerts.Claim(t.Context(), 10, time.Hour)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, other.ID, left[0].ID)
	added, err := alerts.Add(t.Context(), mine, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.False(t, added, "what was told of it once is still known")
}

const alertsEnv = "REDISQUOTA_TEST_ALERTS"

// alertJob is what one process of a fleet with alerts does: it uses up the limits
// of tenants, and tells alerts by POST; the last one begins to tell when it is told
// to.
type alertJob struct {
	Redis   string
	Tell    string
	Tenants []string
	Last    bool
}

func alertWork(encoded string) error {
	var job alertJob
	if err := json.Unmarshal([]byte(encoded), &job); err != nil {
		return err
	}
	client, err := redisquota.NewClient(job.Redis)
	if err != nil {
		return err
	}
	defer client.Close()
	limiter, err := redisquota.New(client, nil)
	if err != nil {
		return err
	}
	store, err := redisquota.NewAlerts(client, nil)
	if err != nil {
		return err
	}
	meter, err := metering.New(limiter, &meteringtest.Sink{}, &metering.Options{
		Budget: time.Minute,
		Tools:  map[string]metering.Tool{"search": {Units: 1}},
		Plans:  map[tenant.Plan]metering.Plan{tenant.Free: {Limits: []metering.Limit{metering.PerMonth(100)}}},
		Alerts: &metering.AlertOptions{
			Store: store, Timeout: time.Second, Backoff: 50 * time.Millisecond,
			Tell: func(ctx context.Context, a metering.Alert) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s?last=%t", job.Tell, job.Last), strings.NewReader(a.ID))
				if err != nil {
					return err
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					return err
				}
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					return fmt.Errorf("status %d", res.StatusCode)
				}
				return nil
			},
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !job.Last {
		go meter.Run(ctx)
	}
	h := metering.WithMetering(meter, "search", func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, struct{}, error) {
		return nil, struct{}{}, nil
	})
	var group sync.WaitGroup
	for _, id := range job.Tenants {
		group.Go(func() {
			owner := tenant.NewContext(ctx, tenant.Tenant{ID: tenant.MustParseID(id), Plan: tenant.Free, Status: tenant.Active})
			for range 60 {
				_, _, _ = h(owner, &mcp.CallToolRequest{Params: &mcp.CallToolParamsRaw{Name: "search"}}, struct{}{})
			}
		})
	}
	group.Wait()
	fmt.Println("used")
	bufio.NewReader(os.Stdin).ReadString('\n')
	return meter.Run(ctx) // until the test kills it
}

// Three processes cross at once; two of them are killed while they tell, at the
// moment at which the receiver has heard and not answered yet. Each threshold of
// each tenant is heard, and none under two ids: a receiver that drops ids that it
// knows has each exactly once. Mutations seen here: a lease that never ends loses
// what the killed ones had; an id that is not derived from the threshold is told
// under two. An Add that always adds is not seen here; the conformance suite sees
// it.
func TestAlertsOfAFleet(t *testing.T) {
	t.Parallel()
	const tenants, thresholds = 5, 3 // 80, 95 and 100 percent
	job := alertJob{Redis: devtest.SharedRedis(t)}
	for range tenants {
		job.Tenants = append(job.Tenants, tenant.NewID().String())
	}
	var mu sync.Mutex
	heard := make(map[string]bool)
	holding := make(chan struct{}, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		id, _ := bufio.NewReader(r.Body).ReadString('\n')
		mu.Lock()
		heard[id] = true
		mu.Unlock()
		if r.FormValue("last") != "true" {
			holding <- struct{}{}
			<-r.Context().Done() // no answer before the sender is dead
		}
	}))
	defer receiver.Close()
	job.Tell = receiver.URL
	var children []*exec.Cmd
	var used []*bufio.Reader
	var last io.WriteCloser
	for i := range 3 {
		job.Last = i == 2
		encoded, err := json.Marshal(job)
		require.NoError(t, err)
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), alertsEnv+"="+string(encoded))
		child.Stderr = os.Stderr
		last, err = child.StdinPipe()
		require.NoError(t, err)
		defer last.Close()
		stdout, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		defer func() {
			child.Process.Kill()
			child.Wait()
		}()
		children, used = append(children, child), append(used, bufio.NewReader(stdout))
	}
	for _, stdout := range used { // one alone does not reach the limit
		line, err := stdout.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "used\n", line)
	}
	<-holding
	for _, child := range children[:2] {
		require.NoError(t, child.Process.Kill())
	}
	_, err := last.Write([]byte("tell\n"))
	require.NoError(t, err)

	// Until nothing waits any more.
	client, err := redisquota.NewClient(job.Redis)
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool {
		mu.Lock()
		all := len(heard) >= tenants*thresholds
		mu.Unlock()
		left, err := client.ZCard(t.Context(), "mcpsaas:{alerts}:due").Result()
		return all && err == nil && left == 0
	}, time.Minute, 5*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, heard, tenants*thresholds)
}
