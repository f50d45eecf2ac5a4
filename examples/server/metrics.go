package main

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mcpsaas/mcpsaas/health"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
)

// metrics are counted by plan, never by tenant: ten thousand tenants would be
// more than a million series.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	units    *prometheus.CounterVec
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
		units:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcp_units_total", Help: "Units charged."}, []string{"tool", "plan"}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcp_faults_total", Help: "Panics and errors hidden from callers."}, []string{"class"}),
	}
	m.registry.MustRegister(m.calls, m.units, m.faults, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(o metering.Observation) {
	m.calls.WithLabelValues(o.Tool, string(o.Outcome), string(o.Plan), string(o.Source)).Observe(o.Duration.Seconds())
	m.units.WithLabelValues(o.Tool, string(o.Plan)).Add(float64(o.Units))
}

func (m *metrics) fault(_ context.Context, f mcptenant.Fault) {
	m.faults.WithLabelValues(f.Class).Inc()
}

// metricsHandler serves the metrics. Gauges are read from what is known already: a
// scrape runs no check and asks no database.
func (a *app) metricsHandler() http.Handler {
	r := a.metrics.registry
	r.MustRegister(healthCollector{a.checks}, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mcp_quota_breaker_open", Help: "1 while the limiter is not asked after repeated failures.",
	}, func() float64 {
		if a.meter.Stats().BreakerOpen {
			return 1
		}
		return 0
	}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
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
