package pgbudget

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Errors to branch on.
var (
	// ErrExhausted means that no connection became free in time, or that too
	// many callers wait for one already.
	ErrExhausted = errors.New("the budget of connections is exhausted")

	// ErrClosed means that the budget was closed.
	ErrClosed = errors.New("the budget of connections is closed")

	// ErrUnreachable means that the database's server couldn't be reached by
	// another of its databases, whose attempt this one waited for.
	ErrUnreachable = errors.New("the database's server is unreachable")
)

// Config returns the configuration by which the database key is reached, made
// by [pgx.ParseConfig]. It is called before a connection is opened; it must not
// keep what it returned. refused means that the server refused the one that it
// returned last, because of its credentials or because there is no such
// database: what is cached is out of date.
type Config func(ctx context.Context, key string, refused bool) (*pgx.ConnConfig, error)

// Options configure [Open]. The zero value is the default.
type Options struct {
	// MaxConns is the budget: the greatest number of connections to all
	// databases together. One that is being closed counts until its server has
	// closed it.
	// Defaults to 50.
	MaxConns int

	// MaxConnsPerPool is the greatest number of connections to one database.
	// Defaults to 4, and is never more than MaxConns.
	MaxConnsPerPool int

	// MaxPools is how many pools are kept; beyond it, the one that was least
	// recently used is dropped. One in use is never dropped, so that there can
	// be more for as long as they all are.
	// Defaults to 200.
	MaxPools int

	// PoolTTL is how long a pool is kept that nobody uses.
	// Defaults to 30 minutes.
	PoolTTL time.Duration

	// MaxConnLifetime is when a connection is closed after its use, give or
	// take a tenth.
	// Defaults to an hour.
	MaxConnLifetime time.Duration

	// MaxConnIdleTime is when an idle connection is closed.
	// Defaults to 5 minutes.
	MaxConnIdleTime time.Duration

	// MaxWait is how long a caller waits before it gets [ErrExhausted].
	// Defaults to 30 seconds.
	MaxWait time.Duration

	// MaxWaiting is how many callers may wait for one database; the next one
	// gets [ErrExhausted] at once.
	// Defaults to 1000.
	MaxWaiting int

	// OpenTimeout bounds the opening of one connection, with all that it takes.
	// Defaults to 10 seconds.
	OpenTimeout time.Duration

	// AfterConnect makes a new connection ready.
	// Defaults to nothing.
	AfterConnect func(ctx context.Context, conn *pgx.Conn) error

	// Verify decides on a pool's first connection whether the database may be
	// used at all; again after the pool was dropped, failed, or was moved to
	// another database.
	// Defaults to yes.
	Verify func(ctx context.Context, key string, conn *pgx.Conn) error

	// Now is the clock.
	// Defaults to time.Now.
	Now func() time.Time
}

// quantum is how long a new connection stays with callers of its own pool
// while other pools wait. Opening one takes some milliseconds, so that at most a
// fifth of the time goes into changing databases.
const quantum = 50 * time.Millisecond

// Budget lends connections. It is safe for concurrent use.
type Budget struct {
	config Config
	opts   Options

	ctx    context.Context // of what is opened
	cancel context.CancelFunc
	work   sync.WaitGroup // everything that was started

	mu     sync.Mutex
	closed bool
	empty  chan struct{} // closed when the last slot is free, once closed
	pools  map[string]*pool
	hosts  map[string]*host
	slots  int       // connections that are open, being opened or being closed
	idle   conns     // of all pools, the least recently used first
	hungry list.List // of *pool: those that need one more slot
	count  counters
}

// Open starts a budget without connections. Close ends it.
func Open(config Config, opts *Options) (*Budget, error) {
	if config == nil {
		return nil, errors.New("pgbudget: open: the configuration is nil")
	}
	b := &Budget{config: config, empty: make(chan struct{}), pools: make(map[string]*pool), hosts: make(map[string]*host)}
	if opts != nil {
		b.opts = *opts
	}
	if err := b.opts.complete(); err != nil {
		return nil, err
	}
	b.count.since = b.opts.Now()
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.work.Go(b.sweepUntilClosed)
	return b, nil
}

func (o *Options) complete() error {
	var errs []error
	number := func(name string, n *int, initial int) {
		if *n < 0 {
			errs = append(errs, errors.New("pgbudget: open: Options."+name+" must not be negative"))
		} else if *n == 0 {
			*n = initial
		}
	}
	duration := func(name string, d *time.Duration, initial time.Duration) {
		if *d < 0 {
			errs = append(errs, errors.New("pgbudget: open: Options."+name+" must not be negative"))
		} else if *d == 0 {
			*d = initial
		}
	}
	number("MaxConns", &o.MaxConns, 50)
	number("MaxConnsPerPool", &o.MaxConnsPerPool, 4)
	o.MaxConnsPerPool = min(o.MaxConnsPerPool, o.MaxConns)
	number("MaxPools", &o.MaxPools, 200)
	number("MaxWaiting", &o.MaxWaiting, 1000)
	duration("PoolTTL", &o.PoolTTL, 30*time.Minute)
	duration("MaxConnLifetime", &o.MaxConnLifetime, time.Hour)
	duration("MaxConnIdleTime", &o.MaxConnIdleTime, 5*time.Minute)
	duration("MaxWait", &o.MaxWait, 30*time.Second)
	duration("OpenTimeout", &o.OpenTimeout, 10*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	return errors.Join(errs...)
}

// Close refuses new callers and those that wait, waits until every connection
// was given back, and closes them all.
func (b *Budget) Close() {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		b.cancel()
		for _, p := range b.pools {
			b.fail(p, ErrClosed)
			b.dropIdle(p)
		}
		b.checkEmpty()
	}
	b.mu.Unlock()
	<-b.empty
	b.work.Wait()
}

// checkEmpty lets Close return after the last connection.
func (b *Budget) checkEmpty() {
	if b.closed && b.slots == 0 {
		select {
		case <-b.empty:
		default:
			close(b.empty)
		}
	}
}
