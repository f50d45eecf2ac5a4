package usage_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func ExampleSpool() {
	dir, err := os.MkdirTemp("", "spool")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	spool, err := usage.OpenSpool(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	if err := spool.Record(ctx, usage.Event{ // from here on it survives a kill -9
		ID: tenant.NewID().String(), Tenant: tenant.NewID(), Tool: "search", Units: 1, Outcome: usage.OK, Time: time.Now(),
	}); err != nil {
		log.Fatal(err)
	}
	store := usage.StoreFunc(func(_ context.Context, events []usage.Event) (int, error) { // in production: a database
		fmt.Println("stored:", len(events), events[0].Tool)
		stop()
		return len(events), nil
	})
	if err := spool.Run(ctx, store); err != nil { // in production: beside the server, in an errgroup
		log.Fatal(err)
	}
	if err := spool.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: stored: 1 search
}
