package onboarding_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// A product with one step of its own. A real one takes its steps from
// [onboarding.Standard] and keeps its state by package pgstate.
func ExampleProvisioner() {
	steps := onboarding.Steps{Provision: []onboarding.Step{{
		Name: "greet",
		Do: func(_ context.Context, t *onboarding.Task) (any, error) {
			fmt.Println("welcome,", t.Spec.Name)
			return nil, nil
		},
	}}}
	p, err := onboarding.New(newMemory(), steps, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })

	id := tenant.MustParseID("0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b")
	for range 50 { // a webhook comes more than once
		if err := p.Provision(ctx, onboarding.Request{Tenant: id, Plan: tenant.Pro, Name: "Ada"}); err != nil {
			fmt.Println(err)
		}
	}
	r, err := p.Wait(ctx, id, tenant.Active)
	fmt.Println(r.State, r.Spec.Plan, err)
	cancel()
	wg.Wait()
	// Output:
	// welcome, Ada
	// active pro <nil>
}

func ExampleNext() {
	to, err := onboarding.Next(tenant.Active, onboarding.EventSuspend)
	fmt.Println(to, err)
	_, err = onboarding.Next(tenant.Deleted, onboarding.EventStart)
	fmt.Println(errors.Is(err, onboarding.ErrTombstone), err)
	// Output:
	// suspended <nil>
	// true onboarding: start a tenant that is deleted: forbidden
}

// The tool that the canary calls is registered like any other.
func ExampleHealthCheckTool() {
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1"}, nil)
	marker := onboarding.MarkerFunc(func(context.Context) (string, int, error) {
		return "the marker that the tenant sees", 1, nil // db.Marker of package tenancy
	})
	tool, handler := onboarding.HealthCheckTool(marker)
	mcp.AddTool(server, tool, handler)
	fmt.Println(tool.Name)
	// Output: health_check
}
