package monitor_test

import (
	"context"
	"fmt"

	"github.com/mcpsaas/mcpsaas/onboarding/monitor"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// A service that has no interface to make monitors by: a person is told what
// to do, and nothing pretends that it was done.
func ExampleManual() {
	m := monitor.Manual{Service: "status.example.com"}
	ref, err := m.Ensure(context.Background(), monitor.Spec{
		Tenant: tenant.MustParseID("0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"),
		URL:    "https://mcp.example.com/health/t/abc",
		Key:    "tenant-0190a2b4",
	})
	fmt.Println(ref.ManualRequired, err)
	fmt.Println(ref.Note)
	// Output:
	// true <nil>
	// enter https://mcp.example.com/health/t/abc at status.example.com
}

func ExampleProbe() {
	report, err := monitor.Probe(context.Background(), monitor.ProbeOptions{URL: "https://mcp.example.com/mcp"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range report.Checks {
		fmt.Println(c.OK, c.Name, c.Revision, c.Detail)
	}
}
