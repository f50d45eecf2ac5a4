// Package billing turns usage into what a provider bills, exactly once, and a
// provider's word into what a tenant may do.
//
// # Usage, outwards
//
// A [Worker] carries usage from a [Ledger] (PostgreSQL: package pgledger) to a
// [Reporter] (Stripe: package stripebill):
//
//	worker, err := billing.NewWorker(ledger, reporter, nil)
//	...
//	err = worker.Run(ctx) // beside the server, in any number of processes
//
// Usage is first sealed into batches, each with a quantity, a timestamp of its
// own (the slot) and a billing period that never change again; then each batch
// is claimed, sent and confirmed:
//
//	from                to           when
//	(events)            sealed       attached to a batch, in one transaction
//	sealed, unknown     sending      claimed: lease and attempt committed before the call
//	sending             confirmed    applied now, or recognised as applied before
//	sending             sealed       surely not applied, and never sent before: again later
//	sending             unknown      anything else; a lease that runs out counts as this
//	sending             rejected     refused for good, and never sent before
//	unknown             verifying    repetition is no longer safe: the provider's totals are read
//	verifying           confirmed    it is in them
//	verifying           sealed       it is not in them
//	verifying           rejected     it is not in them, and a repetition was refused for good
//	verifying           parked       the totals can't tell, or the provider has none
//	sealed              moved        its period is closed at the provider: [LatePolicy]; or parked, written off
//
// What is left to people, who have an [Operator] for it:
//
//	parked, rejected            sealed, unknown   requeued: unknown if it may have been applied
//	sealed, parked, rejected    moved             another batch stands for it, in the present period;
//	                                              refused if it may have been applied
//	sealed, parked, rejected    written_off       given up
//	confirmed                   voiding           to be taken back, within the provider's time; committed before the call
//	voiding                     voided            the provider took it back, or its totals show that it has
//	voiding                     confirmed         it did not
//	voiding                     written_off       nothing can tell any more, and an operator gave it up
//
// The units of an event are in each target, or in the invoice items made in its
// stead ([LateInvoiceItem]), in one batch that is none of moved, or in none yet:
// so each is billed, open, parked, rejected, written off or voided, and never two
// of them.
//
// # Why exactly once
//
// No event is in two batches: sealing attaches events that have no batch, under
// the tenant's lock, and the quantity is the sum of the rows that were really
// attached. No event is in none: there is no time filter, so an event whose
// transaction was still open is simply found by the next pass.
//
// No batch is applied twice: that it is about to be sent is committed before it
// is. From then on it is either repeated under an identity that the provider
// recognises (an identifier, a slot whose value is overwritten, or, where there
// is nothing else, the idempotency key of the first attempt), or, when
// that can't be relied on any more, looked up. Two workers don't answer for one
// batch: a verdict counts only if its attempt is the batch's latest.
//
// Looking up means to read the provider's total of the batch's window
// ([Caps].VerifyWindow: a minute of a meter, a whole period of usage records)
// and to take away what else of it is confirmed: the batch remains, or nothing.
// That proves something only as long as nothing else of the window is in doubt.
// So of one target what is in doubt is settled before anything else is sent:
// while the provider recognises repetitions, by repeating, which needs no
// totals; after that, by the total, once it must show the window's last send.
// Where an operator's doubt remains in a window (a parked batch), only a total
// without any surplus proves something: that neither was applied.
//
// Slots of a window don't reach over the bounds of a billing period, as far as
// the period is longer: a provider that adds up by the minute may count the
// minute in which a period ends to either.
//
// No batch is lost: every state but confirmed and the operator's is picked up
// again, by whoever is alive. What can't be proved either way is parked and
// turns [Worker.Check] red; it is never guessed.
//
// # Side by side
//
// One target has one call under way at most; targets are worked on side by side,
// and none delays another. Each provider and mode has its own places
// (WorkerOptions.Concurrency) and its own rate (Caps.MaxPerSecond). A target whose
// call takes long gives up its place, one with much to send has its turn and
// goes to the end, one that is refused or fails is left until it is due again, and
// no pass waits for the calls of the one before. Those whose billing period ends
// soon come first.
//
// A claim that was not used within its lease is not used at all: a process that
// was stopped for a day must not send what another has settled since.
//
// # Stopping
//
// Told to stop, both workers end within seconds, whatever the provider and the
// database do. What they leave is as if they had crashed, which it must bear,
// but without leases to wait for: a call under way has 3 seconds to be answered
// and is unknown after that, a notice is put back.
//
// # The provider's word, inwards
//
// An [InboxWorker] applies webhooks. A webhook handler verifies a message and
// calls Accept, which returns once the [Notice] is committed. The worker then
// asks the [Source] for the truth (a notice is only a hint, may come twice and
// in any order), saves customer, subscription and targets, and hands the
// [Change] to a [Subscriber]. What fails is tried again for hours, unless its
// error is a [PermanentError]. [AccessPolicy] says what a subscription's status
// lets a tenant do.
//
// What is sent where follows from the subscriptions that were saved: usage
// belongs to the target and the billing period in force when it occurred. Usage
// of a tenant without a metered subscription is kept and owed by nobody; should
// one come later, usage counts from the start of its period.
package billing
