package stripebill

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/stripe/stripe-go/v76"
)

// gateway is the only user of stripe-go in this module: a new major version
// changes this file and no other. It sends and decodes; what an answer means
// is decided elsewhere, from [APIError].
//
// The API version is ours as well, not that of the library: a new major brings
// no new layout along.
//
// Every request goes through Backend.Call with our own structs. That reaches
// endpoints and fields that this version of stripe-go doesn't know, and reads
// both the old and the new layout of those that it does.
type gateway struct {
	backend stripe.Backend
	key     string
	header  http.Header
}

// defaultVersion is an API version that has usage records beside meters.
const defaultVersion = "2023-10-16"

// request is one call of the API. For a GET the form is the query.
type request struct {
	method, path   string
	form           url.Values
	idempotencyKey string
}

// response is what an answer says beside its object.
type response struct {
	requestID string
	replayed  bool // the saved answer of an earlier request under the same key
}

func newGateway(key, base, version string, client *http.Client) *gateway {
	// The defaults would send telemetry, retry writes twice with sleeps that
	// no context ends, and print response bodies to stderr. A BackendConfig is
	// used once, because GetBackendWithConfig writes to it.
	config := &stripe.BackendConfig{
		URL:               stripe.String(base),
		HTTPClient:        client,
		MaxNetworkRetries: stripe.Int64(0),
		EnableTelemetry:   stripe.Bool(false),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
	}
	if version == "" {
		version = defaultVersion
	}
	return &gateway{
		backend: stripe.GetBackendWithConfig(stripe.APIBackend, config), key: key,
		header: http.Header{"Stripe-Version": {version}},
	}
}

// call sends r and decodes the answer into out. The error is an [*APIError]
// when Stripe answered with one, else a [*transportError]: nobody knows
// whether the request was applied.
func (g *gateway) call(ctx context.Context, r request, out any) (response, error) {
	params := &stripe.Params{Context: ctx, Headers: g.header}
	if len(r.form) > 0 {
		params.Extra = &stripe.ExtraValues{Values: r.form}
	}
	if r.idempotencyKey != "" {
		params.IdempotencyKey = stripe.String(r.idempotencyKey)
	}
	a := &answer{value: out}
	err := g.backend.Call(r.method, r.path, g.key, params, a)

	var resp response
	if a.last != nil {
		resp.requestID = a.last.RequestID
		resp.replayed = a.last.Header.Get("Idempotent-Replayed") == "true"
		if err == nil && a.last.StatusCode >= http.StatusMultipleChoices {
			err = errors.New("redirected") // by something that isn't Stripe
		}
	}
	if err == nil {
		return resp, nil
	}
	var refused *stripe.Error
	if !errors.As(err, &refused) {
		return resp, &transportError{cause: err, answered: a.last != nil}
	}
	resp.requestID = refused.RequestID
	return resp, &APIError{
		Status:    refused.HTTPStatusCode,
		Type:      string(refused.Type),
		Code:      string(refused.Code),
		Param:     refused.Param,
		Message:   refused.Msg,
		RequestID: refused.RequestID,
	}
}

// answer lets stripe-go decode into a struct that knows nothing of stripe-go.
type answer struct {
	value any
	last  *stripe.APIResponse
}

func (a *answer) SetLastResponse(r *stripe.APIResponse) { a.last = r }

func (a *answer) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, a.value) }
