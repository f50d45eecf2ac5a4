package redisquota

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// NewClient returns a client fit for a limiter, from a Redis URL as
// redis.ParseURL reads it. It differs from the defaults of go-redis in that a
// command ends with its context (by default it blocks for seconds while Redis
// hangs) and is never sent a second time (by default up to three times more,
// which charges a call up to four times). A command whose context has no end
// waits 10 seconds for its answer instead of three, unless the URL says
// otherwise: as long as a Meter waits for the answer to a call that has given up,
// to give back what it took. It keeps a few connections ready,
// opened in the background, so that a burst of calls does not wait for them.
//
// While Redis is away go-redis writes a line to standard error for each
// connection that it can't open; redis.SetLogger changes that for the process.
func NewClient(url string) (*redis.Client, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		// The error may quote the URL, and with it the password.
		return nil, errors.New("redisquota: parse Redis URL: want redis://[user:password@]host:port/db or unix://path")
	}
	o.ContextTimeoutEnabled = true
	o.MaxRetries = -1
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 10 * time.Second
	}
	o.PoolSize = max(o.PoolSize, 32)
	o.MinIdleConns = max(o.MinIdleConns, 8)
	o.DialerRetries = 1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClient(o), nil
}

// checkClient refuses settings that break the promises of the limiter.
func checkClient(client Client) error {
	var deadlines bool
	var retries int
	switch c := client.(type) {
	case *redis.Client:
		deadlines, retries = c.Options().ContextTimeoutEnabled, c.Options().MaxRetries
	case *redis.ClusterClient:
		deadlines, retries = c.Options().ContextTimeoutEnabled, c.Options().MaxRetries
	default:
		return nil
	}
	var errs []error
	if !deadlines {
		errs = append(errs, errors.New("client: ContextTimeoutEnabled is false, so that a call hangs for seconds when Redis does; set it, or use NewClient"))
	}
	if retries > 0 {
		errs = append(errs, fmt.Errorf("client: MaxRetries is %d, so that a lost reply charges a call again; set it to -1, or use NewClient", retries))
	}
	return errors.Join(errs...)
}

// Check reports whether Redis answers, runs the limiter's script and takes its
// writes, for a health check. It counts on a key that is no tenant's.
func (l *Limiter) Check(ctx context.Context) error {
	if err := l.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redisquota: ping: %w", err)
	}
	_, err := l.Take(ctx, metering.Request{Units: 1, Bounds: []metering.Bound{{Limit: metering.Per(time.Second, metering.MaxUnits)}}})
	return err
}

// Forget removes every key of a tenant: its counters and idempotency keys. It
// looks through all keys of the database, a few at a time, so it takes a while
// on a large one without holding up other calls. It is meant for a tenant whose
// calls are no longer admitted.
func (l *Limiter) Forget(ctx context.Context, id tenant.ID) error {
	forget := func(ctx context.Context, c Client) error {
		var cursor uint64
		for {
			keys, next, err := c.Scan(ctx, cursor, l.base(id)+"*", 1000).Result()
			if err != nil {
				return err
			}
			if len(keys) > 0 {
				if err := c.Unlink(ctx, keys...).Err(); err != nil {
					return err
				}
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	var err error
	if cluster, ok := l.client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return forget(ctx, c) })
	} else {
		err = forget(ctx, l.client)
	}
	if err != nil {
		return fmt.Errorf("redisquota: forget tenant: %w", err)
	}
	return nil
}
