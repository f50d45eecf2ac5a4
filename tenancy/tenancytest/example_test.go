package tenancytest_test

import (
	"context"
	"fmt"

	"github.com/mcpsaas/mcpsaas/tenancy/tenancytest"
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
