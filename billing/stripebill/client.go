package stripebill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// Provider is the name of this provider in billing.Target.
const Provider = "stripe"

// Options configure a [Client].
type Options struct {
	// APIBase is where Stripe's API is, without a path: an emulator's URL in
	// tests. Defaults to https://api.stripe.com.
	APIBase string

	// APIVersion is sent as Stripe-Version. Legacy usage records exist before
	// 2025-03-31 only. Defaults to 2023-10-16.
	APIVersion string

	// HTTPClient makes the requests. Redirects should not be followed.
	// Defaults to a client of its own with a timeout of 15 seconds.
	HTTPClient *http.Client

	// Namespace sets this product's objects apart from others in the same
	// Stripe account: it begins the lookup keys and product ids of the catalog
	// and the idempotency keys. Lower-case letters, digits, '-' and '_', at
	// most 40. Defaults to "mcpsaas".
	Namespace string

	// Logger hears of webhooks that were refused and of catalog changes. Nil
	// discards.
	Logger *slog.Logger

	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Client speaks to one Stripe account. It is safe for concurrent use, holds no
// goroutine, and never retries: whoever calls knows what a repetition means.
type Client struct {
	gate      *gateway
	namespace string
	test      bool
	log       *slog.Logger
	now       func() time.Time
	success   atomic.Int64 // Unix nanoseconds of the last answer
}

var (
	namespaceForm = regexp.MustCompile(`^[a-z0-9_-]{1,40}$`)
	versionForm   = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(\.[a-z]+)?$`)
)

// New returns a client that authenticates with secretKey ("sk_..." or a
// restricted "rk_..."). It makes no request; see [Client.Check].
func New(secretKey string, opts *Options) (*Client, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	var errs []error
	if !strings.HasPrefix(secretKey, "sk_") && !strings.HasPrefix(secretKey, "rk_") ||
		strings.ContainsFunc(secretKey, func(r rune) bool { return r <= ' ' || r > '~' }) {
		// The key itself is never quoted: a mistyped secret is still a secret.
		errs = append(errs, errors.New("secret key: want one that begins with sk_ or rk_"))
	}
	if o.APIBase == "" {
		o.APIBase = "https://api.stripe.com"
	}
	if u, err := url.Parse(o.APIBase); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		errs = append(errs, errors.New("APIBase: want a URL of scheme and host alone"))
	}
	if o.APIVersion != "" && !versionForm.MatchString(o.APIVersion) {
		errs = append(errs, fmt.Errorf("APIVersion %.20q: want a date like 2023-10-16", o.APIVersion))
	}
	if o.Namespace == "" {
		o.Namespace = "mcpsaas"
	}
	if !namespaceForm.MatchString(o.Namespace) {
		errs = append(errs, fmt.Errorf("Namespace %.50q: want 1 to 40 of a-z, 0-9, '-' and '_'", o.Namespace))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("stripebill: configure client: %w", err)
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{
			Timeout:       15 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Client{
		gate:      newGateway(secretKey, o.APIBase, o.APIVersion, o.HTTPClient),
		namespace: o.Namespace,
		test:      strings.HasPrefix(secretKey[2:], "_test_"),
		log:       o.Logger,
		now:       o.Now,
	}, nil
}

// Check makes one cheap request and returns nil when Stripe takes the
// credential. The error matches [ErrUnauthorized] when it does not.
func (c *Client) Check(ctx context.Context) error {
	if _, err := readList[price](ctx, c, "/v1/prices", url.Values{"limit": {"1"}}); err != nil {
		return fmt.Errorf("stripebill: check: %w", err)
	}
	return nil
}

// LastSuccess is when Stripe last answered a request of this client with
// success; zero when it never has.
func (c *Client) LastSuccess() time.Time {
	if ns := c.success.Load(); ns != 0 {
		return time.Unix(0, ns).UTC()
	}
	return time.Time{}
}

// post writes. An empty key lets stripe-go draw a random one, which protects
// nothing: it is for writes that are idempotent by themselves.
func (c *Client) post(ctx context.Context, path, key string, form url.Values, out any) error {
	_, err := c.do(ctx, request{method: http.MethodPost, path: path, form: form, idempotencyKey: key}, out)
	return err
}

func (c *Client) do(ctx context.Context, r request, out any) (response, error) {
	resp, err := c.gate.call(ctx, r, out)
	if err == nil {
		c.success.Store(c.now().UnixNano())
	}
	return resp, err
}

// create posts form under the idempotency key. A failure that Stripe has saved
// under it would come back for a day, whoever asks; so unless done says that
// the work was done all the same, it goes on to the next of three keys.
func (c *Client) create(ctx context.Context, path, key string, form url.Values, out any, done func() bool) error {
	var err error
	for _, suffix := range []string{"", ":2", ":3"} {
		err = c.post(ctx, path, key+suffix, form, out)
		if refused, ok := errors.AsType[*APIError](err); !ok || refused.Status < http.StatusInternalServerError {
			return err
		}
		if done() {
			return nil
		}
	}
	return err
}
