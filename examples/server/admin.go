package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// adminMux is what the operator can reach, on a listener and with a credential
// of its own. An API key of a tenant opens nothing here.
func (a *app) adminMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /console", a.console)
	mux.Handle("GET /metrics", a.metricsHandler())
	mux.Handle("GET /health", a.checks.Handler(health.Monitor))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /{$}", http.RedirectHandler("/console", http.StatusSeeOther))
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.isOperator(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="admin"`)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

type consolePage struct {
	Status  health.Status
	Checks  []health.Result
	Billing []consoleLine
	Tenants []consoleTenant
}

type consoleLine struct{ Name, Value string }

type consoleTenant struct {
	ID        tenant.ID
	Name      string
	Plan      tenant.Plan
	Placement tenancy.Placement
	Limits    string // of its own
	Status    tenant.Status
	Why       string
}

// console is one page to look at when something is wrong.
func (a *app) console(w http.ResponseWriter, r *http.Request) {
	page, err := a.consolePage(r.Context())
	var b bytes.Buffer
	if err == nil {
		err = pages.ExecuteTemplate(&b, "console.html", page)
	}
	if err != nil {
		a.logger.ErrorContext(r.Context(), "console can't be drawn", "err", err)
		http.Error(w, "the console can't be drawn; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	w.Write(b.Bytes())
}

func (a *app) consolePage(ctx context.Context) (consolePage, error) {
	report := a.checks.Probe(ctx)
	page := consolePage{Status: report.Status, Checks: report.Checks}
	stats, err := a.ledger.Stats(ctx, tenant.ID{})
	if err != nil {
		return page, err
	}
	page.Billing = []consoleLine{
		{"oldest usage that is in no batch", age(stats.OldestUnsealed)},
		{"oldest batch that Stripe hasn't confirmed", age(stats.OldestUnconfirmed)},
		{"batches on their way, unknown, parked, rejected", fmt.Sprintf("%d, %d, %d, %d", stats.Open, stats.Unknown, stats.Parked, stats.Rejected)},
		{"last answer of Stripe", age(stats.LastAnswer)},
		{"last webhook", age(stats.LastNotice)},
		{"webhooks that wait, that are dead", fmt.Sprintf("%d, %d", stats.PendingNotices, stats.DeadNotices)},
	}
	records, err := a.state.List(ctx, pgstate.Filter{Limit: 200})
	if err != nil {
		return page, err
	}
	for _, t := range records {
		row := consoleTenant{ID: t.Tenant, Name: t.Spec.Name, Plan: t.Spec.Plan, Status: t.State}
		row.Placement, _, _ = a.directory.Placement(t.Tenant)
		known, _ := a.directory.Lookup(t.Tenant)
		for i, l := range known.Limits {
			if i > 0 {
				row.Limits += ", "
			}
			row.Limits += limitText(l)
		}
		if t.Failure != nil {
			row.Why = t.Failure.Step + ": " + string(t.Failure.Class)
		}
		page.Tenants = append(page.Tenants, row)
	}
	return page, nil
}

// age says how long ago t was.
func age(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}
