package metering_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

type reportInput struct{}

type reportOutput struct {
	Title string `json:"title"`
}

func report(context.Context, *mcp.CallToolRequest, reportInput) (*mcp.CallToolResult, reportOutput, error) {
	return nil, reportOutput{"Sales of November"}, nil
}

func Example() {
	// In production: a redisquota.Limiter and a usage.Spool.
	limiter := metering.NewMemory(nil)
	sink := usage.SinkFunc(func(_ context.Context, e usage.Event) error {
		fmt.Println("recorded:", e.Tool, e.Units, e.Outcome)
		return nil
	})
	meter, err := metering.New(limiter, sink, &metering.Options{
		Tools: map[string]metering.Tool{"report": {Units: 20}},
		Plans: map[tenant.Plan]metering.Plan{"free": {Limits: []metering.Limit{metering.PerHour(50)}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	who := tenant.Tenant{ID: tenant.NewID(), Plan: "free"}

	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1.0.0"}, nil)
	server.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler { // in production: mcptenant
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			return next(tenant.NewContext(ctx, who), method, req)
		}
	})
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, metering.WithMetering(meter, "report", report))

	ctx := context.Background()
	here, there := mcp.NewInMemoryTransports()
	if _, err := server.Connect(ctx, here, nil); err != nil {
		log.Fatal(err)
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "v1.0.0"}, nil).Connect(ctx, there, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	for range 3 {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "report"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(res.Content[0].(*mcp.TextContent).Text)
	}
	// Output:
	// recorded: report 20 ok
	// {"title":"Sales of November"}
	// recorded: report 20 ok
	// {"title":"Sales of November"}
	// recorded: report 0 denied
	// quota_exceeded: report limit reached for plan free; 40 of 50 units used (hour), retry in 3600s
}

func ExampleUnitsOf() {
	type bulkInput struct {
		IDs []string `json:"ids"`
	}
	tools := map[string]metering.Tool{
		"fetch_many": {UnitsFunc: metering.UnitsOf(func(in bulkInput) int64 { return int64(len(in.IDs)) })},
	}
	units, err := tools["fetch_many"].UnitsFunc(&mcp.CallToolRequest{
		Params: &mcp.CallToolParamsRaw{Name: "fetch_many", Arguments: []byte(`{"ids":["a","b","c"]}`)},
	})
	fmt.Println(units, err)
	// Output: 3 <nil>
}

// A tool that learns what a call costs while it works.
func ExampleAddUnits() {
	type crawlInput struct {
		Pages int64 `json:"pages"`
	}
	crawl := func(ctx context.Context, _ *mcp.CallToolRequest, in crawlInput) (*mcp.CallToolResult, any, error) {
		for range in.Pages {
			if err := metering.AddUnits(ctx, 2); err != nil { // beside the unit that every call costs
				return nil, nil, err
			}
		}
		return nil, nil, nil
	}
	sink := usage.SinkFunc(func(_ context.Context, e usage.Event) error {
		fmt.Println("recorded:", e.Tool, e.Units)
		return nil
	})
	meter, err := metering.New(metering.NewMemory(nil), sink, &metering.Options{
		Tools: map[string]metering.Tool{"crawl": {Units: 1}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := tenant.NewContext(context.Background(), tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Free})
	handler := metering.WithMetering(meter, "crawl", crawl) // a server calls it
	if _, _, err := handler(ctx, &mcp.CallToolRequest{Params: &mcp.CallToolParamsRaw{Name: "crawl"}}, crawlInput{Pages: 3}); err != nil {
		log.Fatal(err)
	}
	// Output: recorded: crawl 7
}

// Calls that are let through while Redis is away are counted when it is back.
func ExampleOptions_journal() {
	server, err := miniredis.Run() // in production: Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := redisquota.NewClient("redis://" + server.Addr())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	limiter, err := redisquota.New(client, nil)
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "journal") // in production: a directory that survives the process
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	journal, err := usage.OpenJournal(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	meter, err := metering.New(limiter, &meteringtest.Sink{}, &metering.Options{
		Tools:   map[string]metering.Tool{"report": {Units: 20}},
		Plans:   map[tenant.Plan]metering.Plan{"pro": {Limits: []metering.Limit{metering.PerHour(1_000)}, OnOutage: metering.Allow}},
		Journal: journal,
		Budget:  10 * time.Second, // a machine that is busy is no outage here; in production the default
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(tenant.NewContext(context.Background(), tenant.Tenant{ID: tenant.NewID(), Plan: "pro"}))
	var running sync.WaitGroup
	running.Go(func() { meter.Run(ctx) })

	handler := metering.WithMetering(meter, "report", report)
	call := func() {
		if _, _, err := handler(ctx, &mcp.CallToolRequest{Params: &mcp.CallToolParamsRaw{Name: "report"}}, reportInput{}); err != nil {
			log.Fatal(err)
		}
	}
	call()
	server.Close()
	call() // Redis is gone
	if err := server.Restart(); err != nil {
		log.Fatal(err)
	}
	var used int64
	for tick := time.Tick(10 * time.Millisecond); used < 40; <-tick {
		if limits, err := meter.Remaining(ctx); err == nil {
			used = limits[0].Units - limits[0].Remaining
		}
	}
	fmt.Println("used:", used)

	stop()
	running.Wait()
	if err := journal.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: used: 40
}

func ExamplePlan_With() {
	free := metering.DefaultPlans()[tenant.Free]
	own := []tenant.Limit{
		{Name: "hour", Units: 500},                                   // instead of 100
		{Name: "spend", Units: 20_000, Per: "billing", Mode: "soft"}, // tells, and refuses nothing
	}
	plan, err := free.With(own, nil)
	for _, l := range plan.Limits {
		fmt.Println(l.Name, l.Units)
	}
	fmt.Println(err)

	_, err = free.With([]tenant.Limit{{Name: "hours", Units: 500}}, nil)
	fmt.Println(err)
	// Output:
	// hour 500
	// spend 20000
	// <nil>
	// metering: limit "hours": the plan has no limit of this name (it has: hour, attempts); a limit beside the plan's needs a period or a window
}

func ExampleMeter_AddUsage() {
	meter, err := metering.New(metering.NewMemory(nil), &meteringtest.Sink{}, &metering.Options{
		Tools: map[string]metering.Tool{"usage": {Free: true}},
	})
	if err != nil {
		panic(err)
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1.0.0"}, nil)
	server.AddReceivingMiddleware(meter.Middleware())
	meter.AddUsage(server, nil)
	fmt.Println(meter.Coverage(context.Background(), server))
	// Output: <nil>
}
