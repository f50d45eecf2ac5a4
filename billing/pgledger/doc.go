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
// # Partitions
//
// Ids of events are UUIDv7, so usage_events is partitioned by ranges of ids:
// ranges of time, while the key stays the id alone and an event is unique
// across partitions. It starts with one partition, usage_events_rest. To begin a
// new one at an id M that lies ahead of all that exist, such as
// '019d4000-0000-7000-8000-000000000000':
//
//	begin;
//	alter table mcpsaas.usage_events detach partition mcpsaas.usage_events_rest;
//	alter table mcpsaas.usage_events_rest rename to usage_events_2026;
//	alter table mcpsaas.usage_events attach partition mcpsaas.usage_events_2026 for values from (minvalue) to (M);
//	create table mcpsaas.usage_events_rest partition of mcpsaas.usage_events default;
//	commit;
//
// (An id is 48 bits of Unix milliseconds, then the rest.) Old partitions may be
// detached and dropped once nothing in them is due.
package pgledger
