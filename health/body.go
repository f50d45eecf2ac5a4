package health

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// body is the answer in the shape that monitors of MCP servers commonly read.
type body struct {
	Status  Status            `json:"status"`
	Checks  map[string]Status `json:"checks,omitempty"`
	Details map[string]detail `json:"details,omitempty"`
	TS      string            `json:"ts"`
}

type detail struct {
	Status      Status     `json:"status"`
	Class       Class      `json:"class,omitempty"`
	Criticality string     `json:"criticality"`
	Since       *time.Time `json:"since,omitempty"`
	Time        *time.Time `json:"time,omitempty"`
	DurationMS  float64    `json:"duration_ms"`
	Failures    int        `json:"failures"`
}

// draftBody is the shape of draft-inadarei-api-health-check-06. Its status
// must agree with the HTTP status, so degraded is "fail" where that is 503.
type draftBody struct {
	Status string                  `json:"status"`
	Checks map[string][]draftCheck `json:"checks,omitempty"`
	TS     string                  `json:"ts"`
}

type draftCheck struct {
	Status        string     `json:"status"`
	Time          *time.Time `json:"time,omitempty"`
	ObservedValue float64    `json:"observedValue"`
	ObservedUnit  string     `json:"observedUnit"`
	Output        Class      `json:"output,omitempty"`
}

// The wait that a 503 asks for: by then every check's result is a new one.
const retryAfter = "5"

const (
	typeJSON   = "application/json"
	typeHealth = "application/health+json"
)

// writeAnswer writes what may be seen: with scoped, the checks too. The public
// answer depends on the status and the second alone, so that two of them are
// the same bytes.
func writeAnswer(w http.ResponseWriter, r *http.Request, a answer, scoped bool) {
	code := http.StatusOK
	if !a.good {
		code = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", retryAfter)
	}
	w.Header().Set("Vary", "Accept, Authorization")
	ts := a.Time.UTC().Format(time.RFC3339)
	draft := acceptsHealth(r)
	contentType, status := typeJSON, string(a.Status)
	if draft {
		contentType, status = typeHealth, draftStatus(a)
	}
	var text []byte
	switch {
	case !scoped:
		text = append(text, `{"status":"`+status+`","ts":"`+ts+`"}`...)
	case draft:
		text = marshal(draftBody{status, draftChecks(a.Checks), ts})
	default:
		text = marshal(scopedBody(a.Report, ts))
	}
	write(w, r, code, contentType, text)
}

func scopedBody(report Report, ts string) body {
	b := body{Status: report.Status, Checks: map[string]Status{}, Details: map[string]detail{}, TS: ts}
	for _, r := range report.Checks {
		b.Checks[r.Name] = r.Status
		b.Details[r.Name] = detail{
			Status: r.Status, Class: r.Class, Criticality: r.Criticality.String(),
			Since: orNil(r.Since), Time: orNil(r.Time), DurationMS: milliseconds(r.Duration), Failures: r.Failures,
		}
	}
	return b
}

func draftChecks(results []Result) map[string][]draftCheck {
	checks := map[string][]draftCheck{}
	for _, r := range results {
		status := "fail"
		switch r.Status {
		case StatusOK:
			status = "pass"
		case StatusDegraded:
			status = "warn"
		}
		checks[r.Name] = []draftCheck{{
			Status: status, Time: orNil(r.Time), ObservedValue: milliseconds(r.Duration), ObservedUnit: "ms", Output: r.Class,
		}}
	}
	return checks
}

func draftStatus(a answer) string {
	switch {
	case !a.good:
		return "fail"
	case a.Status == StatusOK:
		return "pass"
	default:
		return "warn"
	}
}

func writeError(w http.ResponseWriter, r *http.Request, code int, message string) {
	write(w, r, code, typeJSON, marshal(struct {
		Error string `json:"error"`
	}{message}))
}

func write(w http.ResponseWriter, r *http.Request, code int, contentType string, text []byte) {
	text = append(text, '\n')
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		w.Write(text) // an error means that the prober is gone
	}
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("health: marshal answer: " + err.Error()) // strings, times and finite numbers always marshal
	}
	return text
}

// acceptsHealth reports whether the request names application/health+json. A
// wildcard is no such wish.
func acceptsHealth(r *http.Request) bool {
	for _, line := range r.Header["Accept"] {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), typeHealth) && strings.ReplaceAll(params, " ", "") != "q=0" {
				return true
			}
		}
	}
	return false
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
