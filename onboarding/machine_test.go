package onboarding_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var statuses = []tenant.Status{
	tenant.Requested, tenant.Provisioning, tenant.Failed, tenant.Active, tenant.Updating, tenant.UpdateFailed,
	tenant.Suspended, tenant.DeprovisionScheduled, tenant.Deprovisioning, tenant.DeprovisionFailed,
	tenant.Purging, tenant.Cancelled, tenant.Deleted,
}

var events = []onboarding.Event{
	onboarding.EventStart, onboarding.EventActivate, onboarding.EventFail, onboarding.EventRetry,
	onboarding.EventCancel, onboarding.EventSuspend, onboarding.EventResume, onboarding.EventUpdate,
	onboarding.EventUpdated, onboarding.EventRollBack, onboarding.EventSchedule, onboarding.EventRestore,
	onboarding.EventDeprovision, onboarding.EventPurge, onboarding.EventBury,
}

// TestNext goes through every pair of state and event: the edges of the life of
// a tenant lead where they should, and all else is refused and changes nothing.
//
// Mutations seen: an edge added (deleted --start--> provisioning), one removed.
func TestNext(t *testing.T) {
	t.Parallel()
	type edge struct {
		from tenant.Status
		e    onboarding.Event
	}
	life := map[edge]tenant.Status{
		{"requested", "start"}:                   "provisioning",
		{"requested", "cancel"}:                  "cancelled",
		{"provisioning", "activate"}:             "active",
		{"provisioning", "fail"}:                 "failed",
		{"failed", "retry"}:                      "provisioning",
		{"failed", "schedule"}:                   "deprovision_scheduled",
		{"active", "update"}:                     "updating",
		{"active", "suspend"}:                    "suspended",
		{"active", "schedule"}:                   "deprovision_scheduled",
		{"updating", "updated"}:                  "active",
		{"updating", "suspend"}:                  "suspended",
		{"updating", "fail"}:                     "update_failed",
		{"update_failed", "retry"}:               "updating",
		{"update_failed", "roll_back"}:           "active",
		{"suspended", "resume"}:                  "active",
		{"suspended", "schedule"}:                "deprovision_scheduled",
		{"deprovision_scheduled", "restore"}:     "active",
		{"deprovision_scheduled", "deprovision"}: "deprovisioning",
		{"deprovisioning", "purge"}:              "purging",
		{"deprovisioning", "fail"}:               "deprovision_failed",
		{"deprovision_failed", "retry"}:          "deprovisioning",
		{"deprovision_failed", "schedule"}:       "deprovision_scheduled",
		{"purging", "bury"}:                      "deleted",
	}
	seen := 0
	for _, from := range statuses {
		for _, e := range events {
			to, err := onboarding.Next(from, e)
			want, ok := life[edge{from, e}]
			if ok {
				seen++
				require.NoError(t, err, "%s %s", from, e)
				require.Equal(t, want, to, "%s %s", from, e)
				continue
			}
			require.Equal(t, from, to, "%s %s", from, e)
			require.ErrorIs(t, err, onboarding.ErrForbidden, "%s %s", from, e)
			refused, is := errors.AsType[*onboarding.TransitionError](err)
			require.True(t, is)
			require.Equal(t, from, refused.From)
			require.Equal(t, e, refused.Event)
		}
	}
	require.Len(t, life, seen)

	_, err := onboarding.Next("nonsense", onboarding.EventStart)
	require.ErrorIs(t, err, onboarding.ErrForbidden)
}

func TestTransitionErrorTellsTombstones(t *testing.T) {
	t.Parallel()
	gone := []tenant.Status{tenant.Deprovisioning, tenant.DeprovisionFailed, tenant.Purging, tenant.Cancelled, tenant.Deleted}
	for _, from := range statuses {
		err := &onboarding.TransitionError{From: from, Event: onboarding.EventStart}
		want := false
		for _, s := range gone {
			want = want || s == from
		}
		require.Equal(t, want, errors.Is(err, onboarding.ErrTombstone), from)
	}
}
