package pgledger_test

import (
	"context"
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
