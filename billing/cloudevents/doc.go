// Package cloudevents reports usage as CloudEvents over HTTP: to OpenMeter, or
// to whatever takes one event in a POST and counts an event that it has seen
// only once.
//
// A batch becomes one event (https://github.com/cloudevents/spec, JSON format):
//
//	POST /api/v1/events
//	Content-Type: application/cloudevents+json
//
//	{"specversion": "1.0", "id": "<batch>", "source": "mcpsaas",
//	 "type": "<Target.Meter>", "subject": "<Target.Customer>", "time": "<slot>",
//	 "data": {"units": 17, "tenant": "...", "period_start": "...", "period_end": "..."}}
//
// The receiver sums data.units by subject. An event that is repeated has the same
// source and id, which OpenMeter counts once for 32 days; after that the worker
// reads the meter's total back, if [Options].Meters says where.
//
// A request has one event. OpenMeter takes many in one, too
// (application/cloudevents-batch+json), but answers for all of them: it goes
// through them until one fails, so that a refusal proves nothing of any.
//
// A target is of provider [Provider] and mode [billing.ModeMeter], with the
// type of its events in Meter and the meter's slug in MeterID. [billing.Route]
// makes targets out of those of Stripe's subscriptions:
//
//	source = billing.Route(source, func(t billing.Target) []billing.Target {
//		there := t
//		there.Provider, there.Mode, there.MeterID = cloudevents.Provider, billing.ModeMeter, "tool_calls"
//		return []billing.Target{t, there} // both, while moving
//	})
package cloudevents
