package redisquota

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var (
	//go:embed log.lua
	logLua string
	//go:embed take.lua
	takeLua string
	//go:embed settle.lua
	settleLua string
)

// Client is what the limiter needs of Redis. *redis.Client,
// *redis.ClusterClient and redis.UniversalClient have it.
type Client interface {
	redis.Scripter

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
}

// Limiter is a metering.Limiter on Redis. It is safe for concurrent use.
type Limiter struct {
	client Client
	prefix string
	take   *redis.Script
	settle *redis.Script
}

var _ metering.Limiter = (*Limiter)(nil)

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
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("redisquota: configure limiter: %w", err)
	}
	return &Limiter{
		client: client,
		prefix: prefix,
		take:   redis.NewScript(logLua + takeLua),
		settle: redis.NewScript(logLua + settleLua),
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
	args := make([]any, 0, 5+4*len(r.Bounds))
	args = append(args, len(r.Bounds), flag(take), r.Units, r.ID, r.KeyTTL.Milliseconds())
	reply, err := l.take.Run(ctx, l.client, l.keys(r), boundArgs(args, r.Bounds)...).Slice()
	if err != nil {
		return metering.Decision{}, fmt.Errorf("redisquota: take units: %w", err)
	}
	d, err := decode(r, reply)
	if err != nil {
		return metering.Decision{}, fmt.Errorf("redisquota: take units: %w", err)
	}
	return d, nil
}

// Settle implements metering.Limiter by one script call.
func (l *Limiter) Settle(ctx context.Context, d metering.Decision, units int64) (int64, error) {
	r := d.Request
	args := make([]any, 0, 6+4*len(r.Bounds))
	args = append(args, len(r.Bounds), d.Time.UnixMilli(), d.Units, units, d.ID, flag(d.Replay))
	charged, err := l.settle.Run(ctx, l.client, l.keys(r), boundArgs(args, r.Bounds)...).Int64()
	if err != nil {
		return 0, fmt.Errorf("redisquota: settle units: %w", err)
	}
	return charged, nil
}

// Reset sets the counters of r's bounds to zero, after a payment for instance.
// Idempotency keys stay.
func (l *Limiter) Reset(ctx context.Context, r metering.Request) error {
	r.Key = ""
	if len(r.Bounds) == 0 {
		return nil
	}
	if err := l.client.Unlink(ctx, l.keys(r)...).Err(); err != nil {
		return fmt.Errorf("redisquota: reset limits: %w", err)
	}
	return nil
}

// keys names the counters of a request. The tenant in braces puts all of them
// into one slot of a Redis Cluster, where one script may touch them.
func (l *Limiter) keys(r metering.Request) []string {
	base := l.base(r.Tenant)
	keys := make([]string, len(r.Bounds), len(r.Bounds)+1)
	for i, b := range r.Bounds {
		key := base
		switch {
		case b.Attempts:
			key += "a:" + strconv.FormatInt(b.Window.Milliseconds(), 10)
		case b.Period != "":
			key += "p:" + string(b.Period) + ":" + strconv.FormatInt(b.Start.Unix(), 10)
		default:
			key += "w:" + strconv.FormatInt(b.Window.Milliseconds(), 10)
		}
		if b.Tool != "" {
			key += ":" + b.Tool
		}
		keys[i] = key
	}
	if r.Key != "" {
		keys = append(keys, base+"i:"+r.Key)
	}
	return keys
}

func (l *Limiter) base(t tenant.ID) string { return l.prefix + ":{" + t.String() + "}:" }

func boundArgs(args []any, bounds []metering.Bound) []any {
	for _, b := range bounds {
		last := b.Resolution().Milliseconds()
		if b.Period != "" {
			last = b.End.UnixMilli()
		}
		args = append(args, b.Window.Milliseconds(), b.Units, flag(b.Attempts), last)
	}
	return args
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// decode reads what take.lua returns.
func decode(r metering.Request, reply []any) (metering.Decision, error) {
	const head = 6
	if len(reply) != head+2*len(r.Bounds) {
		return metering.Decision{}, fmt.Errorf("script returned %d values for %d bounds", len(reply), len(r.Bounds))
	}
	id, ok := reply[5].(string)
	numbers := make([]int64, len(reply))
	for i, v := range reply {
		if i == 5 {
			continue
		}
		n, isNumber := v.(int64)
		numbers[i], ok = n, ok && isNumber
	}
	if !ok {
		return metering.Decision{}, errors.New("script returned values of unexpected types")
	}
	d := metering.Decision{
		Allowed: numbers[0] == 1,
		Refused: int(numbers[1]),
		Time:    time.UnixMilli(numbers[2]).UTC(),
		Replay:  numbers[3] == 1,
		Units:   numbers[4],
		ID:      id,
		Limits:  make([]metering.LimitState, len(r.Bounds)),
		Source:  metering.SourceLimiter,
		Request: r,
	}
	for i, b := range r.Bounds {
		retry := time.Duration(numbers[head+2*i+1])
		if retry > 0 {
			retry *= time.Millisecond
		}
		d.Limits[i] = metering.LimitState{Name: b.Name, Units: b.Units, Remaining: numbers[head+2*i], RetryAfter: retry}
	}
	return d, nil
}
