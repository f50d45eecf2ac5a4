package redisquota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering/usage"
)

const lastBackoff = 10 * time.Second

// Run carries events into store until ctx ends, and returns nil. Any number of
// processes may run it; what one read and did not store, because it died, is
// taken over by another after ClaimAfter. An event is given to store again when
// that is unsure: store must be idempotent by Event.ID. Redis forgets an event
// only after store has committed it. While store or Redis fail, events wait and
// are tried again, at most 10 seconds apart.
func (s *Stream) Run(ctx context.Context, store usage.Store) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("redisquota: run stream: it is running already")
	}
	defer s.running.Store(false)
	backoff := time.Duration(0)
	var claimed time.Time
	for ctx.Err() == nil {
		claim := s.o.Now().Sub(claimed) >= s.o.ClaimAfter/2
		n, err := s.round(ctx, store, claim)
		wait := s.o.FlushInterval
		switch {
		case err != nil && ctx.Err() == nil:
			if backoff == 0 {
				s.o.Logger.Error("usage events not stored, they wait in Redis", slog.Any("err", err))
			}
			backoff = min(max(2*backoff, 100*time.Millisecond), lastBackoff)
			wait = backoff
		case err == nil:
			backoff = 0
			if claim {
				claimed = s.o.Now()
			}
			if n >= s.o.BatchEvents {
				continue // there is more
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	if err := s.settleDoubt(last); err != nil {
		s.o.Logger.Error("usage events may be lost with this process, Redis is away", slog.Int("events", s.inDoubt()), slog.Any("err", err))
	}
	return nil
}

// round stores one batch of each shard, and returns the size of the largest.
func (s *Stream) round(ctx context.Context, store usage.Store, claim bool) (most int, err error) {
	s.mu.Lock()
	_ = s.shut(ctx) // if events are not taken, it looks whether they may be, though nobody calls
	s.mu.Unlock()
	var errs []error
	for shard := range s.o.Shards {
		n, err := s.drain(ctx, store, shard, claim)
		most = max(most, n)
		errs = append(errs, err)
	}
	if claim {
		errs = append(errs, s.askDurable(ctx)) // a failover may have changed it
	}
	return most, errors.Join(errs...)
}

// drain stores a batch of a shard: what an earlier try has read and not stored,
// else what is new. It returns how many entries it read.
func (s *Stream) drain(ctx context.Context, store usage.Store, shard int, claim bool) (int, error) {
	key, from := s.key(shard), ">"
	if s.unstored[shard] {
		from = "0"
	} else if claim {
		if err := s.takeOver(ctx, store, shard); err != nil {
			return 0, err
		}
	}
	streams, err := s.client.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: group, Consumer: s.consumer, Streams: []string{key, from}, Count: int64(s.o.BatchEvents), Block: -1,
	}).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return 0, nil
	case isNoGroup(err):
		// From the very beginning: should Redis have lost the group alone, all
		// is stored again, once.
		err := s.client.XGroupCreateMkStream(ctx, key, group, "0").Err()
		if err != nil && !isBusyGroup(err) {
			return 0, fmt.Errorf("redisquota: make consumer group: %w", err)
		}
		s.unstored[shard] = false
		return s.o.BatchEvents, nil // look again at once
	case err != nil:
		s.unstored[shard] = true // the answer may have been lost
		return 0, fmt.Errorf("redisquota: read stream: %w", err)
	}
	entries := streams[0].Messages
	if len(entries) == 0 {
		s.unstored[shard] = false
		return s.o.BatchEvents, nil
	}
	s.unstored[shard] = true
	if err := s.store(ctx, store, shard, entries); err != nil {
		return 0, err
	}
	s.unstored[shard] = from == "0" // there may be more of it
	return len(entries), nil
}

func isNoGroup(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "NOGROUP") }

func isBusyGroup(err error) bool { return strings.HasPrefix(err.Error(), "BUSYGROUP") }

// takeOver stores what dead processes have read of a shard.
func (s *Stream) takeOver(ctx context.Context, store usage.Store, shard int) error {
	for from := "0-0"; ; {
		left, next, err := s.client.XAutoClaim(ctx, &redis.XAutoClaimArgs{
			Stream: s.key(shard), Group: group, Consumer: s.consumer, MinIdle: s.o.ClaimAfter, Start: from, Count: int64(s.o.BatchEvents),
		}).Result()
		if isNoGroup(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("redisquota: take over entries: %w", err)
		}
		if err := s.store(ctx, store, shard, left); err != nil {
			return err
		}
		if from = next; from == "0-0" {
			return nil
		}
	}
}

// store gives entries to the store, and has Redis forget them then.
func (s *Stream) store(ctx context.Context, store usage.Store, shard int, entries []redis.XMessage) error {
	if len(entries) == 0 {
		return nil
	}
	key := s.key(shard)
	events := make([]usage.Event, 0, len(entries))
	args := make([]any, 1, len(entries)+1)
	args[0] = group
	for _, m := range entries {
		args = append(args, m.ID)
		var e usage.Event
		payload, _ := m.Values[field].(string)
		if err := e.UnmarshalBinary([]byte(payload)); err != nil {
			// Not ours. It must not hold up what is behind it, nor be lost.
			s.o.Logger.Error("entry of the usage stream can't be read, a copy is kept", slog.String("stream", key), slog.String("entry", m.ID))
			if err := s.client.XAdd(ctx, &redis.XAddArgs{Stream: key + ":bad", Values: []any{field, payload, "id", m.ID}}).Err(); err != nil {
				return fmt.Errorf("redisquota: keep unreadable entry: %w", err)
			}
			continue
		}
		events = append(events, e)
	}
	if len(events) > 0 {
		if _, err := store.Append(ctx, events); err != nil {
			return err
		}
	}
	// Stored: forgetting must not be stopped half way by the end of Run.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	if err := s.done.Run(ctx, s.client, []string{key}, args...).Err(); err != nil {
		return fmt.Errorf("redisquota: acknowledge entries: %w", err)
	}
	s.waiting[shard].Add(-min(int64(len(entries)), s.waiting[shard].Load()))
	return nil
}

// Flush waits until every event recorded so far, by any process, is stored. Run
// must be active somewhere.
func (s *Stream) Flush(ctx context.Context) error {
	if err := s.settleDoubt(ctx); err != nil {
		return fmt.Errorf("redisquota: flush stream: %w", err)
	}
	for shard := range s.o.Shards {
		last, err := s.client.XRevRangeN(ctx, s.key(shard), "+", "-", 1).Result()
		for err == nil && len(last) > 0 {
			var left []redis.XMessage
			left, err = s.client.XRangeN(ctx, s.key(shard), "-", last[0].ID, 1).Result()
			if err != nil || len(left) == 0 {
				break
			}
			timer := time.NewTimer(10 * time.Millisecond)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				err = ctx.Err()
			}
		}
		if err != nil {
			return fmt.Errorf("redisquota: flush stream: %w", err)
		}
	}
	return nil
}
