package mcptenant

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// An Authenticator says which tenant a bearer token belongs to. It is called
// on every request, so it answers from memory or a cache.
//
// The tenant it returns carries the plan and status of this moment, and the
// subject and scopes of the credential; its status may be one that doesn't
// serve, the middleware tells the caller so. A refused token is an error that
// matches [tenant.ErrUnauthenticated]; any other error means that the token
// could not be judged, and the caller is asked to try again. Neither error's
// text reaches the caller.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (tenant.Tenant, error)
}

// AuthenticatorFunc is a function as an [Authenticator].
type AuthenticatorFunc func(ctx context.Context, token string) (tenant.Tenant, error)

// Authenticate calls f.
func (f AuthenticatorFunc) Authenticate(ctx context.Context, token string) (tenant.Tenant, error) {
	return f(ctx, token)
}

// Any accepts what one of several authenticators accepts, say API keys beside
// JWTs. It asks them in order and stops at the first that knows the token. If
// all refuse, so does it; if one of them could not judge the token, the error
// is that one's.
func Any(authenticators ...Authenticator) Authenticator {
	return AuthenticatorFunc(func(ctx context.Context, token string) (tenant.Tenant, error) {
		refusal := error(tenant.ErrUnauthenticated)
		for _, a := range authenticators {
			t, err := a.Authenticate(ctx, token)
			if err == nil {
				return t, nil
			}
			if !errors.Is(err, tenant.ErrUnauthenticated) {
				refusal = err
			}
		}
		return tenant.Tenant{}, refusal
	})
}

// identityKey is where [Authenticate] leaves who is calling in
// [auth.TokenInfo.Extra].
const identityKey = "github.com/mcpsaas/mcpsaas/tenancy/mcptenant"

// identity is who is calling, and how to ask again while a stream is open. Its
// fields are unexported so that no encoder writes the token.
type identity struct {
	tenant tenant.Tenant
	keys   Authenticator
	token  string
}

// live reports whether the credential would still be accepted. Trouble in
// judging it is no refusal.
func (i *identity) live(ctx context.Context) bool {
	t, err := i.keys.Authenticate(ctx, i.token)
	if err != nil {
		return !errors.Is(err, tenant.ErrUnauthenticated)
	}
	return t.ID == i.tenant.ID
}

func identityOf(info *auth.TokenInfo) (*identity, bool) {
	if info == nil {
		return nil, false
	}
	id, ok := info.Extra[identityKey].(*identity)
	if !ok || id.tenant.ID.IsZero() {
		return nil, false
	}
	return id, true
}

// FromTokenInfo returns the tenant that [Authenticate] found for a request.
// It is for code that sees the HTTP request rather than the MCP call, such as
// a getServer function that picks a server by plan; a tool handler reads
// [tenant.FromContext].
func FromTokenInfo(info *auth.TokenInfo) (t tenant.Tenant, ok bool) {
	id, ok := identityOf(info)
	if !ok {
		return tenant.Tenant{}, false
	}
	return id.tenant, true
}

// authenticate turns a token into the SDK's record of it.
func authenticate(ctx context.Context, keys Authenticator, token string) (*auth.TokenInfo, *identity, error) {
	t, err := keys.Authenticate(ctx, token)
	if err != nil {
		return nil, nil, err
	}
	if t.ID.IsZero() {
		return nil, nil, fmt.Errorf("mcptenant: authenticate: %w", tenant.ErrNone)
	}
	id := &identity{tenant: t, keys: keys, token: token}
	return &auth.TokenInfo{
		Scopes: t.Scopes,
		// The SDK binds a session to this text: with the tenant in it, a
		// session can't be taken over by a principal of the same name
		// elsewhere.
		UserID: t.ID.String() + "/" + t.Subject,
		Extra:  map[string]any{identityKey: id},
	}, id, nil
}
