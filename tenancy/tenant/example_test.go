package tenant_test

import (
	"context"
	"fmt"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func Example() {
	id, err := tenant.ParseID("0190A2B4-5C6D-7E8F-8A9B-0C1D2E3F4A5B")
	if err != nil {
		panic(err)
	}
	ctx := tenant.NewContext(context.Background(), tenant.Tenant{ID: id, Plan: tenant.Pro, Status: tenant.Active})

	t, ok := tenant.FromContext(ctx)
	fmt.Println(t.ID, t.Plan, t.Status.Serves(), ok)

	// There is no default tenant.
	_, ok = tenant.FromContext(context.Background())
	fmt.Println(ok)

	// Output:
	// 0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b pro true true
	// false
}
