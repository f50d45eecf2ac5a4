package pgledger_test

import (
	"context"
	"errors"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
)

// The ledger between the usage that comes in, the provider that bills it, and
// the provider's webhooks.
func Example() {
	var (
		ctx        context.Context
		control    *pgxpool.Pool // runs as the control role
		reporter   billing.Reporter
		source     billing.Source
		subscriber billing.Subscriber
	)
	ledger, err := pgledger.New(control, nil)
	if err != nil {
		log.Fatal(err)
	}
	worker, err := billing.NewWorker(ledger, reporter, nil)
	if err != nil {
		log.Fatal(err)
	}
	inbox, err := billing.NewInboxWorker(ledger, source, subscriber, &billing.InboxOptions{Flush: worker.Flush})
	if err != nil {
		log.Fatal(err)
	}
	go inbox.Run(ctx)
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// What workers leave to people: a batch whose customer was deleted at the provider,
// and is there again.
func ExampleLedger_Operate() {
	var (
		ctx    context.Context
		ledger *pgledger.Ledger
		worker *billing.Worker // need not run
	)
	operator, err := billing.NewOperator(ledger, worker)
	if err != nil {
		log.Fatal(err)
	}
	outcome, err := operator.Do(ctx, billing.Order{
		Verb: billing.VerbRequeue, Batch: "01a1f0b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b",
		Actor: "ann@example.com", Reason: "the customer was restored, ticket 4711",
	})
	if refused, ok := errors.AsType[*billing.RefusedError](err); ok {
		log.Fatalf("not while it is %s: %s", refused.State, refused.Reason)
	}
	if err != nil {
		log.Fatal(err)
	}
	log.Println(outcome.State, outcome.Changed)
}
