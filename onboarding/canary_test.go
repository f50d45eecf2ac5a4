package onboarding_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// shop is an MCP server that takes the caller for the tenant whose id is the
// bearer token, and knows the protocol revisions that were spoken.
type shop struct {
	http.Handler
	mu        sync.Mutex
	revisions map[string]bool
}

func newShop(stateless bool, marker onboarding.Marker) *shop {
	s := &shop{revisions: make(map[string]bool)}
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1"}, nil)
	server.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if method == "tools/call" {
				s.mu.Lock()
				s.revisions[req.(*mcp.CallToolRequest).ProtocolVersion()] = true
				s.mu.Unlock()
			}
			token := strings.TrimPrefix(req.GetExtra().Header.Get("Authorization"), "Bearer ")
			if id, err := tenant.ParseID(token); err == nil {
				ctx = tenant.NewContext(ctx, tenant.Tenant{ID: id})
			}
			return next(ctx, method, req)
		}
	})
	tool, handler := onboarding.HealthCheckTool(marker)
	mcp.AddTool(server, tool, handler)
	s.Handler = mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server },
		&mcp.StreamableHTTPOptions{Stateless: stateless})
	return s
}

func (s *shop) spoken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for r := range s.revisions {
		list = append(list, r)
	}
	return list
}

func sees(marker string, visible int, err error) onboarding.Marker {
	return onboarding.MarkerFunc(func(context.Context) (string, int, error) { return marker, visible, err })
}

func TestCanaryPasses(t *testing.T) {
	t.Parallel()
	id := tenant.NewID()
	want := onboarding.Expect{Tenant: id, Marker: "m1"}
	for name, c := range map[string]struct {
		stateless bool
		revisions []string
	}{
		"stateless": {true, []string{"2026-07-28", "2025-06-18"}},
		"stateful":  {false, []string{"2025-11-25", "2025-06-18"}}, // it doesn't serve the newest
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(c.stateless, sees("m1", 1, nil))
			canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: s})
			require.NoError(t, err)
			require.NoError(t, canary.Check(t.Context(), id.String(), want))
			require.ElementsMatch(t, c.revisions, s.spoken())

			// The same over the network.
			web := httptest.NewServer(s)
			defer web.Close()
			canary, err = onboarding.NewCanary(&onboarding.CanaryOptions{URL: web.URL})
			require.NoError(t, err)
			require.NoError(t, canary.Check(t.Context(), id.String(), want))
		})
	}
}

// TestCanaryFails: whatever isn't an isolated tenant's view is an error. The
// faults of a real database are in package pgstate's tests.
//
// Mutations seen: each case of judge removed.
func TestCanaryFails(t *testing.T) {
	t.Parallel()
	id, other := tenant.NewID(), tenant.NewID()
	for name, c := range map[string]struct {
		marker onboarding.Marker
		key    string
		want   string
	}{
		"foreign rows":   {sees("m1", 2, nil), id.String(), "2 markers"},
		"no row":         {sees("", 0, nil), id.String(), "can't see its own marker"},
		"foreign marker": {sees("m2", 1, nil), id.String(), "isn't its own"},
		"tool fails":     {sees("", 0, errors.New("host=10.0.0.1 refused")), id.String(), "the tool failed"},
		"other tenant":   {sees("m1", 1, nil), other.String(), "another tenant"},
		"no tenant":      {sees("m1", 1, nil), "nobody", "the tool failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: newShop(true, c.marker)})
			require.NoError(t, err)
			err = canary.Check(t.Context(), c.key, onboarding.Expect{Tenant: id, Marker: "m1"})
			found := new(onboarding.CanaryError)
			require.ErrorAs(t, err, &found)
			require.Equal(t, id, found.Tenant)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "10.0.0.1", "the tool tells a caller no cause")
		})
	}
	t.Run("no marker known", func(t *testing.T) {
		t.Parallel()
		canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: newShop(true, sees("", 1, nil))})
		require.NoError(t, err)
		require.ErrorContains(t, canary.Check(t.Context(), id.String(), onboarding.Expect{Tenant: id}), "isn't its own")
	})
	t.Run("tool missing", func(t *testing.T) {
		t.Parallel()
		canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: newShop(true, sees("m1", 1, nil)), Tool: "ping"})
		require.NoError(t, err)
		require.ErrorContains(t, canary.Check(t.Context(), id.String(), onboarding.Expect{Tenant: id, Marker: "m1"}), "doesn't list ping")
	})
}

// TestCanaryWaitsForItsKey: a replica learns of a new key within a second; until
// then it refuses.
func TestCanaryWaitsForItsKey(t *testing.T) {
	t.Parallel()
	id := tenant.NewID()
	s := newShop(true, sees("m1", 1, nil))
	for _, status := range []int{http.StatusUnauthorized, http.StatusServiceUnavailable} {
		var calls atomic.Int32
		canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1) < 4 {
				http.Error(w, "who are you?", status)
				return
			}
			s.ServeHTTP(w, r)
		})})
		require.NoError(t, err)
		require.NoError(t, canary.Check(t.Context(), id.String(), onboarding.Expect{Tenant: id, Marker: "m1"}))
	}
}

// TestCanaryEnds: a server that hangs, panics or refuses for ever ends the
// canary, and leaves nothing running.
func TestCanaryEnds(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"hangs":   func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"panics":  func(http.ResponseWriter, *http.Request) { panic("boom") },
		"refuses": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"half an answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"jsonrpc":`))
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: h, Limit: 200 * time.Millisecond})
			require.NoError(t, err)
			require.Error(t, canary.Check(t.Context(), "key", onboarding.Expect{Tenant: tenant.NewID(), Marker: "m"}))
		})
	}
}

func BenchmarkCanary(b *testing.B) {
	id := tenant.NewID()
	canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: newShop(true, sees("m1", 1, nil))})
	require.NoError(b, err)
	for b.Loop() {
		require.NoError(b, canary.Check(b.Context(), id.String(), onboarding.Expect{Tenant: id, Marker: "m1"}))
	}
}
