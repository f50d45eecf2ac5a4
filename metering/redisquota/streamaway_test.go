package redisquota_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// fault is what becomes of a question on its way to Redis; ask carries it there.
type fault func(ctx context.Context, ask func() error) error

var (
	whole   fault = func(_ context.Context, ask func() error) error { return ask() }
	refused fault = func(context.Context, func() error) error {
		return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	brokenBefore fault = func(context.Context, func() error) error { return io.EOF }
	brokenAfter  fault = func(_ context.Context, ask func() error) error {
		_ = ask()
		return io.EOF
	}
)

// hangs until release is closed, or nobody waits any more.
func hangs(release <-chan struct{}) fault {
	return func(ctx context.Context, _ func() error) error {
		select {
		case <-release:
			return io.EOF
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wire is how a client reaches Redis, or does not.
type wire struct {
	mu    sync.Mutex
	fault fault
	time  []time.Duration // that each question had left since the last fault
}

var _ redis.Hook = (*wire)(nil)

func (w *wire) set(f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault, w.time = f, nil
}

func (w *wire) asked() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *wire) carry(ctx context.Context, cmds []redis.Cmder, ask func() error) error {
	left := time.Duration(math.MaxInt64)
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	w.mu.Lock()
	w.time = append(w.time, left)
	f := w.fault
	w.mu.Unlock()
	var answer error
	err := f(ctx, func() error {
		answer = ask()
		return answer
	})
	if err != answer {
		for _, cmd := range cmds {
			cmd.SetErr(err)
		}
	}
	return err
}

func (w *wire) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w *wire) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return w.carry(ctx, []redis.Cmder{cmd}, func() error { return next(ctx, cmd) })
	}
}

func (w *wire) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return w.carry(ctx, cmds, func() error { return next(ctx, cmds) })
	}
}

// wiredStream is a stream behind a wire, with a clock by which it looks whether
// Redis is back.
func wiredStream(t *testing.T, url string, budget time.Duration) (*redisquota.Stream, *wire, *meteringtest.Clock) {
	t.Helper()
	clock := meteringtest.NewClock()
	s, client := newStream(t, url, &redisquota.StreamOptions{Budget: budget, Now: clock.Now})
	w := &wire{fault: whole}
	client.AddHook(w)
	return s, w, clock
}

// requireBack waits until the stream has found Redis again.
func requireBack(t *testing.T, s *redisquota.Stream, clock *meteringtest.Clock) {
	t.Helper()
	require.Eventually(t, func() bool {
		clock.Advance(time.Second)
		return s.Ready(t.Context()) == nil
	}, time.Minute, time.Millisecond)
}

// One event waits for a Redis that hangs, for no longer than its budget, and those
// after it not at all. It may be there and is taken; they are not.
//
// Mutations seen here: a flight without a deadline waits for its client's; without
// the breaker, each of the hundred asks.
func TestStreamHangs(t *testing.T) {
	t.Parallel()
	s, w, clock := wiredStream(t, devtest.DurableRedis(t).URL, 20*time.Millisecond)
	requireBack(t, s, clock) // the budget is short for a busy machine
	release := make(chan struct{})
	w.set(hangs(release))
	e := meteringtest.NewEvent(tenant.NewID())
	require.NoError(t, s.Record(t.Context(), e))
	for range 100 {
		require.ErrorContains(t, s.Record(t.Context(), meteringtest.NewEvent(tenant.NewID())), "Redis is away")
		require.ErrorContains(t, s.Ready(t.Context()), "Redis is away")
	}
	asked := w.asked()
	require.LessOrEqual(t, len(asked), 2, "the event, and whether Redis is back")
	require.LessOrEqual(t, asked[0], 20*time.Millisecond)
	require.ErrorContains(t, s.Check(expired(t)), "1 events wait in this process")

	w.set(whole)
	close(release)
	requireBack(t, s, clock)
	store := &meteringtest.Store{}
	drain(t, s, store)
	require.NoError(t, s.Flush(t.Context()))
	require.Equal(t, []string{e.ID}, idsOf(store.Events()))
}

func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	t.Cleanup(cancel)
	return ctx
}

// Events that wait for a flight before theirs don't wait for their own when that one
// fails: they have not been sent, and aren't.
//
// Mutation seen here: sent all the same, they wait once more.
func TestStreamSendsNothingMore(t *testing.T) {
	t.Parallel()
	s, w, _ := wiredStream(t, devtest.DurableRedis(t).URL, time.Minute)
	require.NoError(t, s.Ready(t.Context()))
	release, never := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(never) })
	w.set(hangs(release))
	errs := make(chan error)
	record := func() { errs <- s.Record(t.Context(), meteringtest.NewEvent(tenant.NewID())) }
	for flight := 1; flight <= 2; flight++ {
		go record()
		require.Eventually(t, func() bool { return len(w.asked()) == flight }, time.Minute, time.Millisecond)
	}
	const others = 50
	for range others {
		go record()
	}
	w.set(hangs(never))
	close(release)
	failed := 0
	for range others + 2 {
		if <-errs != nil {
			failed++
		}
	}
	require.Equal(t, others, failed)
	require.LessOrEqual(t, len(w.asked()), 1, "whether Redis is back")
}

// Nothing is known of Redis yet, and it hangs: the first asks for its budget, and the
// others have the answer.
func TestStreamBeginsWhileRedisHangs(t *testing.T) {
	t.Parallel()
	s, w, clock := wiredStream(t, devtest.DurableRedis(t).URL, 20*time.Millisecond)
	release := make(chan struct{})
	w.set(hangs(release))
	for range 100 {
		require.Error(t, s.Record(t.Context(), meteringtest.NewEvent(tenant.NewID())))
	}
	asked := w.asked()
	require.LessOrEqual(t, len(asked), 1)
	for _, left := range asked {
		require.LessOrEqual(t, left, 20*time.Millisecond)
	}
	w.set(whole)
	close(release)
	requireBack(t, s, clock)
}

// Connections break before and after Redis has carried out what it was asked,
// between them there is none, and it hangs. What Record has taken is stored in the
// end, once, and nothing else.
//
// Mutations seen here: an event in doubt that Record refuses is stored all the same;
// one that it takes and does not send again is lost.
func TestStreamInDoubt(t *testing.T) {
	t.Parallel()
	s, w, clock := wiredStream(t, devtest.DurableRedis(t).URL, time.Minute)
	var mu sync.Mutex
	var taken []string
	stop, changed := make(chan struct{}), make(chan struct{}, 1)
	var recording sync.WaitGroup
	for range 8 {
		id := tenant.NewID()
		recording.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				e := meteringtest.NewEvent(id)
				if s.Record(context.Background(), e) == nil {
					mu.Lock()
					taken = append(taken, e.ID)
					mu.Unlock()
					select {
					case changed <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	for range 5 {
		for _, f := range []fault{brokenBefore, brokenAfter, refused, nil} {
			requireBack(t, s, clock)
			<-changed
			<-changed
			release := make(chan struct{})
			if f == nil {
				f = hangs(release)
			}
			w.set(f)
			require.Eventually(t, func() bool { return len(w.asked()) > 0 }, time.Minute, time.Millisecond)
			w.set(whole)
			close(release)
		}
	}
	close(stop)
	recording.Wait()
	store := &meteringtest.Store{}
	drain(t, s, store)
	require.NoError(t, s.Flush(t.Context()))
	require.ElementsMatch(t, taken, idsOf(store.Events()))
	require.NotZero(t, store.Repeated(), "sent again although it was there")
}

// A Redis that answers and takes nothing is asked again by a write: a read would
// find nothing wrong.
//
// Mutation seen here: a probe that reads lets the next call in.
func TestStreamRedisTakesNoWrites(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	s, w, clock := wiredStream(t, server.URL, time.Minute)
	admin := redis.NewClient(&redis.Options{Addr: server.Addr})
	t.Cleanup(func() { admin.Close() })
	require.NoError(t, s.Ready(t.Context()))
	require.NoError(t, admin.ConfigSet(t.Context(), "maxmemory", "1").Err())
	require.ErrorContains(t, s.Record(t.Context(), meteringtest.NewEvent(tenant.NewID())), "OOM")
	w.set(whole) // and count anew
	require.Eventually(t, func() bool {
		clock.Advance(time.Second)
		return s.Ready(t.Context()) == nil || len(w.asked()) >= 6
	}, time.Minute, time.Millisecond)
	require.Error(t, s.Ready(t.Context()))
	require.ErrorContains(t, s.Check(t.Context()), "OOM")
	require.NoError(t, admin.ConfigSet(t.Context(), "maxmemory", "0").Err())
	requireBack(t, s, clock)
	require.Zero(t, waiting(t, admin))
	recordStream(t, s, 1)
}

// A process ends while events are in doubt: Run sends them a last time.
//
// Mutation seen here: without that, the event is lost.
func TestStreamEndsInDoubt(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	s, w, _ := wiredStream(t, server.URL, time.Minute)
	require.NoError(t, s.Ready(t.Context()))
	w.set(brokenBefore)
	recordStream(t, s, 1)
	require.Eventually(t, func() bool { return len(w.asked()) == 2 }, time.Minute, time.Millisecond, "it looks whether Redis is back")
	w.set(whole)
	ended, end := context.WithCancel(t.Context())
	end()
	require.NoError(t, s.Run(ended, &meteringtest.Store{}))
	admin := redis.NewClient(&redis.Options{Addr: server.Addr})
	t.Cleanup(func() { admin.Close() })
	require.EqualValues(t, 1, waiting(t, admin))
}
