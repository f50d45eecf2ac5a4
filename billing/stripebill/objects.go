package stripebill

import (
	"encoding/json"
	"slices"
	"time"
)

// The structs of this file are what this package reads of Stripe's objects.
// They take the layouts of every API version from 2023-10-16 on: what moved is
// read in both places.

// list is one page, newest first.
type list[T any] struct {
	Object  string `json:"object"` // "list"
	Data    []T    `json:"data"`
	HasMore bool   `json:"has_more"`
}

// ref is the id of another object, which Stripe sends as a string or, when it
// was expanded, as the object.
type ref string

func (r *ref) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var o struct {
			ID string `json:"id"`
		}
		err := json.Unmarshal(data, &o)
		*r = ref(o.ID)
		return err
	}
	var s string
	err := json.Unmarshal(data, &s) // null leaves it empty
	*r = ref(s)
	return err
}

// unix is a time in seconds; null and 0 are the zero time.
type unix int64

func (u unix) time() time.Time {
	if u == 0 {
		return time.Time{}
	}
	return time.Unix(int64(u), 0).UTC()
}

type metadata map[string]string

type price struct {
	ID                string      `json:"id"`
	Active            bool        `json:"active"`
	LookupKey         string      `json:"lookup_key"`
	Metadata          metadata    `json:"metadata"`
	Currency          string      `json:"currency"`
	Product           ref         `json:"product"`
	UnitAmount        json.Number `json:"unit_amount"`
	UnitAmountDecimal string      `json:"unit_amount_decimal"`
	TransformQuantity *any        `json:"transform_quantity"` // nil: null
	Recurring         struct {
		Interval      string `json:"interval"`
		IntervalCount int64  `json:"interval_count"`
		UsageType     string `json:"usage_type"`
		Meter         string `json:"meter"`
	} `json:"recurring"`
}

func (p price) metered() bool { return p.Recurring.UsageType == "metered" }

type product struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Active   bool     `json:"active"`
	Metadata metadata `json:"metadata"`
}

type meter struct {
	ID                 string `json:"id"`
	EventName          string `json:"event_name"`
	Status             string `json:"status"`
	DefaultAggregation struct {
		Formula string `json:"formula"`
	} `json:"default_aggregation"`
}

type customer struct {
	ID       string   `json:"id"`
	Email    string   `json:"email"`
	Deleted  bool     `json:"deleted"`
	Metadata metadata `json:"metadata"`
}

type subscriptionItem struct {
	ID                 string `json:"id"`
	Subscription       string `json:"subscription"`
	Price              price  `json:"price"`
	BillingThresholds  *any   `json:"billing_thresholds"`   // nil: null
	CurrentPeriodStart unix   `json:"current_period_start"` // from 2025-03-31 on
	CurrentPeriodEnd   unix   `json:"current_period_end"`
}

type subscription struct {
	ID                 string   `json:"id"`
	Customer           ref      `json:"customer"`
	Status             string   `json:"status"`
	Metadata           metadata `json:"metadata"`
	Created            unix     `json:"created"`
	CurrentPeriodStart unix     `json:"current_period_start"` // before 2025-03-31
	CurrentPeriodEnd   unix     `json:"current_period_end"`
	CancelAtPeriodEnd  bool     `json:"cancel_at_period_end"`
	EndedAt            unix     `json:"ended_at"`
	PauseCollection    *struct {
		Behavior string `json:"behavior"`
	} `json:"pause_collection"`
	BillingThresholds *any                   `json:"billing_thresholds"` // nil: null
	Items             list[subscriptionItem] `json:"items"`
}

// additive reports whether usage records can't be overwritten: if the
// subscription has billing thresholds, of its own or of an item, increment is
// the only action that they allow
// (https://docs.stripe.com/api/usage_records/create?api-version=2025-01-27.acacia).
func (s subscription) additive() bool {
	return s.BillingThresholds != nil ||
		slices.ContainsFunc(s.Items.Data, func(item subscriptionItem) bool { return item.BillingThresholds != nil })
}

type invoice struct {
	ID            string `json:"id"`
	Customer      ref    `json:"customer"`
	Status        string `json:"status"`
	BillingReason string `json:"billing_reason"`
	Created       unix   `json:"created"`
	DueDate       unix   `json:"due_date"`
	Subscription  ref    `json:"subscription"` // before 2025-03-31
	Parent        struct {
		SubscriptionDetails struct {
			Subscription ref `json:"subscription"`
		} `json:"subscription_details"`
	} `json:"parent"`
	StatusTransitions struct {
		FinalizedAt unix `json:"finalized_at"`
	} `json:"status_transitions"`
}

func (i invoice) subscription() string {
	if i.Subscription != "" {
		return string(i.Subscription)
	}
	return string(i.Parent.SubscriptionDetails.Subscription)
}

type checkoutSession struct {
	ID                string   `json:"id"`
	URL               string   `json:"url"`
	Mode              string   `json:"mode"`
	Status            string   `json:"status"`
	PaymentStatus     string   `json:"payment_status"`
	Customer          ref      `json:"customer"`
	Subscription      ref      `json:"subscription"`
	PaymentIntent     ref      `json:"payment_intent"`
	ClientReferenceID string   `json:"client_reference_id"`
	CustomerEmail     string   `json:"customer_email"`
	Metadata          metadata `json:"metadata"`
	Created           unix     `json:"created"`
	ExpiresAt         unix     `json:"expires_at"`
	CustomerDetails   struct {
		Email string `json:"email"`
	} `json:"customer_details"`
}

func (s checkoutSession) email() string {
	if s.CustomerDetails.Email != "" {
		return s.CustomerDetails.Email
	}
	return s.CustomerEmail
}

type charge struct {
	ID             string `json:"id"`
	Status         string `json:"status"`
	Amount         int64  `json:"amount"`
	AmountRefunded int64  `json:"amount_refunded"`
	PaymentIntent  ref    `json:"payment_intent"`
}

type invoiceItem struct {
	ID       string   `json:"id"`
	Object   string   `json:"object"` // "invoiceitem"
	Deleted  bool     `json:"deleted"`
	Metadata metadata `json:"metadata"`
}

type meterEvent struct {
	Object     string `json:"object"`
	Identifier string `json:"identifier"`
}

type meterEventAdjustment struct {
	Object string `json:"object"`
	Cancel struct {
		Identifier string `json:"identifier"`
	} `json:"cancel"`
}

type meterEventSummary struct {
	ID              string      `json:"id"`
	AggregatedValue json.Number `json:"aggregated_value"`
}

type usageRecord struct {
	Object           string      `json:"object"`
	Quantity         json.Number `json:"quantity"`
	SubscriptionItem string      `json:"subscription_item"`
	Timestamp        int64       `json:"timestamp"`
}

type usageRecordSummary struct {
	Invoice string `json:"invoice"`
	Period  struct {
		Start unix `json:"start"`
		End   unix `json:"end"`
	} `json:"period"`
	TotalUsage json.Number `json:"total_usage"`
}
