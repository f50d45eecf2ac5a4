package mcptenant_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	issuer   = "https://login.example.com"
	audience = "https://api.example.com/mcp"
)

// issuerServer is an authorization server as far as its keys go.
type issuerServer struct {
	url     string
	client  *http.Client
	fetches atomic.Int64

	mu     sync.Mutex
	keys   []map[string]string
	broken bool
	now    time.Time
}

func (s *issuerServer) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *issuerServer) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func newIssuer(t *testing.T) *issuerServer {
	t.Helper()
	s := &issuerServer{now: time.Now()}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.broken {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "/keys", http.StatusFound)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"keys": s.keys})
	}))
	t.Cleanup(srv.Close)
	s.url, s.client = srv.URL+"/keys", srv.Client()
	return s
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// add publishes the public half of a new key and returns the key.
func (s *issuerServer) add(t *testing.T, kid, alg string) crypto.Signer {
	t.Helper()
	var signer crypto.Signer
	jwk := map[string]string{"kid": kid, "use": "sig", "alg": alg}
	switch alg {
	case "RS256":
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
		signer = k
	case "ES256":
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		point, err := k.PublicKey.Bytes()
		require.NoError(t, err)
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC", "P-256", b64(point[1:33]), b64(point[33:])
		signer = k
	case "EdDSA":
		pub, k, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", b64(pub)
		signer = k
	}
	s.change(func() { s.keys = append(s.keys, jwk) })
	return signer
}

type lookup map[tenant.ID]tenant.Tenant

func (l lookup) Lookup(id tenant.ID) (tenant.Tenant, bool) {
	t, ok := l[id]
	return t, ok
}

func sign(t *testing.T, method jwt.SigningMethod, key any, kid any, claims jwt.MapClaims, header ...string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != nil {
		token.Header["kid"] = kid
	}
	for _, h := range header {
		token.Header[h] = []string{"x"}
	}
	text, err := token.SignedString(key)
	require.NoError(t, err)
	return text
}

// Mutations seen by this test: no audience, no issuer, no expiry required, and
// neither a list of methods nor a comparison with the key's own algorithm (each
// of the two alone is enough).
func TestJWT(t *testing.T) {
	t.Parallel()
	s := newIssuer(t)
	rs, es, ed := s.add(t, "rs", "RS256"), s.add(t, "es", "ES256"), s.add(t, "ed", "EdDSA")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	s.change(func() {
		s.keys = append(s.keys,
			map[string]string{"kid": "weak", "kty": "RSA", "n": b64(weak.N.Bytes()), "e": "AQAB"},
			map[string]string{"kid": "enc", "kty": "RSA", "use": "enc", "n": b64(rs.Public().(*rsa.PublicKey).N.Bytes()), "e": "AQAB"},
			map[string]string{"kid": "off curve", "kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))},
			map[string]string{"kid": "shared secret", "kty": "oct", "k": "AAAA"},
		)
	})
	a := tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Pro, Status: tenant.Active}
	suspended := tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Pro, Status: tenant.Suspended}
	gone := tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Pro, Status: tenant.Deleted}
	auth, err := mcptenant.NewJWT(
		mcptenant.JWTConfig{Issuer: issuer, Audience: audience, KeysURL: s.url},
		lookup{a.ID: a, suspended.ID: suspended, gone.ID: gone},
		&mcptenant.JWTOptions{HTTPClient: s.client, Now: s.clock})
	require.NoError(t, err)

	now := s.clock()
	with := func(change ...any) jwt.MapClaims {
		c := jwt.MapClaims{
			"iss": issuer, "aud": audience, "sub": "alice", "tenant_id": a.ID.String(),
			"exp": now.Add(time.Hour).Unix(), "scope": "tools:* health:read",
		}
		for i := 0; i < len(change); i += 2 {
			if change[i+1] == nil {
				delete(c, change[i].(string))
			} else {
				c[change[i].(string)] = change[i+1]
			}
		}
		return c
	}
	publicPEM, err := x509.MarshalPKIXPublicKey(rs.Public())
	require.NoError(t, err)
	publicPEM = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicPEM})
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	RS, ES, ED := jwt.SigningMethodRS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA

	for name, token := range map[string]string{
		"RS256":              sign(t, RS, rs, "rs", with()),
		"ES256":              sign(t, ES, es, "es", with()),
		"EdDSA":              sign(t, ED, ed, "ed", with()),
		"several audiences":  sign(t, ES, es, "es", with("aud", []string{"x", audience})),
		"clocks a bit apart": sign(t, ES, es, "es", with("exp", now.Add(-10*time.Second).Unix())),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := auth.Authenticate(t.Context(), token)
			require.NoError(t, err)
			want := a
			want.Subject, want.Scopes = "alice", []string{"tools:*", "health:read"}
			require.Equal(t, want, got)
		})
	}
	got, err := auth.Authenticate(t.Context(), sign(t, ES, es, "es", with("tenant_id", suspended.ID.String())))
	require.NoError(t, err)
	require.Equal(t, tenant.Suspended, got.Status)

	good := sign(t, ES, es, "es", with())
	for name, token := range map[string]string{
		"empty":                 "",
		"no JWT":                "mtk_live_x",
		"two dots":              "..",
		"alg none":              sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "rs", with()),
		"HS256 with public key": sign(t, jwt.SigningMethodHS256, publicPEM, "rs", with()),
		"RS512":                 sign(t, jwt.SigningMethodRS512, rs, "rs", with()),
		"PS256":                 sign(t, jwt.SigningMethodPS256, rs, "rs", with()),
		"another's signature":   sign(t, ES, stranger, "es", with()),
		"another key's kid":     sign(t, ES, es, "ed", with()),
		"weak key":              sign(t, RS, weak, "weak", with()),
		"encryption key":        sign(t, RS, rs, "enc", with()),
		"no kid":                sign(t, ES, es, nil, with()),
		"kid of another type":   sign(t, ES, es, 7, with()),
		"crit":                  sign(t, ES, es, "es", with(), "crit"),
		"wrong issuer":          sign(t, ES, es, "es", with("iss", "https://evil.example")),
		"no issuer":             sign(t, ES, es, "es", with("iss", nil)),
		"wrong audience":        sign(t, ES, es, "es", with("aud", "https://api.example.com/other")),
		"no audience":           sign(t, ES, es, "es", with("aud", nil)),
		"expired":               sign(t, ES, es, "es", with("exp", now.Add(-time.Minute).Unix())),
		"no expiry":             sign(t, ES, es, "es", with("exp", nil)),
		"not yet":               sign(t, ES, es, "es", with("nbf", now.Add(time.Minute).Unix())),
		"no tenant":             sign(t, ES, es, "es", with("tenant_id", nil)),
		"tenant not a UUID":     sign(t, ES, es, "es", with("tenant_id", `x"; DROP TABLE tenants; --`)),
		"tenant a list":         sign(t, ES, es, "es", with("tenant_id", []string{a.ID.String()})),
		"unknown tenant":        sign(t, ES, es, "es", with("tenant_id", tenant.NewID().String())),
		"tenant that is gone":   sign(t, ES, es, "es", with("tenant_id", gone.ID.String())),
		"no subject":            sign(t, ES, es, "es", with("sub", nil)),
		"cut":                   good[:len(good)-2],
	} {
		t.Run(name, func(t *testing.T) {
			got, err := auth.Authenticate(t.Context(), token)
			require.ErrorIs(t, err, tenant.ErrUnauthenticated)
			require.Zero(t, got)
		})
	}
	require.EqualValues(t, 1, s.fetches.Load(), "all of it with one look at the keys")
}

// Mutation seen by this test: get without the gap between fetches.
func TestJWTKeysAreFetchedSparingly(t *testing.T) {
	t.Parallel()
	s := newIssuer(t)
	old := s.add(t, "old", "ES256")
	a := tenant.Tenant{ID: tenant.NewID(), Status: tenant.Active}
	auth, err := mcptenant.NewJWT(mcptenant.JWTConfig{Issuer: issuer, Audience: audience, KeysURL: s.url}, lookup{a.ID: a},
		&mcptenant.JWTOptions{HTTPClient: s.client, Now: s.clock})
	require.NoError(t, err)
	token := func(key any, kid string) string {
		return sign(t, jwt.SigningMethodES256, key, kid, jwt.MapClaims{
			"iss": issuer, "aud": audience, "sub": "x", "tenant_id": a.ID.String(), "exp": s.clock().Add(200 * time.Hour).Unix(),
		})
	}
	flood := func(kid string) {
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				_, err := auth.Authenticate(t.Context(), token(old, fmt.Sprint(kid, i)))
				if err == nil {
					t.Error("an unknown key was accepted")
				}
			})
		}
		wg.Wait()
	}
	flood("cold")
	require.EqualValues(t, 1, s.fetches.Load(), "together they fetch once")
	flood("warm")
	require.EqualValues(t, 1, s.fetches.Load(), "and not again within the minute")

	next := s.add(t, "next", "ES256")
	_, err = auth.Authenticate(t.Context(), token(next, "next"))
	require.ErrorIs(t, err, tenant.ErrUnauthenticated)
	s.change(func() { s.now = s.now.Add(time.Minute) })
	_, err = auth.Authenticate(t.Context(), token(next, "next"))
	require.NoError(t, err)
	require.EqualValues(t, 2, s.fetches.Load())

	s.change(func() { s.broken, s.now = true, s.now.Add(2*time.Hour) })
	for range 10 {
		_, err = auth.Authenticate(t.Context(), token(old, "old"))
		require.NoError(t, err, "the keys of before are good for a day")
	}
	require.EqualValues(t, 3, s.fetches.Load())
	s.change(func() { s.now = s.now.Add(23 * time.Hour) })
	_, err = auth.Authenticate(t.Context(), token(old, "old"))
	require.Error(t, err)
	require.NotErrorIs(t, err, tenant.ErrUnauthenticated, "it could not be judged")

	s.change(func() { s.broken, s.now, s.keys = false, s.now.Add(time.Minute), s.keys[1:] })
	_, err = auth.Authenticate(t.Context(), token(old, "old"))
	require.ErrorIs(t, err, tenant.ErrUnauthenticated, "a withdrawn key")
}

func TestNewJWTNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	ok := mcptenant.JWTConfig{Issuer: issuer, Audience: audience, KeysURL: "https://login.example.com/keys"}
	_, err := mcptenant.NewJWT(ok, lookup{}, nil)
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		change func(*mcptenant.JWTConfig)
		opts   *mcptenant.JWTOptions
		ok     bool
	}{
		"Issuer":           {change: func(c *mcptenant.JWTConfig) { c.Issuer = "" }},
		"Audience":         {change: func(c *mcptenant.JWTConfig) { c.Audience = "" }},
		"KeysURL":          {change: func(c *mcptenant.JWTConfig) { c.KeysURL = "http://login.example.com/keys" }},
		"KeysURL ":         {change: func(c *mcptenant.JWTConfig) { c.KeysURL = "http://127.0.0.1/keys" }},
		"KeysURL  ":        {change: func(c *mcptenant.JWTConfig) { c.KeysURL = "http://evil.example/keys" }, opts: &mcptenant.JWTOptions{AllowLoopback: true}},
		"KeysURL loopback": {change: func(c *mcptenant.JWTConfig) { c.KeysURL = "http://[::1]/keys" }, opts: &mcptenant.JWTOptions{AllowLoopback: true}, ok: true},
	} {
		config := ok
		tc.change(&config)
		_, err := mcptenant.NewJWT(config, lookup{}, tc.opts)
		require.Equal(t, tc.ok, err == nil, name)
	}
	s := newIssuer(t)
	key := s.add(t, "k", "ES256")
	auth, err := mcptenant.NewJWT(mcptenant.JWTConfig{Issuer: issuer, Audience: audience, KeysURL: s.url[:len(s.url)-len("keys")] + "redirect"}, lookup{},
		&mcptenant.JWTOptions{HTTPClient: s.client})
	require.NoError(t, err)
	_, err = auth.Authenticate(t.Context(), sign(t, jwt.SigningMethodES256, key, "k", jwt.MapClaims{}))
	require.ErrorContains(t, err, "status 302", "redirects are not followed")
}

func TestAny(t *testing.T) {
	t.Parallel()
	first, second := &keys{}, &keys{}
	a, b := first.add("a"), second.add("b")
	any := mcptenant.Any(first, second)
	got, err := any.Authenticate(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, a, got)
	got, err = any.Authenticate(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, b, got)
	_, err = any.Authenticate(t.Context(), "c")
	require.ErrorIs(t, err, tenant.ErrUnauthenticated)
	first.fail(fmt.Errorf("away"))
	_, err = any.Authenticate(t.Context(), "c")
	require.NotErrorIs(t, err, tenant.ErrUnauthenticated, "the one that is away might know it")
	got, err = any.Authenticate(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, b, got)
	_, err = mcptenant.Any().Authenticate(t.Context(), "a")
	require.ErrorIs(t, err, tenant.ErrUnauthenticated)
}
