package health

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// Access is what the sender of a request may see beyond the status.
type Access struct {
	// Operator may see everything, of the platform and of any tenant.
	Operator bool

	// TenantID, for who isn't an operator, is the one tenant whose own checks
	// it may see: that of a credential with scope health:read.
	TenantID string
}

// Handler answers the profile's question to GET and HEAD: 200 or 503, and a
// JSON body with status and ts, and for those who may see them checks (the
// status of each) and details. A request that accepts application/health+json
// gets that shape (draft-inadarei-api-health-check).
//
// With [Monitor], ?tenant= adds a tenant's checks for those who may see them.
// For all others it changes nothing, but that a stranger who keeps asking gets
// 429. A malformed id gets 400 from [Options].Authorize's callers only.
//
// Handler panics if there is no such profile.
func (a *Aggregator) Handler(p Profile) http.Handler {
	if p < Live || p > Monitor {
		panic("health: no such profile: " + p.String())
	}
	return probeOnly(func(w http.ResponseWriter, r *http.Request) {
		switch p {
		case Live:
			writeAnswer(w, r, a.answerTo(r.Context(), p), false)
		case Monitor:
			a.serveMonitor(w, r)
		default:
			writeAnswer(w, r, a.answerTo(r.Context(), p), a.access(r).Operator)
		}
	})
}

// TokenHandler answers as [Monitor] does to a tenant's credential, to whoever
// knows a capability URL of the tenant: for monitors that can't send a header.
// Its pattern must have a wildcard named token ("GET /health/t/{token}"). A
// token that [Options].ResolveToken doesn't know gets what a stranger gets
// from /health.
func (a *Aggregator) TokenHandler() http.Handler {
	return probeOnly(func(w http.ResponseWriter, r *http.Request) {
		const longest = 256 // a stranger's megabyte needn't be hashed
		token := r.PathValue("token")
		if a.opts.ResolveToken != nil && token != "" && len(token) <= longest {
			if tenantID, ok := a.opts.ResolveToken(token); ok {
				if id, ok := parseTenant(tenantID); ok {
					a.serveTenant(w, r, id)
					return
				}
				a.log.LogAttrs(r.Context(), slog.LevelError, "health token resolves to no tenant id")
			}
		}
		a.serveStranger(w, r, true)
	})
}

func (a *Aggregator) serveMonitor(w http.ResponseWriter, r *http.Request) {
	access := a.access(r)
	asked, deep := r.URL.Query()["tenant"]
	id, wellFormed := "", false
	if len(asked) == 1 {
		id, wellFormed = parseTenant(asked[0])
	}
	switch {
	case access == Access{}:
		a.serveStranger(w, r, deep)
	case len(asked) > 1:
		writeError(w, r, http.StatusBadRequest, "tenant: given "+strconv.Itoa(len(asked))+" times, want once")
	case deep && !wellFormed:
		writeError(w, r, http.StatusBadRequest, fmt.Sprintf("tenant: %.40q is no UUID like 0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b", asked[0]))
	case access.Operator && deep:
		platform, own := a.probeBoth(r.Context(), id)
		results := append(platform, own...)
		status := whole(results)
		writeAnswer(w, r, answer{Report{status, results, time.Now()}, status == StatusOK}, true)
	case access.Operator:
		writeAnswer(w, r, a.answerTo(r.Context(), Monitor), true)
	case deep && id != access.TenantID:
		a.serveStranger(w, r, true)
	default:
		a.serveTenant(w, r, access.TenantID)
	}
}

// serveStranger answers who may see nothing. deep says that it asked for more,
// which is limited: it can only be a mistake or a search.
func (a *Aggregator) serveStranger(w http.ResponseWriter, r *http.Request, deep bool) {
	if deep {
		if wait := a.limiter.take(a.opts.ClientIP(r)); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
			writeError(w, r, http.StatusTooManyRequests, "too many requests")
			return
		}
	}
	writeAnswer(w, r, a.answerTo(r.Context(), Monitor), false)
}

func (a *Aggregator) serveTenant(w http.ResponseWriter, r *http.Request, id string) {
	report := a.probeTenant(r.Context(), id)
	writeAnswer(w, r, answer{report, report.Status == StatusOK}, true)
}

// access is the zero Access for a stranger, and has a tenant id in canonical
// form otherwise, if any.
func (a *Aggregator) access(r *http.Request) Access {
	if a.opts.Authorize == nil {
		return Access{}
	}
	access, ok := a.opts.Authorize(r)
	switch {
	case !ok:
		return Access{}
	case access.Operator:
		return Access{Operator: true}
	}
	id, ok := parseTenant(access.TenantID)
	if !ok {
		a.log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelError, "health access to no tenant id")
		return Access{}
	}
	return Access{TenantID: id}
}

func probeOnly(serve http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			writeError(w, r, http.StatusMethodNotAllowed, "method not allowed")
			return
		}
		serve(w, r)
	})
}
