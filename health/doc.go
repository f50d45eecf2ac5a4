// Package health tells monitors, load balancers and operators whether the
// server does its work, and tells strangers nothing else.
//
//	checks, err := health.New(&health.Options{
//		Checks:       []health.Check{{Name: "redis", Run: limiter.Check}},
//		TenantChecks: []health.TenantCheck{{Name: "rls_canary", Run: db.Canary}},
//		Authorize:    authorize,
//	})
//	mux.Handle("GET /livez", checks.Handler(health.Live))
//	mux.Handle("GET /readyz", checks.Handler(health.Ready))
//	mux.Handle("GET /startupz", checks.Handler(health.Startup))
//	mux.Handle("GET /health", checks.Handler(health.Monitor))
//	mux.Handle("GET /health/t/{token}", checks.TokenHandler())
//
// # Four questions
//
// [Live] asks whether to restart the process; no check ever runs for it, so
// that a dependency's outage restarts nothing. [Ready] asks whether to send
// this instance traffic: only checks marked Ready count, and a draining
// instance says no. [Startup] asks whether it has come up. [Monitor] asks
// whether the product works, and answers 503 as soon as a check that counts is
// not ok. Give Monitor to whoever wakes people, never to a load balancer: what
// fails on all instances at once would take all of them out.
//
// # Who sees what
//
// Anybody gets the status and the time. Names, error classes and durations go
// to those whom [Options].Authorize or [Options].ResolveToken recognises: an
// operator sees everything and may ask for a tenant with ?tenant=; a tenant's
// credential sees its own checks, and one line for the platform. A stranger's
// ?tenant= gets the answer that it would get without, whether the tenant
// exists or not. The text of an error goes to the log and nowhere else.
//
// # What a check costs
//
// However many probes arrive, a check runs once at a time, its result is
// cached, and a probe is answered within [Options].ProbeTimeout. Checks of
// tenants share a bounded number of slots and a bounded cache. A check that
// ignores its context holds one goroutine, is reported as timed out until it
// returns, and isn't started again before. A check that hasn't run, or whose
// result is too old, is [StatusUnknown], which is never ok.
//
// The package imports the standard library alone.
package health
