package redisquota

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
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

	// Budget is how long Record may take, the round trip of others that it may have
	// to wait for included. Once one was longer, nothing is waited for until Redis
	// answers again. Defaults to 25 ms.
	Budget time.Duration

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
// Record waits for Redis for as long as Budget says. An event that was sent and
// not answered by then, or whose connection broke, is taken too: Redis may have it,
// so its call can be neither answered for nothing nor refused. The stream keeps it
// in memory and sends it again until Redis says that it has it; the store keeps it
// once. Only a process that is killed before that may lose such events: those that
// were under way when Redis went. From then on no event is sent and none waited
// for, and [Stream.Ready] says so, until Redis answers a probe, once a second.
//
// An event is written once the outcome of its call is known, not when its units
// are taken: a crash in between leaves units taken and nothing billed, and what
// is settled, free or unlimited goes the same way as everything else. It is a round
// trip of its own, which calls that end at the same time share.
//
// Streams are "prefix:{usage-shard}:events", so a Redis Cluster spreads them; a
// primary that is away keeps the events of all from being taken. They are never
// cut by length: an event goes when the store has it, or not at all. A stream is
// safe for concurrent use.
type Stream struct {
	client   redis.UniversalClient
	o        StreamOptions
	consumer string
	done     *redis.Script

	waiting []atomic.Int64 // events of each shard, as last seen

	running  atomic.Bool
	unstored []bool // of each shard: Run has read entries that it has not stored

	asking chan struct{} // held by who asks whether Redis is there

	mu      sync.Mutex
	durable durability
	next    *flight   // the one that is being filled; nil: none
	flights int       // how many are under way
	away    bool      // the last flight or probe failed
	doubt   []entry   // sent, and Redis has not said that it has them
	looking bool      // somebody asks in the background
	lookAt  time.Time // when somebody may again
}

var _ usage.Sink = (*Stream)(nil)

const (
	group   = "store"
	field   = "e"
	flights = 2 // round trips of Record at a time
)

// entry is an event as it is sent.
type entry struct {
	shard   int
	payload []byte
}

// flight is the entries of one round trip.
type flight struct {
	deadline time.Time // of the first who boarded
	entries  []entry
	errs     []error
	landed   chan struct{}
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
		"Budget": int64(o.Budget), "FlushInterval": int64(o.FlushInterval), "ClaimAfter": int64(o.ClaimAfter), "AlarmAge": int64(o.AlarmAge),
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
		asking: make(chan struct{}, 1),
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
	if o.Budget == 0 {
		o.Budget = 25 * time.Millisecond
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

// Record implements [usage.Sink]. An error says that the event is not there and
// won't be: [ErrNotDurable] and [ErrStreamFull], that it is not valid, that Redis is
// away or that it refused. It waits for at most Budget, whatever becomes of ctx meanwhile: it
// can't take back what it has sent.
func (s *Stream) Record(ctx context.Context, e usage.Event) error {
	deadline := time.Now().Add(s.o.Budget)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("redisquota: record event: %w", err)
	}
	if err := e.Validate(); err != nil {
		return fmt.Errorf("redisquota: record event: %w", err)
	}
	payload, err := e.AppendBinary(nil)
	if err != nil {
		return fmt.Errorf("redisquota: encode event: %w", err)
	}
	if err := s.meet(ctx, deadline); err != nil {
		return err
	}
	s.mu.Lock()
	if err := s.shut(ctx); err != nil {
		s.mu.Unlock()
		return err
	}
	f := s.next
	if f == nil {
		f = &flight{deadline: deadline, landed: make(chan struct{})}
		s.next = f
	}
	i := len(f.entries)
	f.entries = append(f.entries, entry{s.shard(e.Tenant), payload})
	lead := i == 0 && s.flights < flights
	if lead {
		s.flights++
		s.next = nil
	}
	s.mu.Unlock()
	if lead {
		s.fly(context.WithoutCancel(ctx), f) // others wait for it too
	}
	<-f.landed // by its deadline, or by that of a flight before
	if err := f.errs[i]; err != nil {
		return fmt.Errorf("redisquota: record event: %w", err)
	}
	return nil
}

// fly sends f, and then what has gathered meanwhile, unless Redis is away.
func (s *Stream) fly(ctx context.Context, f *flight) {
	asked, cancel := context.WithDeadline(ctx, f.deadline)
	f.errs = s.post(asked, f.entries, false)
	cancel()
	s.mu.Lock()
	for i, err := range f.errs {
		if err == nil {
			continue
		}
		s.away, s.lookAt = true, time.Time{} // it may have been a moment: look at once
		if !unsent(err) {
			s.doubt, f.errs[i] = append(s.doubt, f.entries[i]), nil
		}
	}
	next := s.next
	s.next = nil
	if s.away {
		if next != nil {
			next.errs = slices.Repeat([]error{errAway}, len(next.entries))
			close(next.landed)
			next = nil
		}
		s.look(ctx)
	}
	if next == nil {
		s.flights--
	}
	s.mu.Unlock()
	close(f.landed)
	if next != nil {
		go s.fly(ctx, next) // the leader's own call is to be answered
	}
}

// post sends entries in one round trip, and notes how many wait. An error is of
// the entry of its index. With all it asks every shard whether it takes writes, by
// one that changes nothing; those errors come last.
func (s *Stream) post(ctx context.Context, entries []entry, all bool) []error {
	pipe := s.client.Pipeline()
	errs := make([]error, len(entries))
	added := make([]*redis.StringCmd, len(entries))
	lengths := make([]*redis.IntCmd, s.o.Shards)
	touched := make([]bool, s.o.Shards)
	for i, e := range entries {
		added[i] = pipe.XAdd(ctx, &redis.XAddArgs{Stream: s.key(e.shard), Values: []any{field, e.payload}})
		touched[e.shard] = true
	}
	var groups []*redis.StatusCmd
	for shard := range lengths {
		if all {
			groups = append(groups, pipe.XGroupCreateMkStream(ctx, s.key(shard), group, "0"))
		}
		if all || touched[shard] {
			lengths[shard] = pipe.XLen(ctx, s.key(shard))
		}
	}
	pipe.Exec(ctx) // each command has its own error
	for i, cmd := range added {
		errs[i] = cmd.Err()
	}
	for _, cmd := range groups {
		if err := cmd.Err(); err != nil && !isBusyGroup(err) && !isRefusal(err) {
			errs = append(errs, err)
		}
	}
	for shard, cmd := range lengths {
		if cmd == nil {
			continue
		}
		if n, err := cmd.Result(); err == nil {
			s.waiting[shard].Store(n)
		}
	}
	return errs
}
