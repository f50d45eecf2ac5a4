package stripebill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The keys of the metadata that this package writes and reads.
const (
	metaTenant    = "tenant_id"
	metaPlan      = "plan"
	metaKind      = "kind"      // of a price: kindFlat, kindUsage or kindPack
	metaNamespace = "namespace" // whose catalog a price belongs to

	kindFlat  = "flat"
	kindUsage = "usage"
)

// SourceOptions configure a [Source].
type SourceOptions struct {
	// Plans adds lookup keys of flat prices that [Client.EnsureCatalog] has
	// not made: a yearly price, or a catalog that was there before.
	Plans map[string]tenant.Plan
}

// Source is the [billing.Source] for Stripe: it answers a notice with what
// Stripe says now of the tenant. The same state at Stripe gives the same
// Change whatever the notice, so notices may come twice, late and in any
// order. It is safe for concurrent use.
//
// A tenant is known by the metadata key tenant_id of the checkout session, the
// subscription or the customer. A session's client_reference_id must not say
// otherwise, but is never enough by itself: in payment links and pricing
// tables the buyer can choose it, and so could name another tenant.
type Source struct {
	client *Client
	plans  map[string]tenant.Plan
	meters sync.Map // meter id -> event name, which never changes
}

var (
	_ billing.Source       = (*Source)(nil)
	_ billing.MissedLister = (*Source)(nil)
)

// NewSource returns a source that reads through c.
func NewSource(c *Client, opts *SourceOptions) *Source {
	s := &Source{client: c}
	if opts != nil {
		s.plans = maps.Clone(opts.Plans)
	}
	return s
}

// Fetch returns what Stripe says of the tenant that n speaks of, and the zero
// Change when n is of a type, or about an object, that concerns none. Where
// only the customer is known, the tenant is zero: whoever keeps customers may
// know it. Change.Seq is left to the caller, who draws it before.
//
// The error matches [ErrNotFound] when the object doesn't exist in this
// account and mode, [tenant.ErrInvalidID] when it names a malformed tenant,
// and [ErrAmbiguous] when it contradicts itself: repeating doesn't mend these,
// and they are a [billing.PermanentError]. What is not found is so only after
// a few tries, in about 15 seconds: a webhook may overtake its object. Any
// other error is worth another try.
func (s *Source) Fetch(ctx context.Context, n billing.Notice) (billing.Change, error) {
	var change billing.Change
	var err error
	// Thin events of these objects have the same names after a prefix.
	n.Type = strings.TrimPrefix(n.Type, "v1.")
	switch {
	case n.Type == "checkout.session.completed", n.Type == "checkout.session.async_payment_succeeded":
		change, err = s.fromSession(ctx, n.ObjectID)
	case strings.HasPrefix(n.Type, "customer.subscription."):
		change, err = s.fromSubscription(ctx, n.ObjectID)
	case n.Type == "charge.refunded":
		change, err = s.fromCharge(ctx, n.ObjectID)
	case invoiceNotices[n.Type]:
		change, err = s.fromInvoice(ctx, n.ObjectID)
	}
	if err != nil {
		return billing.Change{}, permanent(fmt.Errorf("stripebill: fetch %.40q of %s: %w", n.ObjectID, n.Type, err))
	}
	return change, nil
}

// permanent marks the errors that repeating doesn't mend.
func permanent(err error) error {
	switch {
	case errors.Is(err, ErrAmbiguous), errors.Is(err, tenant.ErrInvalidID):
		return &billing.PermanentError{Err: err}
	case errors.Is(err, ErrNotFound):
		return &billing.PermanentError{Err: err, Tries: 5}
	}
	return err
}

// invoiceNotices are the invoice events after which a subscription may stand
// differently. invoice.upcoming is about an invoice that has no id yet.
var invoiceNotices = map[string]bool{
	"invoice.created":                 true,
	"invoice.finalized":               true,
	"invoice.paid":                    true,
	"invoice.payment_succeeded":       true,
	"invoice.payment_failed":          true,
	"invoice.payment_action_required": true,
	"invoice.marked_uncollectible":    true,
	"invoice.voided":                  true,
}

// fromSession reads a checkout session. One that is not paid yet asks for
// nothing: its async_payment_succeeded follows.
func (s *Source) fromSession(ctx context.Context, id string) (billing.Change, error) {
	session, err := readSession(ctx, s.client, id)
	if err != nil {
		return billing.Change{}, err
	}
	return s.session(ctx, session)
}

func (s *Source) session(ctx context.Context, session checkoutSession) (billing.Change, error) {
	if session.Status != "complete" || session.PaymentStatus == "unpaid" {
		return billing.Change{}, nil
	}
	switch session.Mode {
	case "payment":
		return s.fromPurchase(ctx, session)
	case "subscription":
	default:
		return billing.Change{}, nil
	}
	change, err := changeOf(session)
	if err != nil || change.Tenant.IsZero() {
		return billing.Change{}, err
	}
	change.Checkout = session.ID
	if session.Subscription == "" {
		return change, nil
	}
	sub, err := readSubscription(ctx, s.client, string(session.Subscription))
	if err != nil {
		return billing.Change{}, err
	}
	change.Subscription, err = s.current(ctx, change.Tenant, sub)
	return change, err
}

// changeOf says who a session is of.
func changeOf(session checkoutSession) (billing.Change, error) {
	t, err := tenantOf(session.Metadata)
	if err != nil || t.IsZero() {
		return billing.Change{}, err
	}
	if session.ClientReferenceID != "" && session.ClientReferenceID != t.String() {
		return billing.Change{}, fmt.Errorf("%w: client_reference_id and metadata name different tenants", ErrAmbiguous)
	}
	return billing.Change{Tenant: t, Customer: string(session.Customer), Email: session.email()}, nil
}

func (s *Source) fromInvoice(ctx context.Context, id string) (billing.Change, error) {
	inv, err := readInvoice(ctx, s.client, id)
	if err != nil || inv.subscription() == "" {
		return billing.Change{}, err
	}
	change, err := s.fromSubscription(ctx, inv.subscription())
	change.FlushUsage = change.Subscription != nil && inv.Status == "draft" && inv.BillingReason == "subscription_cycle"
	return change, err
}

func (s *Source) fromSubscription(ctx context.Context, id string) (billing.Change, error) {
	sub, err := readSubscription(ctx, s.client, id)
	if err != nil {
		return billing.Change{}, err
	}
	change := billing.Change{Customer: string(sub.Customer)}
	if change.Tenant, err = tenantOf(sub.Metadata); err != nil {
		return billing.Change{}, err
	}
	if change.Tenant.IsZero() {
		if !s.ours(sub) {
			return billing.Change{}, nil // something else that this account sells
		}
		who, err := readCustomer(ctx, s.client, string(sub.Customer))
		if err != nil {
			return billing.Change{}, err
		}
		if change.Tenant, err = tenantOf(who.Metadata); err != nil {
			return billing.Change{}, err
		}
		change.Email = who.Email
	}
	change.Subscription, err = s.current(ctx, change.Tenant, sub)
	return change, err
}

// current chooses the subscription that stands for the tenant: of all that its
// customer has, the one that grants most, then the newest. So a late message
// about a subscription that was replaced doesn't end the one that replaced it.
func (s *Source) current(ctx context.Context, t tenant.ID, known subscription) (*billing.Subscription, error) {
	query := url.Values{"customer": {string(known.Customer)}, "status": {"all"}, "limit": {"100"}}
	page, err := readList[subscription](ctx, s.client, "/v1/subscriptions", query)
	if err != nil {
		return nil, err
	}
	best := known
	for _, other := range page.Data {
		named, err := tenantOf(other.Metadata)
		switch {
		case other.ID == known.ID:
			if best.ID == known.ID {
				best = other // read later than known
			}
		case other.Customer != known.Customer, err != nil, !named.IsZero() && named != t, !s.ours(other):
			// Another tenant's, or none of this product.
		case before(best, other):
			best = other
		}
	}
	return s.describe(ctx, t, best)
}

// ours reports whether sub is to a plan of this product.
func (s *Source) ours(sub subscription) bool {
	return slices.ContainsFunc(sub.Items.Data, func(item subscriptionItem) bool {
		_, ok := s.planOf(item.Price)
		return ok
	})
}

// before reports whether b stands for the tenant rather than a.
func before(a, b subscription) bool {
	if ra, rb := rank(a.Status), rank(b.Status); ra != rb {
		return rb > ra
	}
	if a.Created != b.Created {
		return b.Created > a.Created
	}
	return b.ID > a.ID // any order, as long as it is always the same
}

func rank(status string) int {
	switch billing.SubscriptionStatus(status) {
	case billing.Active, billing.Trialing:
		return 6
	case billing.PastDue:
		return 5
	case billing.Unpaid, billing.Paused:
		return 4
	case billing.Incomplete:
		return 3
	case billing.Canceled:
		return 2
	case billing.IncompleteExpired:
		return 1
	default:
		return 0
	}
}

// tenantOf reads the tenant from metadata: zero when it names none.
func tenantOf(m metadata) (tenant.ID, error) {
	text, ok := m[metaTenant]
	if !ok || text == "" {
		return tenant.ID{}, nil
	}
	return tenant.ParseID(text)
}
