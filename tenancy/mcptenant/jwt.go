package mcptenant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Directory knows the tenants, in memory.
type Directory interface {
	// Lookup returns the tenant with its plan and status of now.
	Lookup(tenant.ID) (tenant.Tenant, bool)
}

// JWTConfig names the authorization server whose tokens are accepted.
type JWTConfig struct {
	// Issuer is the value that a token's iss must have.
	Issuer string

	// Audience is this server's own resource identifier; a token's aud must
	// contain it, so that a token made for another server is refused (RFC
	// 8707).
	Audience string

	// KeysURL is where the authorization server publishes its keys (RFC
	// 7517). It must be an https URL.
	KeysURL string
}

// JWTOptions tunes a [JWT]. The zero value is the default.
type JWTOptions struct {
	// TenantClaim is the claim that holds the tenant's id. Defaults to
	// tenant_id.
	TenantClaim string

	// Scopes turns the scopes of a token's scope claim into those of this
	// module, as [tenant.ScopeTools]. Defaults to taking them as they are.
	Scopes func(granted []string) []string

	// AllowLoopback accepts a plain http KeysURL on a loopback address, for
	// development. Defaults to false.
	AllowLoopback bool

	// HTTPClient fetches the keys. Its redirects are not followed. Defaults
	// to one with a timeout of 5 s.
	HTTPClient *http.Client

	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// leeway is how far the clocks of the two servers may differ.
const leeway = 30 * time.Second

// JWT authenticates access tokens in the form of RFC 9068: signed with RS256,
// ES256 or EdDSA by a published key that the token names, for this issuer and
// audience, with an end. It is safe for concurrent use.
//
// Keys are fetched when they are first needed, hourly, and at most once a
// minute for a key that isn't known; while they can't be fetched, the ones of
// before are good for a day.
type JWT struct {
	parser    *jwt.Parser
	keys      *keySource
	directory Directory
	claim     string
	scopes    func([]string) []string
}

// NewJWT returns an authenticator of the tokens that config describes, for the
// tenants of directory. opts may be nil. It does no I/O.
func NewJWT(config JWTConfig, directory Directory, opts *JWTOptions) (*JWT, error) {
	var o JWTOptions
	if opts != nil {
		o = *opts
	}
	var problems []error
	if config.Issuer == "" {
		problems = append(problems, errors.New("JWTConfig.Issuer is required"))
	}
	if config.Audience == "" {
		problems = append(problems, errors.New("JWTConfig.Audience is required"))
	}
	if directory == nil {
		problems = append(problems, errors.New("directory is required"))
	}
	u, err := url.Parse(config.KeysURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !o.AllowLoopback || !loopback(u.Hostname())) {
		problems = append(problems, errors.New("JWTConfig.KeysURL: want an https URL"))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("mcptenant: new JWT: %w", errors.Join(problems...))
	}
	if o.TenantClaim == "" {
		o.TenantClaim = "tenant_id"
	}
	if o.Scopes == nil {
		o.Scopes = func(granted []string) []string { return granted }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	client := &http.Client{Timeout: 5 * time.Second}
	if o.HTTPClient != nil {
		own := *o.HTTPClient
		client = &own
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &JWT{
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{"RS256", "ES256", "EdDSA"}),
			jwt.WithIssuer(config.Issuer),
			jwt.WithAudience(config.Audience),
			jwt.WithExpirationRequired(),
			jwt.WithLeeway(leeway),
			jwt.WithTimeFunc(o.Now),
		),
		keys:      &keySource{url: config.KeysURL, client: client, now: o.Now},
		directory: directory,
		claim:     o.TenantClaim,
		scopes:    o.Scopes,
	}, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// Authenticate implements [Authenticator]. The subject is the token's sub,
// which must not be empty.
func (j *JWT) Authenticate(ctx context.Context, token string) (tenant.Tenant, error) {
	if strings.Count(token, ".") != 2 {
		return tenant.Tenant{}, errNotAJWT
	}
	var trouble error
	claims := jwt.MapClaims{}
	_, err := j.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		kid, ok := t.Header["kid"].(string)
		if _, critical := t.Header["crit"]; !ok || critical {
			return nil, errors.New("no kid, or an extension that must be understood")
		}
		key, err := j.keys.get(ctx, kid, t.Method.Alg())
		if err != nil && !errors.Is(err, errNoKey) {
			trouble = err
		}
		return key, err
	})
	if trouble != nil {
		return tenant.Tenant{}, fmt.Errorf("mcptenant: authenticate a JWT: %w", trouble)
	}
	if err != nil {
		return tenant.Tenant{}, fmt.Errorf("mcptenant: authenticate a JWT: %w: %w", tenant.ErrUnauthenticated, err)
	}
	text, _ := claims[j.claim].(string)
	id, err := tenant.ParseID(text)
	subject, _ := claims["sub"].(string)
	if err != nil || subject == "" {
		return tenant.Tenant{}, errNoTenant
	}
	t, ok := j.directory.Lookup(id)
	if !ok || t.Status.Gone() {
		return tenant.Tenant{}, errNoTenant
	}
	scope, _ := claims["scope"].(string)
	t.Subject = subject
	t.Scopes = j.scopes(strings.Fields(scope))
	return t, nil
}

var (
	errNotAJWT  = fmt.Errorf("mcptenant: not a JWT: %w", tenant.ErrUnauthenticated)
	errNoTenant = fmt.Errorf("mcptenant: the JWT names no subject of a tenant: %w", tenant.ErrUnauthenticated)
)
