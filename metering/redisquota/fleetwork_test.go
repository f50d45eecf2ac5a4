package redisquota_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// leaseTTL is short, so that many blocks end.
const leaseTTL = 20 * time.Millisecond

func clientOf(job fleetJob) (redis.UniversalClient, error) {
	if len(job.Cluster) > 0 {
		return clusterClient(job.Cluster), nil
	}
	return redisquota.NewClient(job.URL)
}

func clusterClient(addrs []string) *redis.ClusterClient {
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, ContextTimeoutEnabled: true, MaxRetries: -1})
}

// work is a process of the fleet: it calls by several goroutines and prints
// what came of it.
func work(encoded string) error {
	var job fleetJob
	if err := json.Unmarshal([]byte(encoded), &job); err != nil {
		return err
	}
	client, err := clientOf(job)
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

		began           = time.Now()
		refused         atomic.Int64 // when the last call was refused, since began
		refusals, spent atomic.Bool  // whether calls have been refused, and made from a block
	)
	enough := func(made int) bool {
		now := time.Now()
		if now.Before(job.Until) || made < job.Calls/4 {
			return false
		}
		return refusals.Load() && (spent.Load() || !job.Leased) || now.After(job.Until.Add(time.Minute))
	}
	for i := range 4 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(job.Seed), uint64(i)))
			pause := time.NewTicker(time.Millisecond)
			defer pause.Stop()
			for n := 0; !enough(n); n++ {
				r := metering.Request{
					Tenant: id, Units: 1 + random.Int64N(3), ID: "fleet",
					Bounds: []metering.Bound{
						{Limit: metering.Per(job.Window, job.Limit)},
						{Limit: metering.Per(job.Window, 2*job.Limit), Attempts: true},
					},
				}
				if time.Since(began)-time.Duration(refused.Load()) > job.Window/3 {
					r.Units = job.Limit / 16 // a busy machine would never get to the limit by small steps
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
				if d.Source == metering.SourceLease {
					spent.Store(true)
				}
				if !d.Allowed {
					refusals.Store(true)
					refused.Store(int64(time.Since(began)))
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
