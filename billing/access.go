package billing

import "time"

// Access is what a subscription entitles a tenant to.
type Access string

// The accesses, from most to least.
const (
	AccessFull        Access = "full"        // everything its plan allows
	AccessLimited     Access = "limited"     // read only, or the free plan's limits: the application's choice
	AccessSuspended   Access = "suspended"   // no calls; data, health and export stay
	AccessDeprovision Access = "deprovision" // to be taken down, after the retention that onboarding grants
)

// DefaultGrace is how long a tenant whose payment failed keeps full access.
const DefaultGrace = 7 * 24 * time.Hour

// AccessPolicy turns a subscription into an [Access]. The zero value grants
// [DefaultGrace]. It is a pure table:
//
//	status              within grace      after grace   collection paused
//	trialing, active    full              full          full
//	past_due            full              limited       full: nothing is being collected
//	incomplete          suspended: the first payment is still open
//	unpaid, paused      suspended
//	incomplete_expired  deprovision
//	canceled            deprovision
//	any other           suspended: an unknown word grants nothing and destroys nothing
//
// Access and billing are two questions: a past_due or unpaid subscription is
// still invoiced, see [SubscriptionStatus.Bills]. The meaning of each status is
// from https://docs.stripe.com/billing/subscriptions/overview.
type AccessPolicy struct {
	// Grace is how long after [Subscription.PastDueSince] access stays full;
	// negative: none. Defaults to [DefaultGrace].
	Grace time.Duration
}

// Access returns what s entitles to at now.
func (p AccessPolicy) Access(s Subscription, now time.Time) Access {
	grace := p.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	switch s.Status {
	case Trialing, Active:
		return AccessFull
	case PastDue:
		// A past_due subscription whose start we were not told is given its
		// grace: taking access away needs a reason, granting it does not.
		if s.CollectionPaused || s.PastDueSince.IsZero() && grace > 0 || now.Before(s.PastDueSince.Add(grace)) {
			return AccessFull
		}
		return AccessLimited
	case Canceled, IncompleteExpired:
		return AccessDeprovision
	default:
		return AccessSuspended
	}
}

// Until returns when Access will answer otherwise by itself, without any word of
// the provider: the end of a grace. It is zero where it won't.
func (p AccessPolicy) Until(s Subscription, now time.Time) time.Time {
	grace := p.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	end := s.PastDueSince.Add(grace)
	if s.Status != PastDue || s.CollectionPaused || s.PastDueSince.IsZero() || !now.Before(end) {
		return time.Time{}
	}
	return end
}

// Bills reports whether usage under a subscription in this status is reported
// to the provider.
func (s SubscriptionStatus) Bills() bool {
	switch s {
	case Trialing, Active, PastDue, Unpaid, Paused:
		return true
	default:
		return false
	}
}
