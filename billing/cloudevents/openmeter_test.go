package cloudevents_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/billingtest"
)

// openMeter stands in for OpenMeter: it counts an event once for 32 days by its
// source and id, takes it at once and shows it in totals later, tells the sum
// of whole minutes, and bills no event of a period that ended an hour ago.
type openMeter struct {
	*httptest.Server
	now func() time.Time
	lag time.Duration
	end time.Time // of the billing period; zero: it doesn't end

	mu     sync.Mutex
	faults []billingtest.Fault
	seen   map[string]time.Time
	events []stored
	last   *http.Request
	body   []byte
}

type stored struct {
	Subject, Type string
	Time          time.Time
	Units         int64
	taken         time.Time
	lost          bool // it came too late for its invoice
}

const (
	token      = "om_secret"
	collects   = time.Hour
	remembered = 32 * 24 * time.Hour
)

func newOpenMeter(t *testing.T, now func() time.Time) *openMeter {
	t.Helper()
	o := &openMeter{now: now, lag: 10 * time.Minute, seen: make(map[string]time.Time)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/events", o.ingest)
	mux.HandleFunc("GET /api/v1/meters/{meter}/query", o.query)
	o.Server = httptest.NewServer(mux)
	t.Cleanup(o.Close)
	return o
}

func (o *openMeter) fail(f billingtest.Fault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f != billingtest.NoFault {
		o.faults = append(o.faults, f)
	}
}

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail})
}

func (o *openMeter) ingest(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fault := billingtest.NoFault
	if len(o.faults) > 0 {
		fault, o.faults = o.faults[0], o.faults[1:]
	}
	switch fault {
	case billingtest.DropBefore:
		panic(http.ErrAbortHandler)
	case billingtest.FailBefore:
		problem(w, http.StatusInternalServerError, "broken")
		return
	case billingtest.Limited:
		w.Header().Set("Retry-After", "3")
		problem(w, http.StatusTooManyRequests, "slow down")
		return
	case billingtest.Refused:
		problem(w, http.StatusBadRequest, "no such meter")
		return
	}
	if fault == billingtest.Denied || r.Header.Get("Authorization") != "Bearer "+token {
		problem(w, http.StatusUnauthorized, "token "+token+" is unknown")
		return
	}
	if fault == billingtest.Conflict {
		problem(w, http.StatusConflict, "busy")
		return
	}
	var e struct {
		SpecVersion, ID, Source, Type, Subject string
		Time                                   time.Time
		Data                                   struct{ Units int64 }
	}
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil || json.Unmarshal(raw, &e) != nil ||
		r.Header.Get("Content-Type") != "application/cloudevents+json" || e.SpecVersion != "1.0" ||
		e.ID == "" || e.Source == "" || e.Type == "" || e.Subject == "" || e.Time.IsZero() {
		problem(w, http.StatusBadRequest, "no CloudEvent")
		return
	}
	o.last, o.body = r, raw
	now := o.now()
	key := e.Source + " " + e.ID
	if at, ok := o.seen[key]; !ok || now.Sub(at) >= remembered {
		o.seen[key] = now
		o.events = append(o.events, stored{e.Subject, e.Type, e.Time, e.Data.Units, now,
			e.Time.Before(o.end) && !now.Before(o.end.Add(collects))})
	}
	switch fault {
	case billingtest.DropAfter:
		panic(http.ErrAbortHandler)
	case billingtest.FailAfter:
		problem(w, http.StatusBadGateway, "broken")
	case billingtest.Truncated:
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"`))
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (o *openMeter) query(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+token {
		problem(w, http.StatusUnauthorized, "who?")
		return
	}
	q := r.URL.Query()
	from, err1 := time.Parse(time.RFC3339, q.Get("from"))
	to, err2 := time.Parse(time.RFC3339, q.Get("to"))
	switch {
	case err1 != nil, err2 != nil, !from.Equal(from.Truncate(time.Minute)), !to.Equal(to.Truncate(time.Minute)), !from.Before(to):
		problem(w, http.StatusBadRequest, "from and to must be aligned with the window size")
		return
	case r.PathValue("meter") != "tool_calls":
		problem(w, http.StatusNotFound, "no such meter")
		return
	}
	rows := []map[string]any{}
	var sum int64
	for _, e := range o.events {
		if e.Subject == q.Get("subject") && e.Type == "calls" && !e.Time.Before(from) && e.Time.Before(to) && o.now().Sub(e.taken) >= o.lag {
			sum += e.Units
		}
	}
	if sum > 0 {
		rows = append(rows, map[string]any{"value": float64(sum), "subject": q.Get("subject"), "windowStart": from, "windowEnd": to, "groupBy": map[string]any{}})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"from": from, "to": to, "data": rows})
}

// billed is what OpenMeter would bill the customer, without any lag.
func (o *openMeter) billed(customer string, from, to time.Time) (sum int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events {
		if e.Subject == customer && !e.lost && !e.Time.Before(from) && e.Time.Before(to) {
			sum += e.Units
		}
	}
	return sum
}

func (o *openMeter) sent() (*http.Request, string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, strings.TrimSpace(string(o.body))
}
