package main

import (
	"sync"
	"time"
)

// What strangers may cause of calls to Stripe, all together: half of what
// Stripe allows an account (100 a second, https://docs.stripe.com/rate-limits),
// so that a flood of sign-ups leaves the usage reporter its share.
const (
	strangersPerSecond = 50
	strangersBurst     = 100
)

// bucket is a token bucket. Its zero value is full.
type bucket struct {
	mu    sync.Mutex
	spent float64 // tokens that are missing
	at    time.Time
}

// take takes a token, if there is one.
func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.spent = max(0, b.spent-passed*strangersPerSecond)
		b.at = now
	}
	if b.spent+1 > strangersBurst {
		return false
	}
	b.spent++
	return true
}
