package stripetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// keyMemory is how long an idempotency key and a meter event's identifier are
// remembered.
const keyMemory = int64(24 * time.Hour / time.Second)

// savedAnswer is what an idempotency key replays.
type savedAnswer struct {
	Request string `json:"request"` // digest of method, path and parameters
	Status  int    `json:"status"`
	Body    string `json:"body"`
	Created int64  `json:"created"`
}

// serve runs an endpoint: fault, credential, parameters, idempotency, the work
// itself, and the state to the file before the answer goes out.
func (e *Emulator) serve(w http.ResponseWriter, r *http.Request, allowed []string, run endpoint) {
	requestID := "req_" + randomText(14)
	fault := e.meet(r)
	a := e.answer(r, fault, allowed, run)
	e.log.Debug("stripe request", "method", r.Method, "path", r.URL.Path, "status", a.status, "request", requestID)
	e.send.wake()
	fault.deliver(w, a, requestID)
}

func (e *Emulator) answer(r *http.Request, fault *Fault, allowed []string, run endpoint) answer {
	if a, refused := fault.refusal(); refused {
		fault.wait(r.Context())
		return a
	}
	if err := e.authorized(r); err != nil {
		return answerOf(nil, err)
	}
	e.mu.Lock()
	a, limited := e.limited(r)
	e.mu.Unlock()
	if limited {
		return a
	}
	p, err := readParams(r)
	if err == nil {
		err = checkVersion(r)
	}
	if err == nil && allowed != nil {
		err = p.allow(allowed)
	}
	if err != nil {
		return answerOf(nil, err)
	}
	key := ""
	if r.Method == http.MethodPost {
		key = r.Header.Get("Idempotency-Key")
	}
	digest := requestDigest(r, p)
	lane := meterLane(r, p)

	e.mu.Lock()
	defer e.mu.Unlock()
	if key != "" {
		if a, done := e.remembered(key, digest); done {
			return a
		}
		e.keys[key] = true
		defer delete(e.keys, key)
	}
	if lane != "" {
		if e.meters[lane] {
			return answerOf(nil, &apiError{Status: http.StatusTooManyRequests, Code: "lock_timeout",
				Message: "Another meter event of this customer and meter is being processed."})
		}
		e.meters[lane] = true
		defer delete(e.meters, lane)
	}
	if fault.delays() {
		e.mu.Unlock()
		fault.wait(r.Context())
		e.mu.Lock()
	}
	rolled := e.roll() // what has fallen due since the last request
	e.forget()
	save := r.Method != http.MethodGet
	if kind := fault.kind(); kind == Error500Before {
		a = internalError()
	} else {
		if r.Method != http.MethodGet && !slices.Contains(undue, r.Pattern) {
			e.dueAt = 0 // it may be something else now
		}
		c := &call{Emulator: e, p: p, r: r, at: e.now(), modern: e.modern(r), fault: kind}
		v, err := run(c)
		a = answerOf(v, err)
		if refused, ok := err.(*apiError); ok {
			save = save && refused.ran
		}
		if kind == Error500After {
			a = internalError()
			save = true
		}
	}
	if save && key != "" {
		e.s.Keys[key] = &savedAnswer{Request: digest, Status: a.status, Body: string(a.body), Created: e.now().Unix()}
	}
	if r.Method != http.MethodGet || rolled {
		if err := e.store.save(e.s); err != nil {
			e.log.Error("state not saved", "err", err)
			return answerOf(nil, err)
		}
	}
	return a
}

// remembered answers a request whose idempotency key is known or in use. It
// needs e.mu.
func (e *Emulator) remembered(key, digest string) (answer, bool) {
	if e.keys[key] {
		return answerOf(nil, &apiError{Status: http.StatusConflict, Type: "idempotency_error", Code: "idempotency_key_in_use",
			Message: "There is currently another in-progress request using this Idempotency Key."}), true
	}
	saved := e.s.Keys[key]
	if saved == nil || e.now().Unix()-saved.Created >= keyMemory {
		return answer{}, false
	}
	if saved.Request != digest {
		return answerOf(nil, keyReused()), true
	}
	return answer{status: saved.Status, body: []byte(saved.Body), header: http.Header{"Idempotent-Replayed": {"true"}}}, true
}

// forget drops the keys and meter events of more than a day ago, once an hour.
// It needs the lock.
func (e *Emulator) forget() {
	now := e.now().Unix()
	if now < e.forgetAt {
		return
	}
	e.forgetAt = now + int64(time.Hour/time.Second)
	maps.DeleteFunc(e.s.Keys, func(_ string, o *savedAnswer) bool { return now-o.Created >= keyMemory })
	maps.DeleteFunc(e.s.Received, func(_ string, o *received) bool { return now-o.At >= keyMemory })
}

func requestDigest(r *http.Request, p params) string {
	sum := sha256.Sum256([]byte(r.Method + " " + r.URL.Path + "\n" + url.Values(p).Encode()))
	return hex.EncodeToString(sum[:16])
}

// meterLane names what only one request at a time may write to.
func meterLane(r *http.Request, p params) string {
	if r.Pattern != meterEvents {
		return ""
	}
	return p.str("event_name") + "\n" + p.str("payload[stripe_customer_id]")
}

// modern reports whether the request speaks the layout of 2025-03-31 or later.
func (e *Emulator) modern(r *http.Request) bool {
	return isModern(firstOf(r.Header.Get("Stripe-Version"), e.version))
}

var versionForm = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(\.[a-z]+)?$`)

func checkVersion(r *http.Request) error {
	if v := r.Header.Get("Stripe-Version"); v != "" && !versionForm.MatchString(v) {
		return &apiError{Status: http.StatusBadRequest, Message: fmt.Sprintf("Invalid Stripe API version: %.40s", v)}
	}
	return nil
}

func isModern(version string) bool { return strings.Compare(version, newLayout) >= 0 }

func keyReused() *apiError {
	return &apiError{Status: http.StatusBadRequest, Type: "idempotency_error",
		Message: "Keys for idempotent requests can only be used with the same parameters they were first used with."}
}

func internalError() answer {
	return answerOf(nil, &apiError{Status: http.StatusInternalServerError, Type: "api_error",
		Message: "An unknown error occurred."})
}
