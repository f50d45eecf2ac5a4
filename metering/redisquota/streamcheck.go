package redisquota

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// durability is what is known of Redis' append-only file.
type durability int

const (
	unasked durability = iota
	durable
	fleeting
)

func (s *Stream) length() (n int64) {
	for i := range s.waiting {
		n += s.waiting[i].Load()
	}
	return n
}

// askDurable asks every primary whether it has an append-only file.
func (s *Stream) askDurable(ctx context.Context) error {
	state := durable
	ask := func(ctx context.Context, c redis.Cmdable) error {
		config, err := c.ConfigGet(ctx, "appendonly").Result()
		switch {
		case err != nil && isRefusal(err), err == nil && config["appendonly"] == "":
			if !s.o.AssumeDurable {
				state = fleeting
			}
			return nil
		case err != nil:
			return fmt.Errorf("ask for appendonly: %w", err)
		case config["appendonly"] != "yes":
			state = fleeting
		}
		return nil
	}
	var err error
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		states := make(chan error, 1) // one primary at a time: state is shared
		states <- nil
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			<-states
			defer func() { states <- nil }()
			return ask(ctx, c)
		})
	} else {
		err = ask(ctx, s.client)
	}
	if err == nil {
		s.mu.Lock()
		s.durable = state
		s.mu.Unlock()
	}
	return err
}

// isRefusal reports that Redis doesn't tell its configuration.
func isRefusal(err error) bool {
	return strings.HasPrefix(err.Error(), "NOPERM") || strings.HasPrefix(err.Error(), "ERR unknown")
}

// Check reports, for a health check, that Redis does not answer, does not take
// writes or does not keep its data, that an event has waited for longer than AlarmAge, that events
// could not be read, or that no more are taken. That 80 % of MaxEvents wait is
// an error too, but alone it has a method HealthDegraded() bool.
func (s *Stream) Check(ctx context.Context) error {
	if err := s.probe(ctx); err != nil {
		if n := s.inDoubt(); n > 0 {
			err = fmt.Errorf("%w; %d events wait in this process to be sent again", err, n)
		}
		return err
	}
	var errs []error
	s.mu.Lock()
	state := s.durable
	s.mu.Unlock()
	if state != durable {
		errs = append(errs, ErrNotDurable)
	}
	var oldest time.Duration
	for shard := range s.o.Shards {
		key := s.key(shard)
		pipe := s.client.Pipeline()
		length, first, bad := pipe.XLen(ctx, key), pipe.XRangeN(ctx, key, "-", "+", 1), pipe.XLen(ctx, key+":bad")
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("redisquota: check stream: %w", err)
		}
		s.waiting[shard].Store(length.Val())
		for _, m := range first.Val() {
			oldest = max(oldest, s.o.Now().Sub(addedAt(m.ID)))
		}
		if bad.Val() > 0 {
			errs = append(errs, fmt.Errorf("%d entries can't be read, they are in %s:bad", bad.Val(), key))
		}
	}
	n := s.length()
	if oldest > s.o.AlarmAge {
		errs = append(errs, fmt.Errorf("%d events wait, the oldest for %v", n, oldest.Round(time.Second)))
	}
	degraded := false
	if n >= s.o.MaxEvents/5*4 {
		degraded = len(errs) == 0 && n < s.o.MaxEvents
		errs = append(errs, fmt.Errorf("%d of %d events wait", n, s.o.MaxEvents))
	}
	switch err := errors.Join(errs...); {
	case err == nil:
		return nil
	case degraded:
		return degradedError{fmt.Errorf("redisquota: check stream: %w", err)}
	default:
		return fmt.Errorf("redisquota: check stream: %w", err)
	}
}

// addedAt is when Redis got an entry, by its id.
func addedAt(id string) time.Time {
	ms, _, _ := strings.Cut(id, "-")
	n, _ := strconv.ParseInt(ms, 10, 64) // Redis made it
	return time.UnixMilli(n)
}

// degradedError is how package health, which this one does not import, knows
// that something works, but not as it should.
type degradedError struct{ error }

func (e degradedError) Unwrap() error        { return e.error }
func (e degradedError) HealthDegraded() bool { return true }
