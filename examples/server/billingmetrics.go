package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mcpsaas/mcpsaas/billing"
)

// billingCollector shows what the check of billing read last. An age of what is not
// there is 0, that of what never was is left out.
type billingCollector struct{ worker *billing.Worker }

var (
	billingAgeDesc = prometheus.NewDesc("mcp_billing_age_seconds",
		"How old the oldest is of what waits, or how long ago something was last done.", []string{"of"}, nil)
	billingCountDesc = prometheus.NewDesc("mcp_billing_count", "What waits in billing, or is wrong; no more than 1000 are counted.", []string{"of"}, nil)
	billingDriftDesc = prometheus.NewDesc("mcp_billing_drift_units", "By how many units the provider's totals differ from what was confirmed.", nil, nil)
	billingAuthDesc  = prometheus.NewDesc("mcp_billing_unauthorized", "1 while the provider refuses the credential.", nil, nil)
)

func (billingCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{billingAgeDesc, billingCountDesc, billingDriftDesc, billingAuthDesc} {
		ch <- d
	}
}

func (c billingCollector) Collect(ch chan<- prometheus.Metric) {
	s, now := c.worker.Stats(), time.Now()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for of, since := range map[string]time.Time{
		"unsealed": s.OldestUnsealed, "unconfirmed": s.OldestUnconfirmed, "inbox": s.OldestNotice,
	} {
		age := 0.0
		if !since.IsZero() {
			age = now.Sub(since).Seconds()
		}
		gauge(billingAgeDesc, age, of)
	}
	for of, last := range map[string]time.Time{
		"last_answer": s.LastAnswer, "last_webhook": s.LastNotice, "last_reconcile": s.LastReconcile,
	} {
		if !last.IsZero() {
			gauge(billingAgeDesc, now.Sub(last).Seconds(), of)
		}
	}
	for of, n := range map[string]int{
		"unsealed": s.Unsealed, "open": s.Open, "unknown": s.Unknown, "parked": s.Parked, "rejected": s.Rejected,
		"at_risk": s.AtRisk, "drifting": s.Drifting, "webhooks_pending": s.PendingNotices, "webhooks_dead": s.DeadNotices,
	} {
		gauge(billingCountDesc, float64(n), of)
	}
	gauge(billingDriftDesc, float64(s.Drift))
	refused := 0.0
	if !s.Unauthorized.IsZero() {
		refused = 1
	}
	gauge(billingAuthDesc, refused)
}
