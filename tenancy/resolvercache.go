package tenancy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// CachedResolver remembers what another resolver found, so that a secrets
// manager is asked once in a while, and may be away for a while. It is safe for
// concurrent use.
//
// A URL that the database's server refuses is forgotten and found anew before
// any caller hears of it, so that a password that was changed fails no call.
type CachedResolver struct {
	inner    Resolver
	ttl      time.Duration
	maxStale time.Duration
	log      *slog.Logger
	now      func() time.Time

	mu      sync.Mutex
	entries map[string]*cachedURL
	prune   int // at how many entries to look for old ones
}

// CachedResolverOptions configure [NewCachedResolver]. The zero value is the
// default.
type CachedResolverOptions struct {
	// TTL is how long a URL is used without asking again.
	// Defaults to 5 minutes.
	TTL time.Duration

	// MaxStale is for how long after that it is used while the other resolver
	// fails.
	// Defaults to an hour.
	MaxStale time.Duration

	// Logger gets one record for each database when an old URL begins to be used
	// because the other resolver fails.
	// Defaults to none.
	Logger *slog.Logger

	// Now is the clock.
	// Defaults to time.Now.
	Now func() time.Time
}

// cachedURL is what is known of one database.
type cachedURL struct {
	url    string // empty if there is none
	found  time.Time
	asked  time.Time // when the other resolver failed last, if it did since then
	asking *asking   // nil if nobody does
}

// asking is one question to the other resolver, whose answer is everybody's.
type asking struct {
	done chan struct{} // closed with the answer
	url  string
	err  error
}

// staleRetry is how long an old URL is used, after the other resolver failed,
// until it is asked again.
const staleRetry = 10 * time.Second

// minPrune is a number of entries that isn't worth looking at.
const minPrune = 1024

// NewCachedResolver returns a resolver that remembers what inner finds.
func NewCachedResolver(inner Resolver, opts *CachedResolverOptions) (*CachedResolver, error) {
	if opts == nil {
		opts = &CachedResolverOptions{}
	}
	switch {
	case inner == nil:
		return nil, errors.New("tenancy: new cached resolver: the resolver is nil")
	case opts.TTL < 0:
		return nil, errors.New("tenancy: new cached resolver: CachedResolverOptions.TTL must not be negative")
	case opts.MaxStale < 0:
		return nil, errors.New("tenancy: new cached resolver: CachedResolverOptions.MaxStale must not be negative")
	}
	c := &CachedResolver{inner: inner, ttl: opts.TTL, maxStale: opts.MaxStale, log: opts.Logger, now: opts.Now,
		entries: make(map[string]*cachedURL), prune: minPrune}
	if c.ttl == 0 {
		c.ttl = 5 * time.Minute
	}
	if c.maxStale == 0 {
		c.maxStale = time.Hour
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// Resolve returns the URL that is remembered, or asks for it. Callers of one
// database ask once between them; while an old URL will do, only the first of
// them waits for the answer.
func (c *CachedResolver) Resolve(ctx context.Context, ref string) (string, error) {
	for {
		c.mu.Lock()
		now := c.now()
		e := c.entry(ref, now)
		age := now.Sub(e.found)
		usable := e.url != "" && age < c.ttl+c.maxStale
		if usable && (age < c.ttl || e.asking != nil || now.Sub(e.asked) < staleRetry) {
			defer c.mu.Unlock()
			return e.url, nil
		}
		if a := e.asking; a != nil {
			c.mu.Unlock()
			select {
			case <-a.done:
			case <-ctx.Done():
				return "", resolveError(ref, ctx.Err())
			}
			if a.err == nil || !errors.Is(a.err, context.Canceled) && !errors.Is(a.err, context.DeadlineExceeded) {
				return a.url, a.err
			}
			if err := ctx.Err(); err != nil {
				return "", resolveError(ref, err)
			}
			continue // it was the patience of whoever asked that ended
		}
		a := &asking{done: make(chan struct{}), err: &ResolveError{Ref: ref, Reason: "the resolver panicked"}}
		e.asking = a
		c.mu.Unlock()
		return c.ask(ctx, ref, e, a)
	}
}

// ask asks the other resolver, and falls back on an old URL.
func (c *CachedResolver) ask(ctx context.Context, ref string, e *cachedURL, a *asking) (string, error) {
	defer close(a.done) // also if the resolver panics
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.asking = nil
	}()
	a.url, a.err = resolve(ctx, c.inner, ref)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if a.err == nil {
		e.url, e.found, e.asked = a.url, now, time.Time{}
		return a.url, nil
	}
	if e.url == "" || now.Sub(e.found) >= c.ttl+c.maxStale {
		return "", a.err
	}
	if e.asked.IsZero() {
		c.log.LogAttrs(ctx, slog.LevelWarn, "an old database URL is used: no newer one could be found",
			slog.String("database", ref), slog.Any("err", a.err))
	}
	e.asked = now
	a.url, a.err = e.url, nil
	return a.url, nil
}

// Forget makes the next [CachedResolver.Resolve] ask: what was found so far was
// refused, and whoever is asking now may have begun before it was changed.
func (c *CachedResolver) Forget(ref string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, ref)
}

// entry returns what is known of a database.
func (c *CachedResolver) entry(ref string, now time.Time) *cachedURL {
	e, ok := c.entries[ref]
	if ok {
		return e
	}
	if len(c.entries) >= c.prune {
		for ref, e := range c.entries {
			if e.asking == nil && now.Sub(e.found) >= c.ttl+c.maxStale {
				delete(c.entries, ref)
			}
		}
		c.prune = max(minPrune, 2*len(c.entries))
	}
	e = &cachedURL{}
	c.entries[ref] = e
	return e
}
