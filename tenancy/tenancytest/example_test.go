package tenancytest_test

import (
	"context"
	"fmt"

	"github.com/mcpsaas/mcpsaas/tenancy/tenancytest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// printer is a *testing.T for the example.
type printer struct{}

func (printer) Helper()                           {}
func (printer) Context() context.Context          { return context.Background() }
func (printer) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// A proof of nothing fails.
func ExampleIsolation() {
	tenancytest.Isolation(printer{}, nil)
	// Output: unproved: no tables given
}

// Two that are one prove nothing either.
func ExampleIsolationBetween() {
	id := tenant.NewID()
	tenancytest.IsolationBetween(printer{}, nil, id, id, tenancytest.Table{Name: "products"})
	// Output: unproved: the two tenants are one
}
