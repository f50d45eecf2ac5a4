package redisquota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// errAway is returned for an event that was not sent.
var errAway = errors.New("redisquota: record event: not sent, Redis is away")

const (
	probeEvery  = time.Second     // how often Redis is asked whether it is back
	sendTimeout = 2 * time.Second // bounds what no call waits for
)

// Ready tells why Record would not take an event, if that is known: Redis is away,
// does not keep its data, or has no room left. It asks Redis, for at most Budget,
// only if nobody has asked before. A Meter asks it before it lets a call run that
// is to be charged.
func (s *Stream) Ready(ctx context.Context) error {
	if err := s.meet(ctx, time.Now().Add(s.o.Budget)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shut(ctx)
}

// shut returns why no event is taken, nil if events are. If there is a reason, it
// has Redis asked whether that still holds. s.mu is held.
func (s *Stream) shut(ctx context.Context) error {
	var err error
	switch {
	case s.away:
		err = errAway
	case s.durable != durable:
		err = ErrNotDurable
	case s.length() >= s.o.MaxEvents:
		err = ErrStreamFull
	default:
		return nil
	}
	s.look(ctx)
	return err
}

// look asks Redis in the background, once a second at most. s.mu is held.
func (s *Stream) look(ctx context.Context) {
	if s.looking || s.o.Now().Before(s.lookAt) {
		return
	}
	s.looking = true
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
		defer cancel()
		_ = s.probe(ctx) // it has noted what it found
		s.mu.Lock()
		defer s.mu.Unlock()
		s.looking = false
	}()
}

// meet asks Redis for the first time: before, nothing is known of it.
func (s *Stream) meet(ctx context.Context, deadline time.Time) error {
	met := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.away || s.durable != unasked
	}
	if met() {
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return s.ask(ctx, met)
}

// probe asks whether Redis is there, keeps its data and takes writes, sends again
// what is in doubt, and opens or shuts the stream by what it finds.
func (s *Stream) probe(ctx context.Context) error {
	return s.ask(ctx, func() bool { return false })
}

// ask is probe, unless somebody else has done enough while it waited for its turn.
func (s *Stream) ask(ctx context.Context, enough func() bool) error {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return s.missed(ctx, ctx.Err())
	}
	if enough() {
		return nil
	}
	s.mu.Lock()
	entries := slices.Clip(s.doubt) // flights add theirs behind
	s.mu.Unlock()
	err := s.askDurable(ctx)
	if err == nil {
		err = errors.Join(s.post(ctx, entries, true)...)
	}
	if err != nil {
		return s.missed(ctx, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubt = s.doubt[len(entries):]
	s.away = len(s.doubt) > 0
	return nil
}

// missed notes that Redis did not answer a probe.
func (s *Stream) missed(ctx context.Context, err error) error {
	if !errors.Is(ctx.Err(), context.Canceled) { // who asked and left says nothing about Redis
		s.mu.Lock()
		defer s.mu.Unlock()
		s.away, s.lookAt = true, s.o.Now().Add(probeEvery)
	}
	return fmt.Errorf("redisquota: probe Redis: %w", err)
}

// settleDoubt sends again, at once, what is in doubt.
func (s *Stream) settleDoubt(ctx context.Context) error {
	if s.inDoubt() == 0 {
		return nil
	}
	return s.probe(ctx)
}

func (s *Stream) inDoubt() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.doubt)
}

// unsent reports an error after which Redis surely has not got an entry, and won't.
func unsent(err error) bool {
	var sure notAskedError
	return errors.As(notAsked(err), &sure) || errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout)
}
