package mcptenant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Options tunes [Authenticate]. The zero value is safe and complete.
type Options struct {
	// ResourceMetadataURL is the absolute URL at which [ProtectedResource]
	// answers; a refused request is told of it (RFC 9728 section 5.1). Set it
	// where a proxy hides the public scheme or host. Defaults to the URL that
	// belongs to the refused request.
	ResourceMetadataURL string

	// Scopes are named in the challenge as what a token should carry. They
	// are not checked here. Defaults to none.
	Scopes []string

	// MaxBodyBytes is the size of the largest request; larger ones are
	// answered 413. Of those larger than 64 KiB, four of one tenant are handled
	// at once, and 32 in all; others wait for BodyTimeout at most, and then are
	// answered 429. Defaults to 4 MiB.
	MaxBodyBytes int64

	// BodyTimeout is how long a request's body may take to arrive: without a
	// bound, a client that sends a byte a second holds a connection and memory
	// for ever. What comes later is answered 408. It begins with the end of the
	// header, and doesn't limit the answer. Defaults to the ReadTimeout of the
	// [http.Server], if it has one, else to 30 s.
	BodyTimeout time.Duration

	// MaxStreams is how many GET streams one tenant may hold open; more are
	// answered 429. Defaults to 256.
	MaxStreams int

	// FailuresPerMinute is how many refused credentials one client address
	// (an IPv6 /64) may present a minute before the answer is 429 with
	// Retry-After. A request without a credential is not counted, and one
	// with a good credential is always served. Defaults to 10.
	FailuresPerMinute int

	// TrustedProxies may name the client's address in X-Forwarded-For.
	// Defaults to none: the address of the connection counts.
	TrustedProxies []netip.Prefix

	// TrustedOrigins are web origins, like https://app.example.com, whose
	// pages may send requests. Requests of any other page are answered 403;
	// programs send no Origin and are not concerned. Defaults to the server's
	// own origin.
	TrustedOrigins []string

	// Now is the clock of the failure limit. Defaults to time.Now.
	Now func() time.Time

	// Logger takes what went wrong in judging a token; never a token.
	// Defaults to none.
	Logger *slog.Logger
}

// recheck is how often the credential of an open stream is judged again.
const recheck = time.Second

// guard is the handler that Authenticate returns.
type guard struct {
	keys     Authenticator
	next     http.Handler
	opts     Options
	origins  *http.CrossOriginProtection
	failures *throttle
	streams  *gate
	large    *gate // bodies
	log      *slog.Logger

	largeInAll chan struct{}
}

// Authenticate returns a handler that lets requests through to next, an MCP
// streamable HTTP handler, when they carry a bearer token that keys accepts.
// What the token says travels in the request's TokenInfo to [Middleware], which
// must be installed on the MCP server.
//
// Refused, in this order: a page of a foreign origin (403), a missing,
// malformed, doubled or unknown credential (401 with a challenge as in RFC 6750
// and RFC 9728, or 429), trouble in judging it (503), a request that is too
// large (413) or too slow (408) and a JSON-RPC batch (400): a batch runs any
// number of calls for one request. A token in the query string is never read. No answer tells why a
// credential was refused.
//
// An open GET stream is closed within a second or so of its credential's
// revocation.
//
// opts may be nil. Authenticate panics if an option is malformed; the message
// names it.
func Authenticate(keys Authenticator, next http.Handler, opts *Options) http.Handler {
	g := &guard{keys: keys}
	if opts != nil {
		g.opts = *opts
	}
	o := &g.opts
	if keys == nil || next == nil {
		panic("mcptenant: Authenticate: keys and next must not be nil")
	}
	if o.MaxBodyBytes < 0 || o.BodyTimeout < 0 || o.MaxStreams < 0 || o.FailuresPerMinute < 0 {
		panic("mcptenant: Authenticate: MaxBodyBytes, BodyTimeout, MaxStreams and FailuresPerMinute must not be negative")
	}
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = 4 << 20
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 256
	}
	if o.FailuresPerMinute == 0 {
		o.FailuresPerMinute = 10
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g.log = logger(o.Logger)
	g.origins = http.NewCrossOriginProtection()
	for _, origin := range o.TrustedOrigins {
		if err := g.origins.AddTrustedOrigin(origin); err != nil {
			panic(fmt.Sprintf("mcptenant: Authenticate: TrustedOrigins: %v", err))
		}
	}
	g.failures = newThrottle(o.FailuresPerMinute)
	g.streams = newGate(o.MaxStreams, 0)
	g.large = newGate(largePerTenant, largeWaiting)
	g.largeInAll = make(chan struct{}, largeInAll)
	// Only RequireBearerToken can put a TokenInfo where the SDK looks for it.
	// Its own refusals echo the verifier's error, so by the time it runs the
	// request has been judged.
	g.next = auth.RequireBearerToken(judged, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})(next)
	return g
}

type judgedKey struct{}

func judged(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
	info, ok := ctx.Value(judgedKey{}).(*auth.TokenInfo)
	if !ok {
		return nil, auth.ErrInvalidToken
	}
	return info, nil
}

// ServeHTTP implements [http.Handler].
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Before anything is refused: net/http reads some of the body of a refused
	// request before it answers.
	g.hurry(w, r)
	if foreign(g.origins, r) {
		refuse(w, http.StatusForbidden, "forbidden_origin", "requests of this web origin are not accepted")
		return
	}
	token, presented, ok := bearer(r)
	if !ok {
		g.unauthorized(w, r, presented)
		return
	}
	info, id, err := authenticate(r.Context(), g.keys, token)
	if err != nil {
		if errors.Is(err, tenant.ErrUnauthenticated) {
			g.unauthorized(w, r, true)
			return
		}
		g.log.LogAttrs(r.Context(), slog.LevelError, "mcptenant: credential could not be judged", slog.Any("err", err))
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "temporarily_unavailable", "authentication is temporarily unavailable, try again")
		return
	}
	done, ok := g.body(w, r, id.tenant.ID)
	defer done()
	if !ok {
		return
	}
	ctx := context.WithValue(r.Context(), judgedKey{}, info)
	if r.Method == http.MethodGet {
		slot, err := g.streams.enter(ctx, id.tenant.ID)
		if err != nil {
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusTooManyRequests, "too_many_streams", "too many open streams for this account")
			return
		}
		defer g.streams.leave(slot)
		var stop func()
		ctx, stop = whileLive(ctx, id)
		defer stop()
	}
	g.next.ServeHTTP(w, r.WithContext(ctx))
}

// hurry bounds the time for reading the body. net/http lifts the bound at the
// body's end; a response that is no connection's has none, which is no error.
func (g *guard) hurry(w http.ResponseWriter, r *http.Request) {
	if g.opts.BodyTimeout == 0 {
		if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && s.ReadTimeout > 0 {
			return
		}
	}
	if r.Body != nil && r.Body != http.NoBody {
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.bodyTimeout()))
	}
}

func (g *guard) bodyTimeout() time.Duration {
	if g.opts.BodyTimeout == 0 {
		return 30 * time.Second
	}
	return g.opts.BodyTimeout
}

// whileLive returns a context that ends when the credential is refused. stop
// ends the watch and waits for it.
func whileLive(ctx context.Context, id *identity) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(recheck)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !id.live(ctx) {
					cancel()
				}
			}
		}
	}()
	return ctx, func() { cancel(); <-done }
}

func (g *guard) unauthorized(w http.ResponseWriter, r *http.Request, presented bool) {
	if presented {
		wait := g.failures.failed(g.opts.Now(), clientAddr(r, g.opts.TrustedProxies))
		if wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
			refuse(w, http.StatusTooManyRequests, "too_many_failures", "too many refused credentials from this address")
			return
		}
	}
	w.Header().Set("WWW-Authenticate", g.challenge(r, presented))
	if presented {
		refuse(w, http.StatusUnauthorized, "invalid_token", "the bearer token is not valid")
		return
	}
	refuse(w, http.StatusUnauthorized, "missing_token", "send a bearer token in the Authorization header")
}

// refuse writes an answer that is the same for everyone. Its arguments are
// constants and need no escaping.
func refuse(w http.ResponseWriter, status int, code, text string) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	io.WriteString(w, `{"error":"`+code+`","error_description":"`+text+`"}`+"\n")
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
