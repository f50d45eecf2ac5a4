package stripetest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options configure an [Emulator]. The zero value is ready for a test.
type Options struct {
	// SecretKey authenticates requests. Defaults to a random "sk_test_...".
	SecretKey string
	// WebhookSecret signs webhooks. Defaults to a random "whsec_...".
	WebhookSecret string
	// WebhookURL is where webhooks are delivered. Empty: nowhere, until
	// [Emulator.SetWebhookURL].
	WebhookURL string

	// StateFile keeps everything, the two secrets included, across restarts:
	// it is written before each answer, so that what a client was told
	// survives a kill -9 of the emulator (not a power cut). What it holds wins
	// over SecretKey and WebhookSecret where those are empty. Empty: memory
	// only.
	StateFile string

	// APIVersion is the layout of webhooks, and of answers to requests without
	// a Stripe-Version. Defaults to 2023-10-16.
	APIVersion string

	// ThinWebhooks sends events without their objects.
	ThinWebhooks bool

	// SummaryLag is how long a meter event is accepted before the summaries
	// show it. Defaults to 0.
	SummaryLag time.Duration

	// RateLimits refuse requests beyond so many. Defaults to none, since a
	// clock that stands still gives no new second.
	RateLimits RateLimits

	// Dunning is what follows when an invoice can't be collected. Defaults to
	// nothing: the subscription stays past_due.
	Dunning Dunning

	// Now is the clock that [Emulator.Advance] adds to. Defaults to time.Now.
	Now func() time.Time

	// Logger hears of every request and delivery, at debug level. Nil
	// discards.
	Logger *slog.Logger
}

// Emulator is the emulated account: an [http.Handler] for both the API
// (/v1/...) and the pages that buyers see. It is safe for concurrent use. Close
// it when done.
type Emulator struct {
	// SecretKey and WebhookSecret are the credentials at the start. Read only.
	SecretKey, WebhookSecret string

	opts  Options
	mux   *http.ServeMux
	log   *slog.Logger
	store *file
	send  *sender

	endpoints map[string]bool // the patterns of the routes

	mu       sync.Mutex
	s        *state
	version  string          // Options.APIVersion as it is now
	lag      time.Duration   // Options.SummaryLag as it is now
	keys     map[string]bool // idempotency keys of requests under way
	meters   map[string]bool // customers and meters of requests under way
	rate     rate
	dueAt    int64 // when something may fall due next; 0: not known
	forgetAt int64 // when to forget what is too old
	faults   []*Fault
	requests map[string]int
}

const newLayout = "2025-03-31" // the API version that moved periods and dropped usage records

// New returns an emulator, with the state of opts.StateFile if that exists.
// Most tests want [NewServer].
func New(opts *Options) (*Emulator, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.APIVersion == "" {
		o.APIVersion = "2023-10-16"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SummaryLag < 0 {
		return nil, errors.New("stripetest: SummaryLag is negative")
	}
	if err := o.Dunning.check(); err != nil {
		return nil, err
	}
	e := &Emulator{
		opts:      o,
		mux:       http.NewServeMux(),
		log:       o.Logger,
		store:     &file{path: o.StateFile},
		endpoints: map[string]bool{},
		version:   o.APIVersion,
		lag:       o.SummaryLag,
		keys:      map[string]bool{},
		meters:    map[string]bool{},
		requests:  map[string]int{},
	}
	var err error
	if e.s, err = e.store.load(); err != nil {
		return nil, fmt.Errorf("stripetest: load state: %w", err)
	}
	e.s.SecretKey = firstOf(o.SecretKey, e.s.SecretKey, "sk_test_"+randomText(32))
	e.s.WebhookSecret = firstOf(o.WebhookSecret, e.s.WebhookSecret, "whsec_"+randomText(32))
	e.SecretKey, e.WebhookSecret = e.s.SecretKey, e.s.WebhookSecret
	e.send = newSender(e, o.WebhookURL, o.ThinWebhooks)
	e.routes()
	e.pages()
	if err := e.store.save(e.s); err != nil {
		return nil, fmt.Errorf("stripetest: save state: %w", err)
	}
	return e, nil
}

// Close ends the delivery of webhooks and waits for the one under way.
func (e *Emulator) Close() { e.send.close() }

// ServeHTTP implements [http.Handler].
func (e *Emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.mux.ServeHTTP(w, r) }

// Now is the emulator's clock.
func (e *Emulator) Now() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now()
}

// now needs e.mu.
func (e *Emulator) now() time.Time { return e.opts.Now().Add(e.s.Offset).UTC() }

// Advance moves the emulator's clock, and does what falls due on the way, in
// its order: periods end, drafts are finalised, checkouts expire. Customers on
// a test clock of the API keep their own time. Webhook signatures keep the time
// of Options.Now, as with Stripe's test clocks.
func (e *Emulator) Advance(d time.Duration) {
	if d < 0 {
		panic("stripetest: Advance: time only goes forward")
	}
	e.change(func() {
		e.s.Offset += d
		e.roll()
	})
}

// SetSummaryLag changes Options.SummaryLag for the meter events that come from
// now on.
func (e *Emulator) SetSummaryLag(lag time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lag = lag
}

// change runs f under the lock, keeps what it did, and sends its webhooks.
func (e *Emulator) change(f func()) {
	e.mu.Lock()
	e.dueAt = 0
	f()
	err := e.store.save(e.s)
	e.mu.Unlock()
	if err != nil {
		e.log.Error("state not saved", "err", err)
	}
	e.send.wake()
}

// Requests counts the API requests so far whose method and path are those,
// like "POST /v1/billing/meter_events"; those that a fault met count too.
func (e *Emulator) Requests(methodAndPath string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests[methodAndPath]
}

func firstOf(candidates ...string) string {
	for _, s := range candidates {
		if s != "" {
			return s
		}
	}
	return ""
}

// randomText returns n letters and digits.
func randomText(n int) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var b strings.Builder
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails since Go 1.24
	for _, c := range raw {
		b.WriteByte(alphabet[int(c)%len(alphabet)])
	}
	return b.String()
}

func newID(prefix string) string { return prefix + randomText(24) }
