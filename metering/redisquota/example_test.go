package redisquota_test

import (
	"context"
	"fmt"
	"log"

	"github.com/alicebob/miniredis/v2"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func Example() {
	server, err := miniredis.Run() // in production: a Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := redisquota.NewClient("redis://" + server.Addr())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	limiter, err := redisquota.New(client, nil)
	if err != nil {
		log.Fatal(err)
	}
	// A metering.Meter asks the limiter; this is what it asks.
	r := metering.Request{
		Tenant: tenant.NewID(), Units: 20, ID: tenant.NewID().String(),
		Bounds: []metering.Bound{{Limit: metering.PerHour(100)}, {Limit: metering.PerDay(50)}},
	}
	for range 3 {
		d, err := limiter.Take(context.Background(), r)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.Limits[0].Remaining, d.Limits[1].Remaining)
	}
	// Output:
	// true 80 30
	// true 60 10
	// false 60 10
}

func ExampleStream() {
	client, err := redisquota.NewClient("redis://localhost:6379/0") // with appendonly yes
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	stream, err := redisquota.NewStream(client, nil)
	if err != nil {
		log.Fatal(err)
	}
	var store usage.Store // a pgledger.Ledger
	// The sink of a metering.Meter; beside it, until the process ends:
	go stream.Run(context.Background(), store)
}
