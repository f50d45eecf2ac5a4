package stripetest

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// FaultKind is what goes wrong with a request.
type FaultKind int

// The kinds of faults.
const (
	Slow           FaultKind = iota // nothing but Delay
	DropBefore                      // the connection is cut, and nothing was applied
	DropAfter                       // applied, but the connection is cut
	Error500Before                  // not applied; the 500 is saved under the idempotency key
	Error500After                   // applied; the 500 is saved under the idempotency key
	Unavailable                     // 503, not applied, not saved
	BadGateway                      // 502 in HTML, not applied, not saved
	Truncated                       // applied; 200 with half of its body
	Empty                           // applied; 200 without a body
	Foreign                         // 200 with the JSON of something else, not applied
	Redirected                      // 302 to elsewhere, not applied
	Conflict                        // 409 idempotency_key_in_use
	RateLimited                     // 429 rate_limit
	LockTimeout                     // 429 lock_timeout
	Unauthorized                    // 401
	Forbidden                       // 403, as for a restricted key
	Refused                         // 400, not applied, and never will be
	KeyReused                       // 400 idempotency_error, as if the key had other parameters
	Unaggregated                    // a meter event is taken, and never counted; a thin event tells of it
)

// Fault makes requests of the API go wrong.
type Fault struct {
	Kind FaultKind
	// Endpoint chooses the requests of one endpoint, as the package's
	// documentation lists it: "POST /v1/subscriptions/{id}". Empty matches all.
	Endpoint string
	// Method and Path choose among them: the exact method, and a prefix of the
	// path. Empty matches all.
	Method, Path string
	// Skip lets that many matching requests pass first.
	Skip int
	// Times is how many matching requests it meets; negative: all. Defaults
	// to 1.
	Times int
	// Delay holds the request back first, as a slow network would.
	Delay time.Duration
}

// Inject adds faults. A request meets the first that matches and isn't used
// up. It panics when there is no such Endpoint: that fault would never be met,
// and its test would pass for nothing.
func (e *Emulator) Inject(faults ...Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range faults {
		if f.Endpoint != "" && !e.endpoints[f.Endpoint] {
			panic("stripetest: Inject: no endpoint " + f.Endpoint)
		}
		if f.Times == 0 {
			f.Times = 1
		}
		e.faults = append(e.faults, &f)
	}
}

// Heal takes all faults back.
func (e *Emulator) Heal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = nil
}

// meet counts a request and returns the fault that it meets, or nil.
func (e *Emulator) meet(r *http.Request) *Fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests[r.Method+" "+r.URL.Path]++
	for i, f := range e.faults {
		if f.Endpoint != "" && f.Endpoint != r.Pattern || f.Method != "" && f.Method != r.Method || !strings.HasPrefix(r.URL.Path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				e.faults = append(e.faults[:i:i], e.faults[i+1:]...)
			}
		}
		met := *f
		return &met
	}
	return nil
}

func (f *Fault) kind() FaultKind {
	if f == nil {
		return Slow
	}
	return f.Kind
}

func (f *Fault) delays() bool { return f != nil && f.Delay > 0 }

func (f *Fault) wait(ctx context.Context) {
	if !f.delays() {
		return
	}
	timer := time.NewTimer(f.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// refusal is the answer of a fault that keeps the request from its endpoint.
func (f *Fault) refusal() (answer, bool) {
	refuse := func(status int, kind, code, message string) (answer, bool) {
		return answerOf(nil, &apiError{Status: status, Type: kind, Code: code, Message: message}), true
	}
	switch f.kind() {
	case DropBefore:
		return answer{}, true
	case Unavailable:
		return refuse(http.StatusServiceUnavailable, "api_error", "", "Stripe is temporarily unavailable.")
	case BadGateway:
		return answer{status: http.StatusBadGateway, body: []byte("<html><body>502 Bad Gateway</body></html>")}, true
	case Foreign:
		return answer{status: http.StatusOK, body: []byte(`{"welcome":"please log in to the network"}`)}, true
	case Redirected:
		return answer{status: http.StatusFound, body: []byte(`{}`), header: http.Header{"Location": {"/elsewhere"}}}, true
	case Conflict:
		return refuse(http.StatusConflict, "idempotency_error", "idempotency_key_in_use", "There is currently another in-progress request using this Idempotency Key.")
	case RateLimited:
		return refuse(http.StatusTooManyRequests, "", "rate_limit", "Too many requests.")
	case LockTimeout:
		return refuse(http.StatusTooManyRequests, "", "lock_timeout", "This object is being accessed by another request.")
	case Unauthorized:
		return refuse(http.StatusUnauthorized, "", "", "Invalid API Key provided: ****")
	case Forbidden:
		return refuse(http.StatusForbidden, "", "more_permissions_required_for_application", "The provided key does not have the required permissions for this endpoint.")
	case Refused:
		return refuse(http.StatusBadRequest, "", "", "This request can't be taken.")
	case KeyReused:
		return answerOf(nil, keyReused()), true
	}
	return answer{}, false
}

// deliver writes the answer, or what the fault leaves of it.
func (f *Fault) deliver(w http.ResponseWriter, a answer, requestID string) {
	switch f.kind() {
	case DropBefore, DropAfter:
		cut(w)
		return
	case Truncated:
		a.body = a.body[:len(a.body)/2]
	case Empty:
		a.body = nil
	}
	a.write(w, requestID)
}

// cut ends the connection in the middle of the status line. Were it cut before
// the first byte, a client's transport could repeat the request by itself, and
// the test would see or not see the fault by chance.
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2 and recorders can't be cut otherwise
	}
	_, _ = conn.Write([]byte("HTTP/1.1"))
	_ = conn.Close()
}
