package cloudevents_test

import (
	"fmt"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/cloudevents"
)

// Usage goes to Stripe's usage records and to OpenMeter, while moving from the one to
// the other.
func Example() {
	var stripe billing.Reporter // stripebill.NewReporter(client, nil)
	meter, err := cloudevents.New("https://openmeter.cloud/api/v1/events", &cloudevents.Options{
		Token:  "om_...",
		Meters: "https://openmeter.cloud/api/v1/meters",
	})
	if err != nil {
		panic(err)
	}
	reporter := billing.Reporters{"stripe": stripe, cloudevents.Provider: meter}

	var source billing.Source // stripebill.NewSource(client, nil)
	source = billing.Route(source, func(t billing.Target) []billing.Target {
		there := t
		there.Provider, there.Mode = cloudevents.Provider, billing.ModeMeter
		there.Meter, there.MeterID = "tool_call", "tool_calls"
		return []billing.Target{t, there}
	})
	fmt.Println(len(reporter), source != nil)
	// Output: 2 true
}
