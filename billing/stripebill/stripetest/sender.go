package stripetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
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
	thin    bool
	held    bool
	started bool
	fate    func(Event) Fate
}

func newSender(e *Emulator, url string, thin bool) *sender {
	ctx, cancel := context.WithCancel(context.Background())
	return &sender{
		e: e, url: url, thin: thin, ctx: ctx, cancel: cancel, signal: make(chan struct{}, 1),
		client: &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

func (s *sender) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url != ""
}

func (s *sender) isThin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.thin
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
		id, wait := s.due()
		if id != "" {
			s.deliver(id)
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

// due returns the oldest event whose time has come, or how long to wait.
func (s *sender) due() (id string, wait time.Duration) {
	s.mu.Lock()
	held := s.held || s.url == ""
	s.mu.Unlock()
	wait = time.Hour
	if held {
		return "", wait
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	now := time.Now()
	for _, o := range s.e.s.Events.all() {
		if !o.Pending {
			continue
		}
		if !o.next.After(now) {
			return o.ID, 0
		}
		wait = min(wait, o.next.Sub(now))
	}
	return "", wait
}

// deliver attempts an event as its fate will have it.
func (s *sender) deliver(id string) {
	switch s.fateOf(id) {
	case Lost:
		s.e.change(func() {
			if o, ok := s.e.s.Events.get(id); ok && o.Pending { // not delivered by hand meanwhile
				o.Pending, o.Failed = false, true
			}
		})
		return
	case Late:
		return
	case Doubled:
		if status, err := s.attempt(s.ctx, id, true); err == nil && taken(status) {
			_, _ = s.attempt(s.ctx, id, false)
		}
	default:
		_, _ = s.attempt(s.ctx, id, false)
	}
	s.e.change(func() { // what is late comes after the one that overtook it
		for _, o := range s.e.s.Events.all() {
			if o.Pending && o.fate != nil && *o.fate == Late && o.Attempts == 0 {
				o.next = time.Time{}
			}
		}
	})
}

// fateOf asks once for each event. What is late is put off the first time, and
// prompt the second.
func (s *sender) fateOf(id string) Fate {
	s.mu.Lock()
	decide, thin := s.fate, s.thin
	s.mu.Unlock()
	s.e.mu.Lock()
	o, ok := s.e.s.Events.get(id)
	if !ok || o.fate != nil || decide == nil {
		defer s.e.mu.Unlock()
		if ok && o.fate != nil && *o.fate == Doubled {
			return Doubled // the first attempts were refused
		}
		return Prompt
	}
	seen := o.public(thin)
	s.e.mu.Unlock()
	fate := decide(seen) // without a lock: it may call the emulator
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	o.fate = &fate
	if fate == Late {
		o.next = time.Now().Add(time.Second)
	}
	return fate
}

// attempt delivers an event once and records how it went. One that is to come
// again stays pending when it is taken.
func (s *sender) attempt(ctx context.Context, id string, again bool) (int, error) {
	s.mu.Lock()
	url, thin := s.url, s.thin
	s.mu.Unlock()
	s.e.mu.Lock()
	o, known := s.e.s.Events.get(id)
	var payload []byte
	var signature string
	if known {
		payload = o.payload(thin)
		signature = s.e.signature(payload)
	}
	s.e.mu.Unlock()
	if !known {
		return 0, fmt.Errorf("stripetest: no event %.40q", id)
	}
	status, err := s.post(ctx, url, payload, signature)
	if ctx.Err() != nil {
		return status, err // ended by us, not refused
	}
	ok := err == nil && taken(status)
	s.e.log.Debug("webhook", "event", id, "status", status, "err", err)
	s.e.change(func() {
		if ok {
			s.e.heard(o)
		}
		if ok {
			o.Failed = false
		}
		if !o.Pending || ok && again {
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

func taken(status int) bool { return status >= 200 && status < 300 }

func (s *sender) post(ctx context.Context, url string, payload []byte, signature string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	req.Header.Set("Stripe-Signature", signature)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, nil
}
