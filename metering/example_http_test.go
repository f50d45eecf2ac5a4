package metering_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// customers are the tenants of a server that knows them by a header of its own. The
// ID of a tenant is a UUID that never changes; everything else may with any call.
var customers = map[string]tenant.Tenant{
	"acme": {ID: tenant.MustParseID("0195b3c0-0000-7000-8000-000000000001"), Plan: "pro"},
}

// identify puts the tenant of each request into its context. A call without one is
// refused by the meter.
func identify(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		if extra := req.GetExtra(); extra != nil {
			if t, ok := customers[extra.Header.Get("X-Customer")]; ok {
				ctx = tenant.NewContext(ctx, t)
			}
		}
		return next(ctx, method, req)
	}
}

// asCustomer is a client's transport.
type asCustomer string

func (c asCustomer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Customer", string(c))
	return http.DefaultTransport.RoundTrip(r)
}

// A server over HTTP with tenants of its own, quotas in Redis, usage events on disk
// until they are stored, and the order in which all of it ends.
func Example_http() {
	redis, err := miniredis.Run() // in production: Redis
	if err != nil {
		log.Fatal(err)
	}
	defer redis.Close()
	client, err := redisquota.NewClient("redis://" + redis.Addr())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	limiter, err := redisquota.New(client, nil)
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "spool") // in production: a directory that survives the process
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	events, err := usage.OpenSpool(filepath.Join(dir, "events"), nil)
	if err != nil {
		log.Fatal(err)
	}
	journal, err := usage.OpenJournal(filepath.Join(dir, "journal"), nil)
	if err != nil {
		log.Fatal(err)
	}
	meter, err := metering.New(limiter, events, &metering.Options{
		Tools:   map[string]metering.Tool{"report": {Units: 20}},
		Plans:   map[tenant.Plan]metering.Plan{"pro": {Limits: []metering.Limit{metering.PerHour(5_000)}, OnOutage: metering.Allow}},
		Journal: journal,
		Budget:  10 * time.Second, // a machine that is busy is no outage here; in production the default
	})
	if err != nil {
		log.Fatal(err)
	}

	// In production: a table in which the event's ID is unique, or billing's ledger.
	store := usage.StoreFunc(func(_ context.Context, events []usage.Event) (int, error) {
		for _, e := range events {
			fmt.Println("stored:", e.Tenant, e.Tool, e.Units)
		}
		return len(events), nil
	})
	metered, stopMeter := context.WithCancel(context.Background())
	stored, stopSpool := context.WithCancel(context.Background())
	var meters, stores sync.WaitGroup
	meters.Go(func() { meter.Run(metered) })
	stores.Go(func() { events.Run(stored, store) })

	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1.0.0"}, nil)
	server.AddReceivingMiddleware(identify)
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, metering.WithMetering(meter, "report", report))
	if err := meter.Coverage(context.Background(), server); err != nil { // no tool is free by mistake
		log.Fatal(err)
	}
	web := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true}))

	agent := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "v1.0.0"}, nil)
	for _, name := range []string{"acme", "nobody"} {
		session, err := agent.Connect(context.Background(), &mcp.StreamableClientTransport{
			Endpoint: web.URL, HTTPClient: &http.Client{Transport: asCustomer(name)}, MaxRetries: -1,
		}, nil)
		if err != nil {
			log.Fatal(err)
		}
		res, err := session.CallTool(context.Background(), &mcp.CallToolParams{Name: "report"})
		switch {
		case err != nil:
			fmt.Println(name, err)
		default:
			fmt.Println(name, res.Content[0].(*mcp.TextContent).Text)
		}
		session.Close()
	}

	// First nobody calls any more, then the meter returns what it has lent, and in
	// the end what is on disk is stored; what can't be stays for the next start.
	web.Close()
	stopMeter()
	meters.Wait()
	flushing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := events.Flush(flushing); err != nil {
		log.Print(err)
	}
	stopSpool()
	stores.Wait()
	for _, spool := range []*usage.Spool{events, journal} {
		if err := spool.Close(); err != nil {
			log.Print(err)
		}
	}
	// Unordered output:
	// acme {"title":"Sales of November"}
	// stored: 0195b3c0-0000-7000-8000-000000000001 report 20
	// nobody Unauthenticated
}
