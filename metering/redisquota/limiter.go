package redisquota

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering"
)

var (
	//go:embed log.lua
	logLua string
	//go:embed receipt.lua
	receiptLua string
	//go:embed take.lua
	takeLua string
	//go:embed settle.lua
	settleLua string
	//go:embed renew.lua
	renewLua string
	//go:embed reset.lua
	resetLua string
)

// Client is what the limiter needs of Redis. *redis.Client,
// *redis.ClusterClient and redis.UniversalClient have it.
type Client interface {
	// Process runs the limiter's scripts.
	Process(ctx context.Context, cmd redis.Cmder) error
	// Ping is for Check.
	Ping(ctx context.Context) *redis.StatusCmd
	// Scan finds the keys of a tenant.
	Scan(ctx context.Context, cursor uint64, match string, count int64) *redis.ScanCmd
	// Unlink removes keys.
	Unlink(ctx context.Context, keys ...string) *redis.IntCmd
}

// Options are the settings of a [Limiter]. The zero value works.
type Options struct {
	// Prefix leads all keys. It must not contain braces, or characters that
	// are special in a Redis pattern. Defaults to "mcpsaas".
	Prefix string

	// PipelineAbove is how many questions may be under way before more are
	// gathered and sent to Redis together, by the AutoPipeliner of go-redis, which
	// it calls experimental and which ends when the client is closed. It pays from
	// some tens of questions at once on. The client must be a *redis.Client or a
	// *redis.ClusterClient. Defaults to never.
	PipelineAbove int
}

// Limiter is a metering.Limiter on Redis. It is safe for concurrent use.
type Limiter struct {
	client Client
	asks   Client // client, or what gathers questions before it
	prefix string
	lanes  lanes
	take   script
	settle script
	renew  script
	reset  script
}

var (
	_ metering.Limiter  = (*Limiter)(nil)
	_ metering.Renewer  = (*Limiter)(nil)
	_ metering.Resetter = (*Limiter)(nil)
)

// New returns a limiter that counts on client. It refuses a *redis.Client or
// *redis.ClusterClient that would ignore the deadline of a call or send a
// script again on its own; see [NewClient]. Nil opts mean the defaults.
func New(client Client, opts *Options) (*Limiter, error) {
	if opts == nil {
		opts = &Options{}
	}
	prefix := opts.Prefix
	if prefix == "" {
		prefix = "mcpsaas"
	}
	var errs []error
	if client == nil {
		errs = append(errs, errors.New("client is nil"))
	}
	if strings.ContainsAny(prefix, `{}*?[]\^ `) {
		errs = append(errs, fmt.Errorf("Prefix: %q contains one of {}*?[]\\^ or a space", prefix))
	}
	errs = append(errs, checkClient(client))
	asks := client
	if opts.PipelineAbove != 0 && client != nil {
		g, err := newGatherer(client, opts.PipelineAbove)
		errs = append(errs, err)
		asks = g
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("redisquota: configure limiter: %w", err)
	}
	return &Limiter{
		client: client,
		asks:   asks,
		prefix: prefix,
		take:   newScript(takeLua),
		settle: newScript(settleLua),
		renew:  newScript(renewLua),
		reset:  newScript(resetLua),
	}, nil
}

// Take implements metering.Limiter by one script call.
func (l *Limiter) Take(ctx context.Context, r metering.Request) (metering.Decision, error) {
	return l.decide(ctx, r, true)
}

// Peek implements metering.Limiter by one script call that writes nothing.
func (l *Limiter) Peek(ctx context.Context, r metering.Request) (metering.Decision, error) {
	return l.decide(ctx, r, false)
}

func (l *Limiter) decide(ctx context.Context, r metering.Request, take bool) (metering.Decision, error) {
	r.Receipt = r.Receipt && take
	q := l.lanes.enter(r)
	slot := ""
	if take && holdsSlot(r.Bounds) {
		slot = q.slot()
	}
	if r.Key != "" || r.Block.ID == "" {
		r.Block = metering.Block{}
	}
	// A plain call sends its bounds and nothing else.
	args := l.take.args(l.callKeys(r), 12)
	args = append(args, packBounds(r), q.name())
	if !take || slot != "" || r.Key != "" || r.Block.ID != "" {
		args = append(args, flag(take), slot, r.Block.Units, r.Block.Calls, r.Block.Hold.Milliseconds(), r.Block.ID)
	}
	if r.Key != "" {
		args = append(args, r.Units, r.ID, r.KeyTTL.Milliseconds())
	}
	reply, err := l.take.run(ctx, l.asks, args)
	if err = l.lanes.leave(q, err); err != nil {
		return metering.Decision{}, fmt.Errorf("redisquota: take units: %w", err)
	}
	d, err := decode(r, reply)
	if err != nil {
		return metering.Decision{}, fmt.Errorf("redisquota: take units: %w", err)
	}
	if d.Allowed {
		d.Slot = slot
	}
	return d, nil
}

// Settle implements metering.Limiter by one script call.
func (l *Limiter) Settle(ctx context.Context, d metering.Decision, units int64) (int64, error) {
	q := l.lanes.enter(d.Request)
	reply, err := l.settle.run(ctx, l.asks, l.settleArgs(l.settle, d, units, q, lostNothing))
	if err = l.lanes.leave(q, err); err != nil {
		return 0, fmt.Errorf("redisquota: settle units: %w", err)
	}
	charged, err := strconv.ParseInt(reply, 10, 64)
	if err != nil {
		return 0, errors.New("redisquota: settle units: script returned no number")
	}
	return charged, nil
}

// What was lost of the question that a receipt is of: nothing, if it is the one
// that is being asked.
const (
	lostNothing = ""
	lostSettle  = "settle"
	lostTake    = "take"
)

func (l *Limiter) settleArgs(s script, d metering.Decision, units int64, q receipt, lost string) []any {
	r := d.Request
	if r.Key == "" {
		r.Block = d.Block
	}
	return append(s.args(l.callKeys(r), 18), packBounds(r), d.Time.UnixMilli(), d.Units, units, d.Block.Units, d.Block.Calls, d.Slot, d.ID,
		flag(d.Replay), d.Block.Hold.Milliseconds(), r.Block.ID, q.name(), lost)
}

// Renew implements metering.Renewer by one script call.
func (l *Limiter) Renew(ctx context.Context, d metering.Decision) error {
	if d.Slot == "" {
		return nil
	}
	r := metering.Request{Tenant: d.Request.Tenant}
	for _, b := range d.Request.Bounds {
		if b.Hold > 0 {
			r.Bounds = append(r.Bounds, b)
		}
	}
	args := append(l.renew.args(l.keys(r), 1+len(r.Bounds)), d.Slot)
	for _, b := range r.Bounds {
		args = append(args, b.Hold.Milliseconds())
	}
	if _, err := l.renew.run(ctx, l.asks, args); err != nil {
		return fmt.Errorf("redisquota: renew slots: %w", err)
	}
	return nil
}

func holdsSlot(bounds []metering.Bound) bool {
	return slices.ContainsFunc(bounds, func(b metering.Bound) bool { return b.Hold > 0 })
}

// Reset implements metering.Resetter by one script call.
func (l *Limiter) Reset(ctx context.Context, r metering.Request) error {
	r.Key, r.Block, r.Receipt = "", metering.Block{ID: "all"}, true // of which there is one key each
	r.Bounds = slices.DeleteFunc(slices.Clone(r.Bounds), func(b metering.Bound) bool { return b.Hold > 0 })
	if len(r.Bounds) == 0 {
		return nil
	}
	if _, err := l.reset.run(ctx, l.asks, append(l.reset.args(l.callKeys(r), 1), packBounds(r))); err != nil {
		return fmt.Errorf("redisquota: reset limits: %w", err)
	}
	return nil
}
