package main

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mcpsaas/mcpsaas/health"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
)

// metrics are counted by plan, never by tenant: ten thousand tenants would be
// more than a million series.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	units    *prometheus.CounterVec
	over     *prometheus.CounterVec
	faults   *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mcp_server_operation_duration_seconds",
			Help:    "Duration of tool calls.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12),
		}, []string{"tool", "outcome", "plan", "source"}),
		units: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcp_units_total", Help: "Units charged."}, []string{"tool", "plan"}),
		over: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mcp_over_limit_total", Help: "Calls served that a soft or shadow limit would have refused.",
		}, []string{"limit", "plan"}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcp_faults_total", Help: "Panics and errors hidden from callers."}, []string{"class"}),
	}
	m.registry.MustRegister(m.calls, m.units, m.over, m.faults, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(o metering.Observation) {
	m.calls.WithLabelValues(o.Tool, string(o.Outcome), string(o.Plan), string(o.Source)).Observe(o.Duration.Seconds())
	m.units.WithLabelValues(o.Tool, string(o.Plan)).Add(float64(o.Units))
	if o.Over != "" {
		m.over.WithLabelValues(o.Over, string(o.Plan)).Inc()
	}
}

func (m *metrics) fault(_ context.Context, f mcptenant.Fault) {
	m.faults.WithLabelValues(f.Class).Inc()
}

// metricsHandler serves the metrics. Gauges are read from what is known already: a
// scrape runs no check and asks no database.
func (a *app) metricsHandler() http.Handler {
	r := a.metrics.registry
	r.MustRegister(healthCollector{a.checks}, connectionCollector{a.db}, billingCollector{a.worker}, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mcp_quota_breaker_open", Help: "1 while the limiter is not asked after repeated failures.",
	}, func() float64 {
		if a.meter.Stats().BreakerOpen {
			return 1
		}
		return 0
	}))
	for _, c := range []struct {
		name, help string
		value      func(metering.Stats) int64
	}{
		{"mcp_quota_unmetered_total", "Calls let through while the limiter was away.", func(s metering.Stats) int64 { return s.Unmetered }},
		{"mcp_quota_unjournaled_total", "What the limiter will not be told of when it is back.", func(s metering.Stats) int64 { return s.Unjournaled }},
		{"mcp_quota_in_doubt_total", "Questions to the limiter whose answer was lost and of which nothing tells what became.", func(s metering.Stats) int64 { return s.InDoubt }},
	} {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: c.name, Help: c.help}, func() float64 { return float64(c.value(a.meter.Stats())) }))
	}
	for state, count := range map[string]func(metering.Stats) int64{
		"told":   func(s metering.Stats) int64 { return s.AlertsTold },
		"failed": func(s metering.Stats) int64 { return s.AlertsFailed },
		"lost":   func(s metering.Stats) int64 { return s.AlertsLost },
	} {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "mcp_alerts_total", Help: "Alerts of usage that were told, tries that failed, and alerts that were given up.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count(a.meter.Stats())) }))
	}
	metrics := promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What is shown of health and billing is what the checks have read last: a
		// scrape has them look, so that it never shows what nobody has asked for.
		a.checks.Probe(r.Context())
		metrics.ServeHTTP(w, r)
	})
}

// healthCollector shows the last result of each check.
type healthCollector struct{ checks *health.Aggregator }

var healthDesc = prometheus.NewDesc("mcp_health_status", "1 if the check is ok, else 0.", []string{"check"}, nil)

func (healthCollector) Describe(ch chan<- *prometheus.Desc) { ch <- healthDesc }

func (c healthCollector) Collect(ch chan<- prometheus.Metric) {
	for _, r := range c.checks.Snapshot() {
		value := 0.0
		if r.Status == health.StatusOK {
			value = 1
		}
		ch <- prometheus.MustNewConstMetric(healthDesc, prometheus.GaugeValue, value, r.Name)
	}
}

// connectionCollector shows the connections that tenants' statements take: those to
// the first database, and the budget of those to databases of their own.
type connectionCollector struct{ db *tenancy.DB }

var (
	connectionsDesc = prometheus.NewDesc("mcp_db_connections", "Connections for tenants' statements.", []string{"pool", "state"}, nil)
	waitingDesc     = prometheus.NewDesc("mcp_db_waiting", "Calls that wait for a connection to a tenant's own database.", nil, nil)
	poolsDesc       = prometheus.NewDesc("mcp_db_pools", "Tenants' own databases that connections are kept for.", nil, nil)
	openedDesc      = prometheus.NewDesc("mcp_db_opened_total", "Connections opened to tenants' own databases.", nil, nil)
	evictedDesc     = prometheus.NewDesc("mcp_db_evicted_total", "Connections closed in favour of another tenant's database.", nil, nil)
	refusedDesc     = prometheus.NewDesc("mcp_db_refused_total", "Calls that got no connection to a tenant's own database in time.", nil, nil)
	starvedDesc     = prometheus.NewDesc("mcp_db_starved_seconds_total", "Time that calls waited because the budget of connections was spent.", nil, nil)
)

func (connectionCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, waitingDesc, poolsDesc, openedDesc, evictedDesc, refusedDesc, starvedDesc} {
		ch <- d
	}
}

func (c connectionCollector) Collect(ch chan<- prometheus.Metric) {
	home, own := c.db.Stat(), c.db.DatabaseStats()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	gauge(connectionsDesc, float64(home.AcquiredConns()), "home", "in_use")
	gauge(connectionsDesc, float64(home.IdleConns()), "home", "idle")
	gauge(connectionsDesc, float64(home.MaxConns()), "home", "max")
	gauge(connectionsDesc, float64(own.InUse), "tenants", "in_use")
	gauge(connectionsDesc, float64(own.Idle), "tenants", "idle")
	gauge(connectionsDesc, float64(own.MaxConns), "tenants", "max")
	gauge(waitingDesc, float64(own.Waiting))
	gauge(poolsDesc, float64(own.Pools))
	count(openedDesc, float64(own.Opened))
	count(evictedDesc, float64(own.Evicted))
	count(refusedDesc, float64(own.Refused))
	count(starvedDesc, own.Starved.Seconds())
}
