package redisquota

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// script is a Lua script that Redis remembers by its hash.
type script struct {
	source any // strings, boxed once
	hash   any
}

// newScript puts the functions that scripts share where the source wants them.
func newScript(source string) script {
	source = strings.Replace(source, "--LOG--", logLua, 1)
	source = strings.Replace(source, "--RECEIPT--", receiptLua, 1)
	sum := sha1.Sum([]byte(source))
	return script{source: source, hash: hex.EncodeToString(sum[:])}
}

// args returns a command up to the keys, with room for so many arguments.
func (s script) args(keys []string, room int) []any {
	args := make([]any, 3, 3+len(keys)+room)
	args[0], args[1], args[2] = "evalsha", s.hash, len(keys)
	for _, key := range keys {
		args = append(args, key)
	}
	return args
}

// run runs the script, whose answer is a string or a number. A server that
// does not know it (new, or failed over to) is sent the source: that is the
// same question, since the first was not run.
func (s script) run(ctx context.Context, client Client, args []any) (string, error) {
	cmd := redis.NewStringCmd(ctx, args...)
	err := client.Process(ctx, cmd)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		args[0], args[1] = "eval", s.source
		cmd = redis.NewStringCmd(ctx, args...)
		err = client.Process(ctx, cmd)
	}
	if err != nil {
		return "", notAsked(err)
	}
	return cmd.Val(), nil
}

// keys names the counters of a request, with room for two more. The tenant in
// braces puts all of them into one slot of a Redis Cluster, where one script may
// touch them.
func (l *Limiter) keys(r metering.Request) []string {
	base := l.base(r.Tenant)
	keys := make([]string, len(r.Bounds), len(r.Bounds)+2)
	var room [128]byte
	for i, b := range r.Bounds {
		key := append(room[:0], base...)
		switch {
		case b.Attempts:
			key = strconv.AppendInt(append(key, "a:"...), b.Window.Milliseconds(), 10)
		case b.Period != "":
			key = append(append(append(key, "p:"...), b.Period...), ':')
			key = strconv.AppendInt(key, b.Start.Unix(), 10)
		case b.Hold > 0:
			key = strconv.AppendInt(append(key, "c:"...), b.Hold.Milliseconds(), 10)
		default:
			key = strconv.AppendInt(append(key, "w:"...), b.Window.Milliseconds(), 10)
		}
		if b.Tool != "" {
			key = append(append(key, ':'), b.Tool...)
		}
		keys[i] = string(key)
	}
	return keys
}

// callKeys names all that a call touches.
func (l *Limiter) callKeys(r metering.Request) []string {
	keys := l.keys(r)
	if r.Receipt {
		keys = append(keys, l.base(r.Tenant)+"r")
	}
	switch {
	case r.Key != "":
		return append(keys, l.idempotencyKey(r.Tenant, r.Key))
	case r.Block.ID != "":
		return append(keys, l.loansKey(r.Tenant))
	default:
		return keys
	}
}

func (l *Limiter) idempotencyKey(id tenant.ID, key string) string { return l.base(id) + "i:" + key }

func (l *Limiter) loansKey(id tenant.ID) string { return l.base(id) + "l" }

func (l *Limiter) base(t tenant.ID) string { return l.prefix + ":{" + t.String() + "}:" }

// What a bound counts, for the scripts.
const (
	kindWindow = iota
	kindAttempts
	kindPeriod
	kindSlots
)

// packBounds packs the bounds of a request into one argument: an argument of
// its own for each number costs client and server more than the counting does.
func packBounds(r metering.Request) []byte {
	packed := make([]byte, 0, 25*len(r.Bounds))
	for _, b := range r.Bounds {
		kind, window, last := byte(kindWindow), b.Window, b.Resolution().Milliseconds()
		switch {
		case b.Attempts:
			kind = kindAttempts
		case b.Period != "":
			kind, last = kindPeriod, b.End.UnixMilli()
		case b.Hold > 0:
			kind, last = kindSlots, b.Hold.Milliseconds()
		}
		packed = append(packed, kind)
		packed = append48(packed, b.Weight(r.Units))
		packed = append48(packed, b.Units)
		packed = append48(packed, window.Milliseconds())
		packed = append48(packed, last)
	}
	return packed
}

func append48(b []byte, n int64) []byte {
	return append(b, byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// decode reads what take.lua returns.
func decode(r metering.Request, reply string) (metering.Decision, error) {
	const head, each, never = 26, 12, 1<<48 - 1
	if len(reply) < head+each*len(r.Bounds) {
		return metering.Decision{}, fmt.Errorf("script returned %d bytes for %d bounds", len(reply), len(r.Bounds))
	}
	d := metering.Decision{
		Allowed: reply[6] == 0,
		Refused: int(reply[6]) - 1,
		Replay:  reply[7] == 1,
		Time:    time.UnixMilli(read48(reply)).UTC(),
		ID:      r.ID,
		Limits:  make([]metering.LimitState, len(r.Bounds)),
		Source:  metering.SourceLimiter,
		Request: r,
	}
	if d.Refused >= len(r.Bounds) {
		return metering.Decision{}, errors.New("script returned a bound that there is not")
	}
	if d.Allowed {
		d.Units = r.Units
	}
	if d.Replay {
		d.ID = reply[head+each*len(r.Bounds):]
		if d.Allowed {
			d.Units = read48(reply[8:])
		}
	}
	if block, calls := read48(reply[14:]), read48(reply[20:]); block > 0 {
		d.Block = metering.Block{ID: r.Block.ID, Units: block, Calls: calls, Hold: r.Block.Hold}
	}
	for i, b := range r.Bounds {
		at := reply[head+each*i:]
		retry := time.Duration(-1)
		if ms := read48(at[6:]); ms != never {
			retry = time.Duration(ms) * time.Millisecond
		}
		d.Limits[i] = metering.LimitState{Name: b.Name, Units: b.Units, Remaining: read48(at), RetryAfter: retry}
	}
	return d, nil
}

func read48(s string) int64 {
	_ = s[5]
	return int64(s[0])<<40 | int64(s[1])<<32 | int64(s[2])<<24 | int64(s[3])<<16 | int64(s[4])<<8 | int64(s[5])
}
