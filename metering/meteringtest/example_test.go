package meteringtest_test

import (
	"context"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func ExampleNewLimiter() {
	limiter, clock := meteringtest.NewLimiter()
	r := metering.Request{Tenant: tenant.NewID(), Units: 60, Bounds: []metering.Bound{{Limit: metering.PerHour(100)}}}
	for range 3 {
		d, _ := limiter.Take(context.Background(), r)
		fmt.Println(d.Allowed, d.RetryAfter())
		clock.Advance(30 * time.Minute)
	}
	// Output:
	// true 0s
	// false 30m0s
	// true 0s
}
