// Package pgledger keeps usage events and the state of billing in PostgreSQL.
// It is the only owner of its tables, all in schema mcpsaas:
//
//	usage_events           one row for each tool call, stored once by its id
//	usage_hourly           the same by tenant, hour, tool and outcome
//	usage_batches          sealed usage on its way to the provider
//	usage_batch_log        every step of every batch; append only
//	billing_accounts       whose a provider's customer is
//	billing_subscriptions  what the provider last said
//	billing_targets        where usage goes
//	billing_periods        which usage goes there: what occurred from when to when
//	billing_grants         units that are used before any is billed
//	billing_grant_entries  every movement of those; append only
//	billing_caps           what a tenant may spend
//	billing_notices        the inbox of webhooks
//	billing_signals        when the provider last answered, and last refused us
//
// A [Ledger] is the [usage.Store] that a sink drains into, the [billing.Ledger]
// of a [billing.Worker], and the [billing.NoticeStore] of a
// [billing.InboxWorker]:
//
//	ledger, err := pgledger.New(controlPool, nil)
//	worker, err := billing.NewWorker(ledger, reporter, nil)
//	inbox, err := billing.NewInboxWorker(ledger, source, provisioner, &billing.InboxOptions{Flush: worker.Flush})
//
// # Due usage
//
// An event is due when it has units, is in no batch, and occurred in a billing
// period that is known, or after the last one of a running subscription, whose
// renewal is then yet to be told. Only due events count as unreported; those of
// a tenant that pays nothing don't. Append decides it, and a change of periods
// decides it anew for what it touches, in one transaction with the change.
//
// # Late usage
//
// Usage belongs to the billing period that it occurred in. Where the provider
// no longer takes that period's usage when it is to be sealed, it is billed with
// the present period: bill_at says when, mark is 'late', late_for is when its own
// period began. What is older than the provider takes at all (35 days), or has
// no present period because the subscription is over, is sealed into a batch
// that is parked for a person. An event from a clock that runs more than five
// minutes ahead is billed as of now and has the mark 'ahead'. occurred_at stays
// what the event said.
//
// # Partitions
//
// Ids of events are UUIDv7, so usage_events is partitioned by ranges of ids:
// months, while the key stays the id alone and an event is unique across
// partitions. [Ledger.Run] makes the partitions of the coming months and, with
// [Options.Retention], drops old ones, but none with unbilled usage. Ids from no
// such month are in usage_events_rest. Should nobody run it, new events are
// there too, and nothing else changes.
package pgledger
