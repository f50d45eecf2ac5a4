package stripetest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// maxAttempts bounds the deliveries of one event: with waits that double from
// 100 ms to 10 s, about ten minutes.
const maxAttempts = 60

// sender delivers webhooks, one at a time, in one goroutine that begins with
// the first event and ends with close.
type sender struct {
	e      *Emulator
	client *http.Client
	ctx    context.Context // of the goroutine; ends with close
	cancel context.CancelFunc
	done   sync.WaitGroup
	signal chan struct{}

	mu      sync.Mutex // may be taken under e.mu, never the other way round
	url     string
	held    bool
	started bool
}

func newSender(e *Emulator, url string) *sender {
	ctx, cancel := context.WithCancel(context.Background())
	return &sender{
		e: e, url: url, ctx: ctx, cancel: cancel, signal: make(chan struct{}, 1),
		client: &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

func (s *sender) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url != ""
}

// wake starts the goroutine if need be, and lets it look for work.
func (s *sender) wake() {
	s.mu.Lock()
	if !s.started && s.url != "" && s.ctx.Err() == nil {
		s.started = true
		s.done.Go(s.run)
	}
	s.mu.Unlock()
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

func (s *sender) close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.done.Wait()
	s.client.CloseIdleConnections()
}

func (s *sender) run() {
	for s.ctx.Err() == nil {
		o, wait := s.due()
		if o != nil {
			_, _ = s.attempt(s.ctx, o.id, o.payload)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.ctx.Done():
		case <-s.signal:
		case <-timer.C:
		}
		timer.Stop()
	}
}

type outgoing struct {
	id      string
	payload []byte
}

// due returns the oldest event whose time has come, or how long to wait.
func (s *sender) due() (*outgoing, time.Duration) {
	s.mu.Lock()
	held := s.held || s.url == ""
	s.mu.Unlock()
	wait := time.Hour
	if held {
		return nil, wait
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	now := time.Now()
	for _, o := range s.e.s.Events.all() {
		if !o.Pending {
			continue
		}
		if !o.next.After(now) {
			return &outgoing{o.ID, o.payload()}, 0
		}
		wait = min(wait, o.next.Sub(now))
	}
	return nil, wait
}

// attempt delivers an event once and records how it went.
func (s *sender) attempt(ctx context.Context, id string, payload []byte) (int, error) {
	s.mu.Lock()
	url := s.url
	s.mu.Unlock()
	status, err := s.post(ctx, url, payload)
	if ctx.Err() != nil {
		return status, err // ended by us, not refused
	}
	ok := err == nil && status >= 200 && status < 300
	s.e.log.Debug("webhook", "event", id, "status", status, "err", err)
	s.e.change(func() {
		o, known := s.e.s.Events.get(id)
		if !known || !o.Pending {
			return
		}
		o.Attempts++
		if ok || o.Attempts >= maxAttempts {
			o.Pending, o.Failed = false, !ok
			return
		}
		o.next = time.Now().Add(min(10*time.Second, 100*time.Millisecond<<min(o.Attempts-1, 10)))
	})
	return status, err
}

func (s *sender) post(ctx context.Context, url string, payload []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	req.Header.Set("Stripe-Signature", Sign(payload, s.e.WebhookSecret, s.e.opts.Now()))
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, nil
}

// Sign makes the Stripe-Signature header of a webhook
// (https://docs.stripe.com/webhooks#verify-manually).
func Sign(payload []byte, secret string, at time.Time) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(payload)
	return "t=" + stamp + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// SetWebhookURL chooses where webhooks go from now on; events of before are
// not delivered unless they were pending.
func (e *Emulator) SetWebhookURL(url string) {
	e.send.mu.Lock()
	e.send.url = url
	e.send.mu.Unlock()
	e.send.wake()
}

// HoldWebhooks keeps events from being delivered, until
// [Emulator.ReleaseWebhooks]. Meanwhile [Emulator.Deliver] delivers them in
// any order, as often as you like.
func (e *Emulator) HoldWebhooks() {
	e.send.mu.Lock()
	e.send.held = true
	e.send.mu.Unlock()
}

// ReleaseWebhooks delivers what was held back and still is undelivered, oldest
// first.
func (e *Emulator) ReleaseWebhooks() {
	e.send.mu.Lock()
	e.send.held = false
	e.send.mu.Unlock()
	e.send.wake()
}

// Deliver sends one event now, whether or not it was sent before, and returns
// the endpoint's status. An event that was answered with 2xx isn't pending any
// more.
func (e *Emulator) Deliver(ctx context.Context, eventID string) (status int, err error) {
	e.mu.Lock()
	o, ok := e.s.Events.get(eventID)
	var payload []byte
	if ok {
		payload = o.payload()
	}
	e.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("stripetest: no event %.40q", eventID)
	}
	if !e.send.connected() {
		return 0, fmt.Errorf("stripetest: deliver %s: no webhook URL", eventID)
	}
	return e.send.attempt(ctx, eventID, payload)
}

// Undelivered returns the ids of the events that wait to be delivered, oldest
// first.
func (e *Emulator) Undelivered() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, o := range e.s.Events.all() {
		if o.Pending {
			out = append(out, o.ID)
		}
	}
	return out
}
