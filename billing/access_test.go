package billing_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
)

// TestAccess is the policy over every status, within and after its grace, and
// with collection paused.
func TestAccess(t *testing.T) {
	t.Parallel()
	const full, limited, suspended, deprovision = billing.AccessFull, billing.AccessLimited, billing.AccessSuspended, billing.AccessDeprovision
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		status                billing.SubscriptionStatus
		within, after, paused billing.Access
		bills                 bool
	}{
		{billing.Trialing, full, full, full, true},
		{billing.Active, full, full, full, true},
		{billing.PastDue, full, limited, full, true},
		{billing.Incomplete, suspended, suspended, suspended, false},
		{billing.Unpaid, suspended, suspended, suspended, true},
		{billing.Paused, suspended, suspended, suspended, true},
		{billing.IncompleteExpired, deprovision, deprovision, deprovision, false},
		{billing.Canceled, deprovision, deprovision, deprovision, false},
		{"brand_new", suspended, suspended, suspended, false},
	} {
		t.Run(string(tc.status), func(t *testing.T) {
			t.Parallel()
			var policy billing.AccessPolicy
			s := billing.Subscription{Status: tc.status, PastDueSince: now.Add(-billing.DefaultGrace)}
			require.Equal(t, tc.within, policy.Access(s, now.Add(-1)))
			require.Equal(t, tc.after, policy.Access(s, now))
			s.CollectionPaused = true
			require.Equal(t, tc.paused, policy.Access(s, now))
			require.Equal(t, tc.bills, tc.status.Bills())
		})
	}
	s := billing.Subscription{Status: billing.PastDue}
	require.Equal(t, full, billing.AccessPolicy{}.Access(s, now), "the grace counts from when it is known to have begun")
	require.Equal(t, limited, billing.AccessPolicy{Grace: -1}.Access(s, now), "no grace")
}
