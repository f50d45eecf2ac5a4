package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Endpoint is where a tenant wants to be told.
type Endpoint struct {
	URL string

	// Secrets sign what is sent, the newest first: "whsec_" and 24 to 64 bytes
	// in base64. Several while the receiver changes from one to the next.
	Secrets []string
}

// Endpoints finds the endpoint of a tenant; the zero Endpoint is none. It is
// asked each time that something is sent.
type Endpoints interface {
	Endpoint(ctx context.Context, id tenant.ID) (Endpoint, error)
}

// EndpointsFunc makes a function Endpoints.
type EndpointsFunc func(ctx context.Context, id tenant.ID) (Endpoint, error)

// Endpoint calls f.
func (f EndpointsFunc) Endpoint(ctx context.Context, id tenant.ID) (Endpoint, error) {
	return f(ctx, id)
}

// Message is what a tenant is told.
type Message struct {
	ID   string    // the same when it is sent again
	Type string    // "usage.threshold_reached"
	Time time.Time // when it happened
	Data any       // what encoding/json takes
}

// Options are the settings of a [Sender]. The zero value works.
type Options struct {
	// Ports are those that may be connected to. Defaults to 443.
	Ports []uint16

	// Allow are networks that are sent to, on any port, although they are not
	// the public internet: those of receivers of your own. Defaults to none.
	Allow []netip.Prefix

	// AllowHTTP lets an endpoint do without TLS: what is sent can then be read
	// by others on the way.
	AllowHTTP bool

	// Timeout is how long one Send may take. Defaults to 10 s.
	Timeout time.Duration

	// UserAgent is the header of this name. Defaults to "mcpsaas".
	UserAgent string

	// Now is the local clock. Defaults to time.Now.
	Now func() time.Time
}

const (
	maxBody   = 256 << 10 // of what is sent
	maxAnswer = 16 << 10  // of what is read of the answer, and thrown away
	maxHeader = 64 << 10  // of the answer's header
)

// Sender sends webhooks. It is safe for concurrent use.
type Sender struct {
	endpoints Endpoints
	dialer    *net.Dialer
	transport *http.Transport
	client    *http.Client
	ports     map[uint16]bool
	allow     []netip.Prefix
	plain     bool
	timeout   time.Duration
	agent     string
	now       func() time.Time
}

// NewSender returns a sender to endpoints. It reports every mistake in opts by
// the name of its field. Nil opts mean the defaults.
func NewSender(endpoints Endpoints, opts *Options) (*Sender, error) {
	if opts == nil {
		opts = &Options{}
	}
	s := &Sender{
		endpoints: endpoints, ports: make(map[uint16]bool), allow: slices.Clone(opts.Allow), plain: opts.AllowHTTP,
		timeout: opts.Timeout, agent: opts.UserAgent, now: opts.Now,
	}
	for _, port := range opts.Ports {
		s.ports[port] = true
	}
	if len(opts.Ports) == 0 {
		s.ports[443] = true
	}
	if s.timeout == 0 {
		s.timeout = 10 * time.Second
	}
	if s.agent == "" {
		s.agent = "mcpsaas"
	}
	if s.now == nil {
		s.now = time.Now
	}
	var errs []error
	if endpoints == nil {
		errs = append(errs, errors.New("endpoints is nil"))
	}
	if s.ports[0] {
		errs = append(errs, errors.New("Ports: 0 is no port"))
	}
	for i, p := range s.allow {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("Allow[%d]: is no network", i))
		}
	}
	if s.timeout < 0 {
		errs = append(errs, fmt.Errorf("Timeout: %v is negative", s.timeout))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("alert: configure sender: %w", err)
	}
	s.dialer = &net.Dialer{Control: s.control}
	s.transport = &http.Transport{
		DialContext:            s.dialer.DialContext, // and no Proxy: it would connect for us, to wherever
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		DisableKeepAlives:      true, // each connection is looked at when it is opened
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	s.client = &http.Client{
		Transport:     s.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, nil
}

// Send sends a message to the tenant's endpoint, once; a tenant without one is
// told nothing. It returns nil if the receiver has taken the message (2xx).
// After an error it may have taken it all the same: whoever sends it again uses
// the same ID. Errors tell neither the address nor what the receiver answered;
// [ErrRefused] is matched where the fault is the endpoint's.
func (s *Sender) Send(ctx context.Context, id tenant.ID, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	to, err := s.endpoints.Endpoint(ctx, id)
	if err != nil {
		return fmt.Errorf("alert: find endpoint: %w", err)
	}
	if to.URL == "" {
		return nil
	}
	url, err := s.parse(to.URL)
	if err != nil {
		return err
	}
	body, err := json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      any       `json:"data"`
	}{m.Type, m.Time.UTC(), m.Data})
	if err != nil {
		return fmt.Errorf("alert: encode message: %w", err)
	}
	if len(body) > maxBody {
		return fmt.Errorf("alert: message has %d bytes: want at most %d", len(body), maxBody)
	}
	now := s.now()
	signature, err := sign(to.Secrets, m.ID, now, body)
	if err != nil {
		return fmt.Errorf("alert: sign message: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: no URL", ErrRefused)
	}
	req.GetBody = nil // what was sent is not sent again behind our back
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set("Webhook-Id", m.ID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", signature)
	res, err := s.client.Do(req)
	if err != nil {
		return unreachable(ctx, err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // the answer is its status
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("alert: receiver answered with status %d", res.StatusCode)
	}
	return nil
}

// unreachable says why nothing was sent, without the addresses that the errors of
// package net tell.
func unreachable(ctx context.Context, err error) error {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.Is(err, ErrRefused):
		return fmt.Errorf("%w: it leads to a port, or to an address, that is not sent to", ErrRefused)
	case ctx.Err() != nil:
		return fmt.Errorf("alert: receiver didn't answer: %w", ctx.Err())
	case errors.As(err, &dns):
		return errors.New("alert: receiver's name can't be resolved")
	case errors.As(err, &cert):
		return errors.New("alert: receiver's certificate is not valid")
	default:
		return errors.New("alert: receiver can't be reached")
	}
}
