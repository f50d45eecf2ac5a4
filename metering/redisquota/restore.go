package redisquota

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var (
	//go:embed restore.lua
	restoreLua string
	//go:embed once.lua
	onceLua string
	//go:embed seed.lua
	seedLua string
)

var (
	_ metering.Restorer = (*Limiter)(nil)
	_ metering.Seeder   = (*Limiter)(nil)
)

// The scripts of the time after an outage.
var (
	restoreScript    = newScript(restoreLua)
	settleOnceScript = newScript(onceLua + settleLua)
	seedScript       = newScript(seedLua)
)

// journalKept is how long Redis remembers which entries of a journal it has
// counted: longer than any period that they could be counted in.
const journalKept = 40 * 24 * time.Hour

// Restore implements metering.Restorer by one script call.
func (l *Limiter) Restore(ctx context.Context, r metering.Restoration) (int64, error) {
	q := metering.Request{Tenant: r.Tenant}
	var uses []byte
	for _, u := range r.Uses {
		i := slices.Index(q.Bounds, u.Bound)
		if i < 0 {
			i = len(q.Bounds)
			q.Bounds = append(q.Bounds, u.Bound)
		}
		uses = append(uses, byte((i+1)>>8), byte(i+1))
		uses = append48(uses, u.Time.UnixMilli())
		uses = append48(uses, u.Units)
	}
	keys := append(l.keys(q), l.journalKey(r.Entries))
	if r.Key != "" {
		keys = append(keys, l.idempotencyKey(r.Tenant, r.Key))
	}
	args := append(restoreScript.args(keys, 9), packBounds(q), r.First, r.Last, journalKept.Milliseconds(), uses, flag(r.Ledger))
	if r.Key != "" {
		args = append(args, r.Units, r.ID, r.KeyTTL.Milliseconds())
	}
	return l.runOnce(ctx, restoreScript, args)
}

// SettleLate implements metering.Restorer by one script call.
func (l *Limiter) SettleLate(ctx context.Context, e metering.Entries, d metering.Decision, units int64, receipt string) (int64, error) {
	if d.Request.Receipt = receipt != ""; receipt == "" {
		return l.settleOnce(ctx, e, d, units, "", lostNothing)
	}
	return l.settleOnce(ctx, e, d, units, receipt, lostSettle)
}

// Withdraw implements metering.Restorer by one script call.
func (l *Limiter) Withdraw(ctx context.Context, e metering.Entries, r metering.Request, receipt string) (int64, error) {
	r.Receipt = true
	d := metering.Decision{Request: r, ID: r.ID, Units: r.Units, Block: metering.Block{ID: r.Block.ID, Hold: r.Block.Hold}}
	return l.settleOnce(ctx, e, d, 0, receipt, lostTake)
}

func (l *Limiter) settleOnce(ctx context.Context, e metering.Entries, d metering.Decision, units int64, text, lost string) (int64, error) {
	q, err := readReceipt(text)
	if err != nil {
		return 0, fmt.Errorf("redisquota: restore units: %w", err)
	}
	if lost == lostTake {
		d.Slot = q.name()
	}
	args := append(l.settleArgs(settleOnceScript, d, units, q, lost), l.journalKey(e), e.First, e.Last, journalKept.Milliseconds())
	if _, err := l.runOnce(ctx, settleOnceScript, args); err != nil {
		return 0, err
	}
	return e.Last, nil // by this call or by an earlier one
}

func (l *Limiter) runOnce(ctx context.Context, s script, args []any) (int64, error) {
	reply, err := s.run(ctx, l.client, args)
	if err != nil {
		return 0, fmt.Errorf("redisquota: restore units: %w", err)
	}
	last, err := strconv.ParseInt(reply, 10, 64)
	if err != nil {
		return 0, errors.New("redisquota: restore units: script returned no number")
	}
	return last, nil
}

func (l *Limiter) journalKey(e metering.Entries) string {
	return l.base(e.Tenant) + "j:" + e.Journal
}

// Since implements metering.Seeder by one script call.
func (l *Limiter) Since(ctx context.Context, id tenant.ID, b metering.Bound) (since time.Time, final bool, err error) {
	reply, err := seedScript.run(ctx, l.client, l.seedArgs(id, b))
	if err != nil {
		return since, false, fmt.Errorf("redisquota: ask for a counter's beginning: %w", err)
	}
	ms, final := strings.CutSuffix(reply, "!")
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return since, false, errors.New("redisquota: ask for a counter's beginning: script returned no number")
	}
	return time.UnixMilli(n).UTC(), final, nil
}

// Seed implements metering.Seeder by one script call.
func (l *Limiter) Seed(ctx context.Context, id tenant.ID, b metering.Bound, since time.Time, units int64, final bool) error {
	args := append(l.seedArgs(id, b), since.UnixMilli(), units, flag(final))
	if _, err := seedScript.run(ctx, l.client, args); err != nil {
		return fmt.Errorf("redisquota: seed a counter: %w", err)
	}
	return nil
}

func (l *Limiter) seedArgs(id tenant.ID, b metering.Bound) []any {
	key := l.keys(metering.Request{Tenant: id, Bounds: []metering.Bound{b}})[0]
	keep := b.End.Add(48 * time.Hour).UnixMilli() // as keep_until of log.lua
	return append(seedScript.args([]string{key, key + "#since"}, 6), keep)
}
