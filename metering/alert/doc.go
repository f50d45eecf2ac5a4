// Package alert sends signed webhooks to addresses that tenants name, for
// metering.AlertOptions.Tell or anything else that they want to hear of.
//
//	sender, err := alert.NewSender(endpoints, nil)
//	Alerts: &metering.AlertOptions{Tell: func(ctx context.Context, a metering.Alert) error {
//		return sender.Send(ctx, a.Tenant, alert.Message{ID: a.ID, Type: "usage.threshold_reached", Time: a.Time, Data: a})
//	}}
//
// # What is sent
//
// A POST as Standard Webhooks 1.0.0 (standardwebhooks.com) has it, so that
// receivers verify it by a library of their language: a JSON object {"type",
// "timestamp", "data"} with the headers webhook-id, webhook-timestamp and
// webhook-signature. The signature is an HMAC-SHA256 by the endpoint's secret,
// one for each secret while they are rotated. The id of a message stays the same
// when it is sent again: a receiver that has seen it answers 2xx and does
// nothing.
//
// # What is not reached
//
// The address is a tenant's word, and the request leaves from inside your
// network. So only https to port 443 is sent to, unless the options say
// otherwise; and the connection is refused when the address that it is about to
// be opened to, after the name was resolved, is not one of the public internet.
// A name that resolves to one address when it is looked at and to another when
// it is used gains nothing, since nothing is looked at before. Proxies of the
// environment are not used, redirects not followed, and what the receiver answers
// is neither kept nor passed on.
package alert
