package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

type hostileInput struct {
	How string `json:"how"`
}

// hostile adds a tool that goes wrong in the middle of a transaction, in the
// way it is asked to.
func hostile(a *app, server *mcp.Server) {
	mcp.AddTool(server, &mcp.Tool{Name: "add_product_badly"}, metering.WithMetering(a.meter, "add_product_badly",
		func(ctx context.Context, _ *mcp.CallToolRequest, in hostileInput) (*mcp.CallToolResult, any, error) {
			return nil, nil, tenancy.TenantTx(ctx, a.db, func(ctx context.Context, tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `update products set price_cents = price_cents + 1`); err != nil {
					return err
				}
				switch in.How {
				case "panic":
					panic("on purpose")
				case "sql":
					_, err := tx.Exec(ctx, `select no_such_column`)
					return err
				case "slow":
					_, err := tx.Exec(ctx, `select pg_sleep(0.3)`)
					return err
				case "commit": // as injected SQL would
					_, err := tx.Exec(ctx, `commit`)
					return err
				default: // leaves the context of another tenant behind, if it can
					_, err := tx.Exec(ctx, `select set_config('app.current_tenant_id', 'de300000-0000-4000-8000-000000000001', false)`)
					return errors.Join(err, errors.New("rolled back"))
				}
			})
		}))
}

// TestMixedTenants makes 10,000 calls of three tenants at once, one in each
// tier, with errors, cancellations, panics and tampering between them, in both
// modes. No call may see a row of another tenant, and the process must live.
//
// Mutation that it saw: no recover in the middleware. The guards of a
// transaction stand behind each other, so that none of them is missed here;
// package tenancy tests each, and mcptenant whose context a call runs in.
func TestMixedTenants(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"stateless", "stateful"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			args := []string{}
			if mode == "stateful" {
				args = append(args, "-stateful")
			}
			r := w.serve(hostile, args...)
			tenants := []demoTenant{r.tenant(tenant.Pro), r.tenant(tenant.Enterprise), w.sharedEnterprise(t)}
			for i, tier := range []string{"schema", "database:" + databaseRef(tenants[1].ID), "shared"} {
				at, _ := w.placement(t, tenants[i].ID)
				require.Equal(t, tier, at)
			}
			mark := func(d demoTenant) string { return "only " + d.ID.String() }
			sessions := make([]string, len(tenants))
			for i, d := range tenants {
				if mode == "stateful" {
					sessions[i] = openSession(t, r, d.APIKey)
				}
				a, err := post(t.Context(), r.MCPURL, d.APIKey, sessions[i], "mark", "add_product", map[string]any{"name": mark(d), "price_cents": 1})
				require.NoError(t, err)
				require.False(t, a.isErr, a.text)
			}
			if mode == "stateful" {
				// A's session with B's token: refused, whatever it asks for.
				a, err := post(t.Context(), r.MCPURL, tenants[1].APIKey, sessions[0], "swap", "search_products", map[string]any{})
				require.NoError(t, err)
				require.Equal(t, http.StatusForbidden, a.status, a.text)
				require.NotContains(t, a.text, mark(tenants[0]))
			}

			var next, answered, cancelled atomic.Int64
			var wg sync.WaitGroup
			total := int64(5000)
			if testing.Short() {
				total = 500
			}
			for range 16 {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > total {
							return
						}
						who := rand.IntN(len(tenants))
						me := tenants[who]
						foreign := func(text string) bool {
							return slices.ContainsFunc(tenants, func(d demoTenant) bool { return d != me && strings.Contains(text, mark(d)) })
						}
						ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
						tool, in := "search_products", map[string]any{"query": "only"}
						how := ""
						switch rand.IntN(12) {
						case 0:
							how = "panic"
						case 1:
							how = "sql"
						case 2:
							how = "commit"
						case 3:
							how = "tamper"
						case 4:
							if n%20 == 0 {
								how = "slow"
								time.AfterFunc(time.Duration(rand.IntN(20))*time.Millisecond, cancel)
							}
						case 5:
							in["limit"] = -1 // an error of the tool's own
						}
						if how != "" {
							tool, in = "add_product_badly", map[string]any{"how": how}
						}
						a, err := post(ctx, r.MCPURL, me.APIKey, sessions[who], fmt.Sprint(n), tool, in)
						cancel()
						switch {
						case err != nil && how == "slow":
							cancelled.Add(1)
						case err != nil:
							t.Errorf("call %d (%s): %v", n, how, err)
							return
						case foreign(a.text) || foreign(string(a.out)):
							t.Errorf("call %d of %s saw another's row: %s", n, me.ID, a.text)
							return
						case how == "" && in["limit"] == nil:
							if a.isErr || !strings.Contains(a.text, mark(me)) {
								t.Errorf("call %d of %s: %s", n, me.ID, a.text)
								return
							}
							answered.Add(1)
						case !a.isErr:
							t.Errorf("call %d (%s) did not fail: %s", n, how, a.text)
							return
						case strings.Contains(a.text, "SQLSTATE") || strings.Contains(a.text, "no_such_column") || strings.Contains(a.text, "goroutine"):
							t.Errorf("call %d (%s) shows too much: %s", n, how, a.text)
							return
						}
					}
				})
			}
			wg.Wait()
			require.Greater(t, answered.Load(), total/3)
			t.Logf("%d searches answered, %d calls cancelled", answered.Load(), cancelled.Load())

			// Each has its own product still, and no other. (An injected COMMIT
			// does commit what its own tenant did before it.)
			for i, d := range tenants {
				a, err := post(t.Context(), r.MCPURL, d.APIKey, sessions[i], "after", "search_products", map[string]any{"query": "only"})
				require.NoError(t, err)
				var out searchOutput
				require.NoError(t, json.Unmarshal(a.out, &out))
				require.Len(t, out.Products, 1)
				require.Equal(t, mark(d), out.Products[0].Name)
			}
		})
	}
}

// sharedEnterprise is a tenant without limits in the shared tables.
func (w *world) sharedEnterprise(t *testing.T) demoTenant {
	t.Helper()
	text, err := w.command("tenant", "create", "enterprise", "-json")
	require.NoError(t, err)
	var made demoTenant
	require.NoError(t, json.Unmarshal([]byte(text), &made))
	_, err = w.command("tenant", "move", made.ID.String(), "-to", "shared")
	require.NoError(t, err)
	return made
}

// openSession initializes a stateful session and returns its id.
func openSession(t *testing.T, r *running, token string) string {
	t.Helper()
	body := `{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"e2e","version":"v1"}}}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.MCPURL, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	id := res.Header.Get("Mcp-Session-Id")
	require.NotEmpty(t, id)
	a, err := postRaw(t.Context(), r.MCPURL, token, id, []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, a.status)
	// The notification is accepted before it is handled.
	eventually(t, "the session is initialized", func() bool {
		a, err := post(t.Context(), r.MCPURL, token, id, "free", "health_check", map[string]any{})
		require.NoError(t, err)
		return !a.isErr
	})
	return id
}
