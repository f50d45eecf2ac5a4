package redisquota_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// fate is what becomes of a question whose answer is lost.
type fate int

const (
	answered fate = iota
	never         // reaches Redis
	done
	later // when somebody has looked for it already
)

// loses is a client that loses answers.
type loses struct {
	redis.UniversalClient
	fate   fate
	arrive func() error
}

var errLost = errors.New("the connection broke")

func (l *loses) Process(ctx context.Context, cmd redis.Cmder) error {
	fate := l.fate
	if args := cmd.Args(); args[0] == "evalsha" {
		asked := l.UniversalClient
		if c, ok := asked.(*redis.ClusterClient); ok {
			if node, err := c.MasterForKey(ctx, args[3].(string)); err == nil {
				asked = node
			}
		}
		if known := asked.ScriptExists(ctx, args[1].(string)).Val(); len(known) == 0 || !known[0] {
			fate = answered // by "no such script"
		}
	}
	switch fate {
	case answered:
		return l.UniversalClient.Process(ctx, cmd)
	case done:
		_ = l.UniversalClient.Process(ctx, cmd)
	case later:
		l.arrive = func() error { return l.UniversalClient.Process(context.WithoutCancel(ctx), cmd) }
	}
	return errLost
}

// newLoses takes a URL, or the addresses of a cluster.
func newLoses(t testing.TB, at ...string) (*redisquota.Limiter, *loses) {
	t.Helper()
	l := &loses{}
	if len(at) > 1 {
		l.UniversalClient = clusterClient(at)
	} else {
		client, err := redisquota.NewClient(at[0])
		require.NoError(t, err)
		l.UniversalClient = client
	}
	t.Cleanup(func() { l.Close() })
	limiter, err := redisquota.New(l, nil)
	require.NoError(t, err)
	return limiter, l
}

// receiptOf returns the receipt of a question whose answer was lost.
func receiptOf(t testing.TB, err error) string {
	t.Helper()
	require.ErrorIs(t, err, errLost)
	told, ok := errors.AsType[interface {
		error
		Receipt() string
	}](err)
	require.True(t, ok, "%v has no receipt", err)
	return told.Receipt()
}

// What a take has done whose answer was lost is undone: units, attempts, loan,
// idempotency key and slots. If it had not been carried out, it isn't any more.
//
// Mutations seen here: attempts that stay, a loan that stays, slots that stay, the
// id of a replay's charge forgotten; and no look at the receipt in take.lua.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	testWithdraw(t, devtest.SharedRedis(t))
}

func testWithdraw(t *testing.T, at ...string) {
	now := time.Now().UTC()
	hour, month := metering.Bound{Limit: metering.PerHour(10_000)}, month(t, now)
	attempts := metering.Bound{Limit: metering.PerHour(20_000), Attempts: true}
	slots := metering.Bound{Limit: metering.Concurrent(9)}
	for name, test := range map[string]struct {
		request metering.Request
		first   bool // the key is known from a call before
	}{
		"plain":   {metering.Request{Bounds: []metering.Bound{hour, month}}, false},
		"window":  {metering.Request{Bounds: []metering.Bound{hour}}, false},
		"attempt": {metering.Request{Bounds: []metering.Bound{hour, month, attempts}}, false},
		"loan":    {metering.Request{Bounds: []metering.Bound{hour, month, attempts}, Block: metering.Block{ID: "loan", Units: 50, Calls: 10, Hold: 200 * time.Millisecond}}, false},
		"slots":   {metering.Request{Bounds: []metering.Bound{hour, slots}}, false},
		"key":     {metering.Request{Bounds: []metering.Bound{hour, month, attempts}, Key: "key", KeyTTL: time.Hour, ID: "event"}, false},
		"replay":  {metering.Request{Bounds: []metering.Bound{hour, month, attempts}, Key: "key", KeyTTL: time.Hour, ID: "another"}, true},
	} {
		for _, fate := range []fate{never, done, later} {
			t.Run(fmt.Sprint(name, fate), func(t *testing.T) {
				t.Parallel()
				limiter, client := newLoses(t, at...)
				r := test.request
				r.Tenant, r.Units, r.Receipt = tenant.NewID(), 20, true
				others := metering.Request{Tenant: r.Tenant, Units: 3, Bounds: r.Bounds}
				take := func(r metering.Request) metering.Decision {
					t.Helper()
					d, err := limiter.Take(t.Context(), r)
					require.NoError(t, err)
					require.True(t, d.Allowed)
					return d
				}
				var units, calls int64
				var first metering.Decision
				if test.first {
					earlier := r
					earlier.ID = "event"
					first = take(earlier)
					units, calls = 20, 1
				}
				take(others)
				client.fate = fate
				_, err := limiter.Take(t.Context(), r)
				receipt := receiptOf(t, err)
				client.fate = answered
				take(others)
				units, calls = units+6, calls+2
				agree := func() {
					t.Helper()
					for _, b := range r.Bounds {
						want := units
						if b.Attempts || b.Hold > 0 {
							want = calls
						}
						require.Equal(t, want, counted(t, limiter, r.Tenant, b), "%+v", b)
					}
				}
				e := metering.Entries{Tenant: r.Tenant, Journal: "j", First: 1, Last: 1}
				for range 2 {
					last, err := limiter.Withdraw(t.Context(), e, r, receipt)
					require.NoError(t, err)
					require.EqualValues(t, 1, last)
					agree()
				}
				if fate == later {
					require.ErrorContains(t, client.arrive(), "WITHDRAWN")
					agree()
				}
				if r.Key != "" {
					d := take(r)
					require.Equal(t, test.first, d.Replay)
					_, err := limiter.Settle(t.Context(), d, 0)
					require.NoError(t, err)
					calls++ // the attempt
					agree()
				}
				if test.first { // nobody else relies on it
					_, err := limiter.Settle(t.Context(), first, 0)
					require.NoError(t, err)
					units -= 20
					agree()
				}
				if r.Block.ID != "" { // a loan that was withdrawn can't be given back
					_, err := limiter.Settle(t.Context(), metering.Decision{Allowed: true, Refused: -1, Time: now, Block: r.Block, Request: metering.Request{Tenant: r.Tenant, Bounds: r.Bounds}}, 0)
					require.NoError(t, err)
					agree()
				}
			})
		}
	}
}

// A settlement whose answer was lost is made once, and never takes more than the
// call was known to be charged.
//
// Mutations seen here: without the receipt units are given back twice; without the
// look at it in settle.lua too; what was taken in addition stays.
func TestSettledInDoubt(t *testing.T) {
	t.Parallel()
	testSettledInDoubt(t, devtest.SharedRedis(t))
}

func testSettledInDoubt(t *testing.T, at ...string) {
	hour, month := metering.Bound{Limit: metering.PerHour(10_000)}, month(t, time.Now().UTC())
	for _, key := range []string{"", "key"} {
		for _, units := range []int64{0, 5, 33} {
			for _, fate := range []fate{never, done, later} {
				t.Run(fmt.Sprint(key, units, fate), func(t *testing.T) {
					t.Parallel()
					limiter, client := newLoses(t, at...)
					r := metering.Request{Tenant: tenant.NewID(), Units: 20, Bounds: []metering.Bound{hour, month}, Receipt: true}
					others, err := limiter.Take(t.Context(), r)
					require.NoError(t, err)
					if r.Key = key; key != "" {
						r.KeyTTL, r.ID = time.Hour, "event"
					}
					d, err := limiter.Take(t.Context(), r)
					require.NoError(t, err)
					client.fate = fate
					_, err = limiter.Settle(t.Context(), d, units)
					receipt := receiptOf(t, err)
					client.fate = answered
					_, err = limiter.Settle(t.Context(), others, 20) // nothing to do
					require.NoError(t, err)
					agree := func() {
						t.Helper()
						for _, b := range r.Bounds {
							require.Equal(t, 20+min(units, 20), counted(t, limiter, r.Tenant, b), "%+v", b)
						}
					}
					e := metering.Entries{Tenant: r.Tenant, Journal: "j", First: 1, Last: 1}
					for range 2 {
						_, err := limiter.SettleLate(t.Context(), e, d, min(units, 20), receipt)
						require.NoError(t, err)
						agree()
					}
					if fate == later {
						require.ErrorContains(t, client.arrive(), "WITHDRAWN")
						agree()
					}
				})
			}
		}
	}
}

// When its receipt is gone, a settlement in doubt is not made a second time.
//
// Mutation seen here: it is, and the month counts 15 too few.
func TestReceiptGone(t *testing.T) {
	t.Parallel()
	_, clock, server, advance := newMiniredis(t)
	limiter, client := newLoses(t, "redis://"+server.Addr())
	r := metering.Request{Tenant: tenant.NewID(), Units: 20, Bounds: []metering.Bound{month(t, clock.Now())}, Receipt: true}
	for number := range int64(2) {
		d, err := limiter.Take(t.Context(), r)
		require.NoError(t, err)
		client.fate = done
		_, err = limiter.Settle(t.Context(), d, 5)
		receipt := receiptOf(t, err)
		client.fate = answered
		require.Equal(t, 5+5*number, counted(t, limiter, r.Tenant, r.Bounds[0]))
		advance(time.Duration(1+30*number) * time.Hour)
		_, err = limiter.SettleLate(t.Context(), metering.Entries{Tenant: r.Tenant, Journal: "j", First: number + 1, Last: number + 1}, d, 5, receipt)
		require.NoError(t, err)
		require.Equal(t, 5+5*number, counted(t, limiter, r.Tenant, r.Bounds[0]))
	}
}

// What is undone is undone in its place: what others took before and after it leaves
// the window when it would have.
//
// Mutations seen here: units that were taken in addition looked for at the time of
// the call; a call that was not lent to looked for where a loan would be.
func TestUndoneInItsPlace(t *testing.T) {
	t.Parallel()
	hour := metering.Bound{Limit: metering.PerHour(10_000)}
	for name, lose := range map[string]func(*testing.T, *redisquota.Limiter, *loses, metering.Request, func()) func() error{
		"take": func(t *testing.T, limiter *redisquota.Limiter, client *loses, r metering.Request, pass func()) func() error {
			r.Units, r.Block = 20, metering.Block{ID: "loan", Units: 1, Hold: 10 * time.Second}
			r.Bounds = append(r.Bounds, metering.Bound{Limit: metering.PerDay(26)}) // too little to lend
			pass()
			client.fate = done
			_, err := limiter.Take(t.Context(), r)
			receipt := receiptOf(t, err)
			return func() error {
				_, err := limiter.Withdraw(t.Context(), metering.Entries{Tenant: r.Tenant, Journal: "j", First: 1, Last: 1}, r, receipt)
				return err
			}
		},
		"settle": func(t *testing.T, limiter *redisquota.Limiter, client *loses, r metering.Request, pass func()) func() error {
			d, err := limiter.Take(t.Context(), r)
			require.NoError(t, err)
			pass()
			client.fate = done
			_, err = limiter.Settle(t.Context(), d, 23)
			receipt := receiptOf(t, err)
			return func() error {
				_, err := limiter.SettleLate(t.Context(), metering.Entries{Tenant: r.Tenant, Journal: "j", First: 1, Last: 1}, d, 3, receipt)
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, server, advance := newMiniredis(t)
			limiter, client := newLoses(t, "redis://"+server.Addr())
			r := metering.Request{Tenant: tenant.NewID(), Units: 3, Bounds: []metering.Bound{hour}, Receipt: true}
			undo := lose(t, limiter, client, r, func() {
				_, err := limiter.Take(t.Context(), r)
				require.NoError(t, err)
				advance(2 * time.Minute)
			})
			client.fate = answered
			before := counted(t, limiter, r.Tenant, hour) - 20
			for range 2 {
				advance(2 * time.Minute)
				_, err := limiter.Take(t.Context(), r)
				require.NoError(t, err)
			}
			require.NoError(t, undo())
			require.Equal(t, before+6, counted(t, limiter, r.Tenant, hour))
			advance(time.Hour - 3*time.Minute)
			require.EqualValues(t, 6, counted(t, limiter, r.Tenant, hour))
			advance(2 * time.Minute)
			require.EqualValues(t, 3, counted(t, limiter, r.Tenant, hour))
		})
	}
}

// Receipts are few: as many as there were questions at once, and those in doubt.
//
// Mutation seen here: a lane that is never used again.
func TestReceipts(t *testing.T) {
	t.Parallel()
	testReceipts(t, devtest.SharedRedis(t))
}

func testReceipts(t *testing.T, at ...string) {
	limiter, client := newLoses(t, at...)
	r := request(1, metering.PerHour(1_000))
	r.Receipt = true
	receipts := func() int64 {
		n, err := client.HLen(t.Context(), "mcpsaas:{"+r.Tenant.String()+"}:r").Result()
		require.NoError(t, err)
		return n
	}
	take := func(want error) {
		t.Helper()
		_, err := limiter.Take(t.Context(), r)
		require.ErrorIs(t, err, want)
	}
	for range 10 {
		take(nil)
	}
	require.EqualValues(t, 1, receipts())
	client.fate = done
	take(errLost)
	client.fate = answered
	for range 10 {
		take(nil)
	}
	require.EqualValues(t, 2, receipts())

	d, err := limiter.Take(t.Context(), r)
	require.NoError(t, err)
	_, err = limiter.Settle(t.Context(), d, 0)
	require.NoError(t, err)
	require.EqualValues(t, 2, receipts())
	_, err = limiter.Withdraw(t.Context(), metering.Entries{Tenant: r.Tenant, Journal: "j", First: 1, Last: 1}, r, "none")
	require.ErrorContains(t, err, `"none"`)

	r = request(1, metering.PerHour(1_000)) // asks for none
	take(nil)
	require.Zero(t, receipts())
}

// A receipt goes a day and more after the last question, also beside others that
// come by other lanes all the time.
//
// Mutation seen here: without the look for some that are gone.
func TestReceiptsGo(t *testing.T) {
	t.Parallel()
	_, _, server, advance := newMiniredis(t)
	id := tenant.NewID()
	for range 40 { // processes
		limiter, _ := newLimiter(t, "redis://"+server.Addr())
		_, err := limiter.Take(t.Context(), metering.Request{Tenant: id, Units: 1, Bounds: []metering.Bound{{Limit: metering.PerHour(1_000)}}, Receipt: true})
		require.NoError(t, err)
		advance(2 * time.Hour)
	}
	left, err := server.HKeys("mcpsaas:{" + id.String() + "}:r")
	require.NoError(t, err)
	require.Len(t, left, 15) // of the last 30 hours
	advance(31 * time.Hour)
	require.False(t, server.Exists("mcpsaas:{"+id.String()+"}:r"))
}
