package apikey

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgfeed"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Why [Store.Authenticate] refuses a token. All of them match
// [tenant.ErrUnauthenticated] and are for counting; to the outside they are the
// same.
var (
	ErrMalformed = refusal("malformed key")
	ErrUnknown   = refusal("unknown key")
	ErrExpired   = refusal("expired key")
	ErrRevoked   = refusal("revoked key")
)

func refusal(why string) error {
	return fmt.Errorf("apikey: %s: %w", why, tenant.ErrUnauthenticated)
}

// ErrNotReady means that a token can't be judged yet: the keys have not been
// loaded, or the tenant of a good key is not in the directory.
var ErrNotReady = errors.New("apikey: not ready")

// Directory knows the tenants, in memory.
type Directory interface {
	// Lookup returns the tenant with its plan and status of now.
	Lookup(tenant.ID) (tenant.Tenant, bool)
}

// Options tunes a [Store]. The zero value is the default.
type Options struct {
	// Env stands in every token and tells those of one installation from
	// those of another: up to 16 lower-case letters and digits. A token of
	// another Env is refused. Defaults to live.
	Env string

	// HandoffTTL is how long the first key of a tenant can be claimed.
	// Defaults to 24 h.
	HandoffTTL time.Duration

	// Now is the clock that keys expire by. Defaults to time.Now.
	Now func() time.Time

	// Logger takes what goes wrong in the background. Defaults to none.
	Logger *slog.Logger
}

// Store issues, judges and revokes the API keys of all tenants. Keys are judged
// from memory, which follows the table by less than a second; while the
// database is away the keys of before go on working. Its methods are safe for
// concurrent use.
type Store struct {
	pool      *pgxpool.Pool
	directory Directory
	peppers   []*pepper // the first is for new keys
	opts      Options
	feed      *pgfeed.Feed
	memory    memory

	mu      sync.Mutex
	touched map[keyID]time.Time // uses that are not written yet
}

// New returns a store on pool, whose role must have rights on schema mcpsaas.
//
// peppers are server secrets of at least 32 bytes each. The first is used for
// new keys, the others for keys that were made with them: to rotate, put the
// new one first and drop the old one when [Store.List] shows no live key older
// than the change. Losing a pepper loses its keys.
//
// New does no I/O; [Store.Run] must be running for the store to be of use.
func New(pool *pgxpool.Pool, directory Directory, peppers [][]byte, opts *Options) (*Store, error) {
	s := &Store{pool: pool, directory: directory, touched: make(map[keyID]time.Time)}
	s.memory.keys = make(map[keyID]*entry)
	if opts != nil {
		s.opts = *opts
	}
	var problems []error
	if pool == nil || directory == nil {
		problems = append(problems, errors.New("pool and directory are required"))
	}
	if len(peppers) == 0 {
		problems = append(problems, errors.New("peppers: at least one is required"))
	}
	for i, secret := range peppers {
		p, err := newPepper(secret)
		if err != nil {
			problems = append(problems, fmt.Errorf("peppers: number %d: %w", i+1, err))
			continue
		}
		s.peppers = append(s.peppers, p)
	}
	if s.opts.Env == "" {
		s.opts.Env = "live"
	}
	if !validEnv(s.opts.Env) {
		problems = append(problems, fmt.Errorf("Options.Env %q: want 1 to %d lower-case letters and digits", s.opts.Env, maxEnv))
	}
	if s.opts.HandoffTTL < 0 {
		problems = append(problems, errors.New("Options.HandoffTTL must not be negative"))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("apikey: new store: %w", errors.Join(problems...))
	}
	if s.opts.HandoffTTL == 0 {
		s.opts.HandoffTTL = 24 * time.Hour
	}
	if s.opts.Now == nil {
		s.opts.Now = time.Now
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	s.feed, err = pgfeed.New(pool, pgfeed.Source[*entry]{
		Query:   feedSQL,
		Scan:    s.scan,
		Apply:   func(rows []*entry, full bool) { s.memory.apply(rows, full, s.opts.Now()) },
		Channel: channel,
	}, &pgfeed.Options{Logger: s.opts.Logger})
	if err != nil {
		return nil, fmt.Errorf("apikey: new store: %w", err)
	}
	return s, nil
}

func (s *Store) pepper(id string) *pepper {
	for _, p := range s.peppers {
		if p.id == id {
			return p
		}
	}
	return nil
}

// Authenticate returns the tenant that token belongs to, with the plan and
// status of now, the key's id as Subject and the key's Scopes. It does no I/O.
//
// The tenant of a good key may be one that isn't served, such as a suspended
// one, or one that is still provisioning and is being probed: what that means
// is the caller's to say. The keys of a tenant that is gone are refused. An
// error that doesn't match [tenant.ErrUnauthenticated] means that the token
// can't be judged now.
//
// A token takes the same time whether its key exists or not.
func (s *Store) Authenticate(_ context.Context, token string) (tenant.Tenant, error) {
	p := s.peppers[0]
	d := p.hashes.Get().(*digest)
	id, ok := parse(token, s.opts.Env, &d.buf)
	if !ok {
		p.hashes.Put(d)
		return tenant.Tenant{}, ErrMalformed
	}
	e := s.memory.get(id)
	if e != nil && e.pepper != nil && e.pepper != p {
		p.hashes.Put(d)
		p = e.pepper
		d = p.hashes.Get().(*digest)
	}
	var want [len(d.sum)]byte // what an unknown key is compared with
	if e != nil {
		want = e.hash
	}
	p.hash(d, token)
	match := subtle.ConstantTimeCompare(d.sum[:], want[:]) == 1
	p.hashes.Put(d)
	switch {
	case e == nil && !s.memory.loaded.Load():
		return tenant.Tenant{}, ErrNotReady
	case e == nil || !match:
		return tenant.Tenant{}, ErrUnknown
	case !e.revoked.IsZero():
		return tenant.Tenant{}, ErrRevoked
	}
	now := s.opts.Now()
	if e.dead(now) {
		return tenant.Tenant{}, ErrExpired
	}
	t, ok := s.directory.Lookup(e.tenant)
	if !ok {
		return tenant.Tenant{}, ErrNotReady
	}
	if t.Status.Gone() {
		return tenant.Tenant{}, ErrRevoked
	}
	s.touch(e, now)
	t.Subject = e.subject
	t.Scopes = e.scopes
	return t, nil
}

// Ready waits until the keys have been loaded once, or ctx is done.
func (s *Store) Ready(ctx context.Context) error { return s.feed.Ready(ctx) }

// Check reports whether the keys in memory are those of now: it fails before
// the first load, while the database can't be followed, and when keys are alive
// whose pepper is not configured here. It does no I/O.
func (s *Store) Check(ctx context.Context) error {
	if err := s.feed.Check(ctx); err != nil {
		return fmt.Errorf("apikey: %w", err)
	}
	now, orphans := s.opts.Now(), 0
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	for _, e := range s.memory.keys {
		if e.pepper == nil && !e.dead(now) {
			orphans++
		}
	}
	if orphans > 0 {
		return fmt.Errorf("apikey: %d live keys were made with a pepper that is not configured", orphans)
	}
	return nil
}
