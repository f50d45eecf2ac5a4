package billing_test

import (
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// What a failed payment does to a tenant's access.
func ExampleAccessPolicy() {
	failed := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	s := billing.Subscription{Status: billing.PastDue, PastDueSince: failed}
	policy := billing.AccessPolicy{Grace: 72 * time.Hour}
	fmt.Println(policy.Access(s, failed.Add(24*time.Hour)))
	fmt.Println(policy.Access(s, failed.Add(96*time.Hour)))
	// Output:
	// full
	// limited
}
