package stripetest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// object is something of the API in JSON.
type object = map[string]any

// call is one request of the API while it runs, under the emulator's lock.
type call struct {
	*Emulator
	p      params
	r      *http.Request
	at     time.Time
	modern bool // speaks the layout of 2025-03-31
	fault  FaultKind
}

func (c *call) id() string { return c.r.PathValue("id") }

// endpoint answers a call with an object, or an *apiError.
type endpoint func(c *call) (any, error)

// apiError is an error in Stripe's form.
type apiError struct {
	Status  int
	Type    string // defaults to invalid_request_error
	Code    string
	Param   string
	Message string

	// ran is set when the request was valid and failed in its execution: such
	// an answer is saved under the idempotency key.
	ran     bool
	noRetry bool // Stripe-Should-Retry: false
}

func (e *apiError) Error() string { return e.Message }

func invalid(param, message string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Param: param, Message: message}
}

// missing is the error for an id that names nothing. In the path it is a 404,
// in a parameter a 400.
func missing(kind, id, param string) *apiError {
	e := &apiError{Status: http.StatusBadRequest, Code: "resource_missing", Param: param, Message: "No such " + kind + ": '" + id + "'"}
	if param == "id" {
		e.Status = http.StatusNotFound
	}
	return e
}

// answer is what goes over the wire.
type answer struct {
	status int
	body   []byte
	header http.Header
}

func answerOf(v any, err error) answer {
	a := answer{status: http.StatusOK, header: http.Header{}}
	if err != nil {
		e, ok := err.(*apiError)
		if !ok {
			e = &apiError{Status: http.StatusInternalServerError, Type: "api_error", Message: err.Error()}
		}
		body := object{"type": firstOf(e.Type, "invalid_request_error"), "message": e.Message}
		if e.Code != "" {
			body["code"] = e.Code
			body["doc_url"] = "https://stripe.com/docs/error-codes/" + strings.ReplaceAll(e.Code, "_", "-")
		}
		if e.Param != "" {
			body["param"] = e.Param
		}
		if e.noRetry {
			a.header.Set("Stripe-Should-Retry", "false")
		}
		a.status, v = e.Status, object{"error": body}
	}
	a.body, _ = json.MarshalIndent(v, "", "  ") // maps, strings and numbers: can't fail
	return a
}

func (a answer) write(w http.ResponseWriter, requestID string) {
	header := w.Header()
	for k, v := range a.header {
		header[k] = v
	}
	header.Set("Content-Type", "application/json")
	header.Set("Request-Id", requestID)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// readParams reads query and form. The body of a DELETE counts, which
// net/http would leave out.
func readParams(r *http.Request) (params, error) {
	const most = 1 << 20
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("", "The query can't be read.")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err != nil || len(body) > most {
		return nil, invalid("", "The body can't be read.")
	}
	if len(body) > 0 {
		if kind := r.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/x-www-form-urlencoded") {
			return nil, invalid("", "Invalid content type: "+kind+". Want application/x-www-form-urlencoded.")
		}
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalid("", "The form can't be read.")
	}
	for k, v := range form {
		query[k] = append(query[k], v...)
	}
	return params(query), nil
}

// authorized checks the bearer token, or the user name of basic credentials.
func (e *Emulator) authorized(r *http.Request) error {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		key, _, ok = r.BasicAuth()
	}
	if ok && key == e.SecretKey {
		return nil
	}
	message := "You did not provide an API key."
	if ok {
		shown := "****"
		if len(key) > 4 {
			shown += key[len(key)-4:]
		}
		message = "Invalid API Key provided: " + shown
	}
	return &apiError{Status: http.StatusUnauthorized, Message: message}
}
