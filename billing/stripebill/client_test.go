package stripebill_test

import (
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

func TestNewNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		key  string
		opts stripebill.Options
		want string
	}{
		"no key":            {"", stripebill.Options{}, "secret key"},
		"publishable key":   {"pk_test_abc", stripebill.Options{}, "secret key"},
		"key with newline":  {"sk_test_abc\n", stripebill.Options{}, "secret key"},
		"base with path":    {"sk_test_abc", stripebill.Options{APIBase: "https://api.stripe.com/v1"}, "APIBase"},
		"base without host": {"sk_test_abc", stripebill.Options{APIBase: "localhost:12111"}, "APIBase"},
		"version":           {"sk_test_abc", stripebill.Options{APIVersion: "latest"}, "APIVersion"},
		"namespace":         {"sk_test_abc", stripebill.Options{Namespace: "My Shop"}, "Namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := stripebill.New(tt.key, &tt.opts)
			require.ErrorContains(t, err, tt.want)
			if tt.key != "" {
				require.NotContains(t, err.Error(), strings.TrimSpace(tt.key))
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	require.True(t, w.client.LastSuccess().IsZero())
	require.NoError(t, w.client.Check(t.Context()))
	require.Equal(t, start, w.client.LastSuccess())

	stranger, err := stripebill.New("sk_test_wrongsecret", &stripebill.Options{APIBase: w.stripe.URL})
	require.NoError(t, err)
	err = stranger.Check(t.Context())
	require.ErrorIs(t, err, stripebill.ErrUnauthorized)
	require.NotContains(t, err.Error(), "cret", "Stripe's message quotes the end of the key")
	require.True(t, stranger.LastSuccess().IsZero())
}

// TestErrorsHideTheNetwork: an error goes to logs and health answers, so it has
// neither address, URL nor body.
func TestErrorsHideTheNetwork(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	host := strings.TrimPrefix(w.stripe.URL, "http://")
	for name, tt := range map[string]struct {
		kind stripetest.FaultKind
		want string
	}{
		"dropped":   {stripetest.DropBefore, "connection lost"},
		"html":      {stripetest.BadGateway, "unreadable answer"},
		"truncated": {stripetest.Truncated, "unreadable answer"},
		"foreign":   {stripetest.Foreign, "not Stripe's"},
		"redirect":  {stripetest.Redirected, "unreadable answer"},
	} {
		w.stripe.Inject(stripetest.Fault{Kind: tt.kind})
		err := w.client.Check(t.Context())
		require.ErrorContains(t, err, tt.want, name)
		for _, secret := range []string{host, "127.0.0.1", "http", "Gateway", "network", w.stripe.SecretKey} {
			require.NotContains(t, err.Error(), secret, name)
		}
	}
	w.stripe.Close()
	err := w.client.Check(t.Context())
	require.ErrorContains(t, err, "no connection")
	require.NotContains(t, err.Error(), "127.0.0.1")
}

// TestTimeout: the time-out of the HTTP client is the end of it; nothing is
// tried again.
func TestTimeout(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Slow, Delay: time.Hour})
	var tries counting
	short, err := stripebill.New(w.stripe.SecretKey, &stripebill.Options{
		APIBase: w.stripe.URL, HTTPClient: &http.Client{Timeout: 20 * time.Millisecond, Transport: &tries}})
	require.NoError(t, err)
	require.ErrorContains(t, short.Check(t.Context()), "no answer in time")
	require.EqualValues(t, 1, tries.Load())
}

// counting counts the requests that a client makes, whether or not they arrive.
type counting struct{ atomic.Int64 }

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

// TestOnlyTheGatewayImportsStripe keeps a move to another major of stripe-go
// to one file.
func TestOnlyTheGatewayImportsStripe(t *testing.T) {
	t.Parallel()
	var importers []string
	require.NoError(t, filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, imp := range file.Imports {
			if strings.Contains(imp.Path.Value, "stripe-go") {
				importers = append(importers, path)
			}
			if strings.HasPrefix(path, "stripetest") {
				require.NotContains(t, imp.Path.Value, ".", "stripetest uses the standard library alone")
				require.NotEqual(t, `"testing"`, imp.Path.Value)
			}
		}
		return nil
	}))
	require.Equal(t, []string{"gateway.go"}, importers)
}
