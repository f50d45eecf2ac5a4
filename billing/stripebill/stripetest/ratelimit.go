package stripetest

import "net/http"

// RateLimits are how many requests a second of the emulator's clock takes; 0 is
// any number. Stripe's are {100, 25, 1000} in live mode and {25, 25, 0} in a
// sandbox (https://docs.stripe.com/rate-limits).
type RateLimits struct {
	Account  int // all endpoints together
	Endpoint int // each endpoint
	// MeterEvents counts the meter events apart: they are not in the others.
	// 0: they are.
	MeterEvents int
}

// rate counts the requests of one second, by endpoint; "" is the account.
type rate struct {
	second int64
	counts map[string]int
}

const meterEvents = "POST /v1/billing/meter_events"

// limited refuses a request that is one too many. It happens before the
// idempotency key is looked at, so that nothing is saved. It needs the lock.
func (e *Emulator) limited(r *http.Request) (answer, bool) {
	if now := e.now().Unix(); e.rate.counts == nil || e.rate.second != now {
		e.rate = rate{second: now, counts: map[string]int{}}
	}
	limits := e.opts.RateLimits
	full := func(name string, most int) bool {
		if most == 0 {
			return false
		}
		e.rate.counts[name]++
		return e.rate.counts[name] > most
	}
	reason := ""
	switch {
	case r.Pattern == meterEvents && limits.MeterEvents > 0:
		if full(r.Pattern, limits.MeterEvents) {
			reason = "endpoint-rate"
		}
	case full("", limits.Account):
		reason = "global-rate"
	case full(r.Pattern, limits.Endpoint):
		reason = "endpoint-rate"
	}
	if reason == "" {
		return answer{}, false
	}
	a := answerOf(nil, &apiError{Status: http.StatusTooManyRequests, Code: "rate_limit",
		Message: "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits."})
	a.header.Set("Stripe-Rate-Limited-Reason", reason)
	return a, true
}
