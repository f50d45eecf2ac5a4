package alert_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/alert"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The example of the specification's own libraries.
const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var message = alert.Message{ID: "alert_1", Type: "usage.threshold_reached", Time: time.Unix(1700000000, 0), Data: map[string]int{"percent": 80}}

func TestSignature(t *testing.T) {
	t.Parallel()
	got, err := alert.Sign([]string{secret}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	require.NoError(t, err)
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", got)

	require.NotEqual(t, alert.NewSecret(), alert.NewSecret())
	_, err = alert.Sign([]string{alert.NewSecret()}, "id", time.Now(), nil)
	require.NoError(t, err)
	for _, bad := range []string{"", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_####", "whsec_c2hvcnQ="} {
		_, err := alert.Sign([]string{secret, bad}, "id", time.Now(), nil)
		require.Error(t, err, bad)
		if len(bad) > 6 {
			require.NotContains(t, err.Error(), bad[6:])
		}
	}
	_, err = alert.Sign(nil, "id", time.Now(), nil)
	require.Error(t, err)
}

// receiver is a server of a tenant's, and a sender that trusts it.
func receiver(t *testing.T, opts alert.Options, secrets []string, h http.HandlerFunc) *alert.Sender {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	opts.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s, err := alert.NewSender(alert.EndpointsFunc(func(context.Context, tenant.ID) (alert.Endpoint, error) {
		return alert.Endpoint{URL: server.URL + "/hook?token=t0p", Secrets: secrets}, nil
	}), &opts)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	s.Trust(roots)
	return s
}

// Mutation: with one secret signed by alone, the receiver that has not changed to
// the new one yet refuses.
func TestSend(t *testing.T) {
	t.Parallel()
	older := alert.NewSecret()
	now := time.Unix(1700000123, 0)
	got := make(chan *http.Request, 1)
	bodies := make(chan []byte, 1)
	s := receiver(t, alert.Options{Now: func() time.Time { return now }}, []string{secret, older}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r
		bodies <- body
		w.WriteHeader(http.StatusAccepted)
	})
	require.NoError(t, s.Send(t.Context(), tenant.NewID(), message))
	r, body := <-got, <-bodies
	require.Equal(t, http.MethodPost, r.Method)
	require.Equal(t, "/hook?token=t0p", r.URL.String())
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.Equal(t, "alert_1", r.Header.Get("webhook-id"))
	require.Equal(t, "1700000123", r.Header.Get("webhook-timestamp"))
	require.JSONEq(t, `{"type":"usage.threshold_reached","timestamp":"2023-11-14T22:13:20Z","data":{"percent":80}}`, string(body))
	signatures := strings.Fields(r.Header.Get("webhook-signature"))
	require.Len(t, signatures, 2)
	for i, secret := range []string{secret, older} {
		want, err := alert.Sign([]string{secret}, "alert_1", now, body)
		require.NoError(t, err)
		require.Equal(t, want, signatures[i])
	}
}

func TestSendFails(t *testing.T) {
	t.Parallel()
	t.Run("status", func(t *testing.T) {
		t.Parallel()
		for _, status := range []int{400, 410, 429, 500, 503} {
			s := receiver(t, alert.Options{}, []string{secret}, func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "internal details", status)
			})
			err := s.Send(t.Context(), tenant.NewID(), message)
			require.ErrorContains(t, err, strconv.Itoa(status))
			require.NotContains(t, err.Error(), "internal")
			require.NotContains(t, err.Error(), "t0p")
		}
	})
	// Mutation: with redirects followed, the second server is reached.
	t.Run("redirect", func(t *testing.T) {
		t.Parallel()
		inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("redirect followed") }))
		defer inside.Close()
		for _, status := range []int{301, 302, 303, 307, 308} {
			s := receiver(t, alert.Options{AllowHTTP: true}, []string{secret}, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, inside.URL, status)
			})
			require.ErrorContains(t, s.Send(t.Context(), tenant.NewID(), message), strconv.Itoa(status))
		}
	})
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		s := receiver(t, alert.Options{Timeout: 50 * time.Millisecond}, []string{secret}, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		require.ErrorIs(t, s.Send(t.Context(), tenant.NewID(), message), context.DeadlineExceeded)
	})
	// Mutation: without the bound on the answer, all of it is read.
	t.Run("long answer", func(t *testing.T) {
		t.Parallel()
		const long = 256 << 20
		sent := make(chan int, 1)
		s := receiver(t, alert.Options{Timeout: time.Hour}, []string{secret}, func(w http.ResponseWriter, r *http.Request) {
			n := 0
			for n < long {
				some, err := w.Write(make([]byte, 1<<20))
				if n += some; err != nil {
					break
				}
			}
			sent <- n
		})
		require.NoError(t, s.Send(t.Context(), tenant.NewID(), message))
		require.Less(t, <-sent, long)
	})
	t.Run("certificate", func(t *testing.T) {
		t.Parallel()
		s := receiver(t, alert.Options{}, []string{secret}, func(http.ResponseWriter, *http.Request) { t.Error("sent") })
		s.Trust(x509.NewCertPool())
		require.ErrorContains(t, s.Send(t.Context(), tenant.NewID(), message), "certificate")
	})
	t.Run("no secret", func(t *testing.T) {
		t.Parallel()
		s := receiver(t, alert.Options{}, nil, func(http.ResponseWriter, *http.Request) { t.Error("sent") })
		require.ErrorContains(t, s.Send(t.Context(), tenant.NewID(), message), "no secret")
	})
	t.Run("too long", func(t *testing.T) {
		t.Parallel()
		s := receiver(t, alert.Options{}, []string{secret}, func(http.ResponseWriter, *http.Request) { t.Error("sent") })
		require.ErrorContains(t, s.Send(t.Context(), tenant.NewID(), alert.Message{Data: strings.Repeat("x", 1<<20)}), "bytes")
	})
	t.Run("endpoints", func(t *testing.T) {
		t.Parallel()
		away := errors.New("away")
		s, err := alert.NewSender(alert.EndpointsFunc(func(context.Context, tenant.ID) (alert.Endpoint, error) { return alert.Endpoint{}, away }), nil)
		require.NoError(t, err)
		require.ErrorIs(t, s.Send(t.Context(), tenant.NewID(), message), away)
		require.NoError(t, newSender(t, "", nil).Send(t.Context(), tenant.NewID(), message), "a tenant without an endpoint is told nothing")
		require.ErrorIs(t, newSender(t, "http://example.com", nil).Send(t.Context(), tenant.NewID(), message), alert.ErrRefused)
	})
}

func TestNoProxy(t *testing.T) {
	t.Parallel()
	require.Nil(t, newSender(t, "", nil).Transport().Proxy)
}

func TestNewSender(t *testing.T) {
	t.Parallel()
	for want, opts := range map[string]alert.Options{
		"Ports":    {Ports: []uint16{0}},
		"Allow[0]": {Allow: []netip.Prefix{{}}},
		"Timeout":  {Timeout: -1},
	} {
		_, err := alert.NewSender(alert.EndpointsFunc(nil), &opts)
		require.ErrorContains(t, err, want)
	}
	_, err := alert.NewSender(nil, nil)
	require.ErrorContains(t, err, "endpoints is nil")
}
