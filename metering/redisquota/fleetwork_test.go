package redisquota_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// leaseTTL is short, so that many blocks end.
const leaseTTL = 20 * time.Millisecond

// work is a process of the fleet: it calls by several goroutines and prints
// what came of it.
func work(encoded string) error {
	var job fleetJob
	if err := json.Unmarshal([]byte(encoded), &job); err != nil {
		return err
	}
	client, err := redisquota.NewClient(job.URL)
	if err != nil {
		return err
	}
	defer client.Close()
	asked, err := redisquota.New(client, nil)
	if err != nil {
		return err
	}
	id, err := tenant.ParseID(job.Tenant)
	if err != nil {
		return err
	}
	var limiter metering.Limiter = asked
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	if job.Leased {
		leased, err := metering.NewLeased(asked, &metering.LeasedOptions{TTL: leaseTTL})
		if err != nil {
			cancel()
			return err
		}
		limiter = leased
		go func() { ended <- leased.Run(ctx) }()
	} else {
		ended <- nil
	}
	var (
		mu    sync.Mutex
		calls []fleetCall
		fail  error
		group sync.WaitGroup
	)
	for i := range 4 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(job.Seed), uint64(i)))
			pause := time.NewTicker(time.Millisecond)
			defer pause.Stop()
			for n := 0; time.Now().Before(job.Until) || n < job.Calls/4; n++ {
				r := metering.Request{
					Tenant: id, Units: 1 + random.Int64N(3), ID: "fleet",
					Bounds: []metering.Bound{
						{Limit: metering.Per(job.Window, job.Limit)},
						{Limit: metering.Per(job.Window, 2*job.Limit), Attempts: true},
					},
				}
				d, err := limiter.Take(ctx, r)
				c := fleetCall{At: d.Time.UnixMilli(), Asked: r.Units, Units: d.Units, Source: d.Source, Refused: !d.Allowed}
				if err == nil && d.Allowed && random.IntN(20) == 0 {
					c.Units, err = limiter.Settle(ctx, d, 0)
				}
				mu.Lock()
				if calls = append(calls, c); job.Tell && d.Allowed {
					err = errors.Join(err, json.NewEncoder(os.Stdout).Encode(c))
				}
				if err != nil {
					fail = err
				}
				mu.Unlock()
				if err != nil {
					return
				}
				if !d.Allowed {
					<-pause.C // an agent that comes back too soon, but not in a tight loop
				}
			}
		})
	}
	group.Wait()
	cancel()
	<-ended
	if fail != nil {
		return fail
	}
	out := bufio.NewWriter(os.Stdout)
	if err := json.NewEncoder(out).Encode(calls); err != nil {
		return err
	}
	return out.Flush()
}
