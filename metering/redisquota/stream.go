package redisquota

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Errors of a [Stream].
var (
	// ErrNotDurable is returned by Record while Redis is known, or not proved,
	// to lose its data in a crash. The event has not been taken.
	ErrNotDurable = errors.New("redisquota: Redis does not keep its data: set appendonly to yes")

	// ErrStreamFull is returned by Record when MaxEvents wait. The event has
	// not been taken.
	ErrStreamFull = errors.New("redisquota: usage stream is full")
)

//go:embed done.lua
var doneLua string

// StreamOptions are the settings of a [Stream]. The zero value works.
type StreamOptions struct {
	// Prefix leads all keys, as in [Options]. Defaults to "mcpsaas".
	Prefix string

	// Shards is over how many streams tenants are spread, and so over how many
	// primaries of a Redis Cluster. All processes must agree on it; it may
	// grow, and shrink once the streams are empty. Defaults to 8.
	Shards int

	// MaxEvents is how many events may wait, all shards together, give or take
	// what is under way. An event takes about 150 bytes of Redis' memory.
	// Defaults to 5,000,000.
	MaxEvents int64

	// AssumeDurable is for a managed Redis that does not tell its
	// configuration: you answer for its append-only file or its equivalent.
	// Where Redis does tell, it is believed instead.
	AssumeDurable bool

	// FlushInterval is how long events may wait to be stored together.
	// Defaults to 100 ms.
	FlushInterval time.Duration

	// BatchEvents is how many events of a shard are stored together at most.
	// Defaults to 2,000.
	BatchEvents int

	// ClaimAfter is after which time another process takes over what one has
	// read and not stored. Should that one be slow and not dead, a batch is
	// given to the store twice. Defaults to 10 seconds.
	ClaimAfter time.Duration

	// AlarmAge is how old an event may get before it is stored, until Check
	// reports it. Defaults to 2 minutes.
	AlarmAge time.Duration

	// Logger takes what the operator should know. Nil discards it.
	Logger *slog.Logger

	// Now is the local clock. Defaults to time.Now.
	Now func() time.Time
}

// Stream is the [usage.Sink] in Redis, for machines without a disk of their
// own. Record returns when Redis has the event in its append-only file, which
// survives a kill -9 of this side always. What a crash of Redis may lose, its
// appendfsync says: with always nothing; with everysec, Redis' default, the last
// second or two, and that by a kill of its process too, since Redis answers before it
// writes for as long as an fsync is under way; with no nothing by a kill, and half a
// minute when the machine goes down. [Stream.Run] carries the events into a
// [usage.Store].
//
// An event is written once the outcome of its call is known, not when its units
// are taken: a crash in between leaves units taken and nothing billed, and what
// is settled, free or unlimited goes the same way as everything else. Calls
// that end at the same time share a round trip.
//
// Streams are "prefix:{usage-shard}:events", so a Redis Cluster spreads them.
// They are never cut by length: an event goes when the store has it, or not at
// all. A stream is safe for concurrent use.
type Stream struct {
	client   redis.UniversalClient
	o        StreamOptions
	consumer string
	done     *redis.Script

	durable atomic.Int32   // a durability
	asked   atomic.Int64   // when it was found out, in Unix ms
	waiting []atomic.Int64 // events of each shard, as last seen

	running  atomic.Bool
	unstored []bool // of each shard: Run has read entries that it has not stored

	mu      sync.Mutex
	next    *flight // the one that is being filled; nil: none
	flights int     // how many are under way
}

var _ usage.Sink = (*Stream)(nil)

const (
	group   = "store"
	field   = "e"
	flights = 2 // round trips of Record at a time
)

// flight is the events of one round trip.
type flight struct {
	events []usage.Event
	errs   []error
	landed chan struct{}
}

// NewStream returns a sink on client, which is not asked yet. Nil opts mean the
// defaults.
func NewStream(client redis.UniversalClient, opts *StreamOptions) (*Stream, error) {
	if opts == nil {
		opts = &StreamOptions{}
	}
	o := *opts
	o.setDefaults()
	var errs []error
	if client == nil {
		errs = append(errs, errors.New("client is nil"))
	} else if c, ok := client.(Client); ok {
		errs = append(errs, checkClient(c))
	}
	if strings.ContainsAny(o.Prefix, `{}*?[]\^ `) {
		errs = append(errs, fmt.Errorf("Prefix: %q contains one of {}*?[]\\^ or a space", o.Prefix))
	}
	for name, n := range map[string]int64{
		"Shards": int64(o.Shards), "MaxEvents": o.MaxEvents, "BatchEvents": int64(o.BatchEvents),
		"FlushInterval": int64(o.FlushInterval), "ClaimAfter": int64(o.ClaimAfter), "AlarmAge": int64(o.AlarmAge),
	} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("%s: %d is not positive", name, n))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("redisquota: configure stream: %w", err)
	}
	return &Stream{
		client: client, o: o, consumer: tenant.NewID().String(),
		done: redis.NewScript(doneLua), waiting: make([]atomic.Int64, o.Shards), unstored: make([]bool, o.Shards),
	}, nil
}

func (o *StreamOptions) setDefaults() {
	if o.Prefix == "" {
		o.Prefix = "mcpsaas"
	}
	if o.Shards == 0 {
		o.Shards = 8
	}
	if o.MaxEvents == 0 {
		o.MaxEvents = 5_000_000
	}
	if o.BatchEvents == 0 {
		o.BatchEvents = 2_000
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 100 * time.Millisecond
	}
	if o.ClaimAfter == 0 {
		o.ClaimAfter = 10 * time.Second
	}
	if o.AlarmAge == 0 {
		o.AlarmAge = 2 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

func (s *Stream) key(shard int) string {
	return s.o.Prefix + ":{usage-" + strconv.Itoa(shard) + "}:events"
}

func (s *Stream) shard(id tenant.ID) int {
	h := fnv.New32a()
	h.Write([]byte(id.String()))
	return int(h.Sum32() % uint32(s.o.Shards))
}

// Record implements [usage.Sink]. An error says that the event may be lost, or
// may not: sent again, it is stored once. Record returns [ErrNotDurable] and
// [ErrStreamFull] for an event that surely is not there.
func (s *Stream) Record(ctx context.Context, e usage.Event) error {
	if err := s.mayRecord(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	f := s.next
	if f == nil {
		f = &flight{landed: make(chan struct{})}
		s.next = f
	}
	i := len(f.events)
	f.events = append(f.events, e)
	lead := i == 0 && s.flights < flights
	if lead {
		s.flights++
		s.next = nil
	}
	s.mu.Unlock()
	if lead {
		// Others wait for it too: only its own client's time-outs end it.
		s.fly(context.WithoutCancel(ctx), f)
	}
	select {
	case <-f.landed:
	case <-ctx.Done():
		return fmt.Errorf("redisquota: record event: %w", ctx.Err())
	}
	if err := f.errs[i]; err != nil {
		return fmt.Errorf("redisquota: record event: %w", err)
	}
	return nil
}

// fly sends f, and then what has gathered meanwhile.
func (s *Stream) fly(ctx context.Context, f *flight) {
	s.send(ctx, f)
	s.mu.Lock()
	next := s.next
	s.next = nil
	if next == nil {
		s.flights--
	}
	s.mu.Unlock()
	if next != nil {
		go s.fly(ctx, next) // the leader's own call is to be answered
	}
}

// sendTimeout bounds a flight: whoever leads it, others depend on it.
const sendTimeout = 2 * time.Second

func (s *Stream) send(ctx context.Context, f *flight) {
	defer close(f.landed)
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	f.errs = make([]error, len(f.events))
	pipe := s.client.Pipeline()
	added := make([]*redis.StringCmd, len(f.events))
	lengths := make(map[int]*redis.IntCmd)
	for i, e := range f.events {
		b, err := e.AppendBinary(nil)
		if err != nil {
			f.errs[i] = err
			continue
		}
		shard := s.shard(e.Tenant)
		added[i] = pipe.XAdd(ctx, &redis.XAddArgs{Stream: s.key(shard), Values: []any{field, b}})
		lengths[shard] = nil
	}
	for shard := range lengths {
		lengths[shard] = pipe.XLen(ctx, s.key(shard))
	}
	pipe.Exec(ctx) // each command has its own error
	for i, cmd := range added {
		if cmd != nil {
			f.errs[i] = cmd.Err()
		}
	}
	for shard, cmd := range lengths {
		if n, err := cmd.Result(); err == nil {
			s.waiting[shard].Store(n)
		}
	}
}
