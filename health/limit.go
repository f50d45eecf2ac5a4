package health

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// What a stranger may ask for in vain: once a second, five times in a row.
const (
	limitEvery = time.Second
	limitBurst = 5
	limitIPs   = 10_000
)

// ipLimiter is a token bucket per address, as the generic cell rate algorithm
// keeps it: one time each, the time at which the bucket will be full again.
type ipLimiter struct {
	mu   sync.Mutex
	full *lru[netip.Prefix, time.Time]
}

func newIPLimiter() *ipLimiter {
	return &ipLimiter{full: newLRU[netip.Prefix, time.Time](limitIPs)}
}

// take takes a token of the address, or says how long there will be none.
func (l *ipLimiter) take(addr string) (wait time.Duration) {
	key := limitKey(addr)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	full, ok := l.full.get(key)
	if !ok || full.Before(now) {
		full = now
	}
	if full = full.Add(limitEvery); full.Sub(now) > limitBurst*limitEvery {
		return full.Sub(now) - limitBurst*limitEvery
	}
	l.full.put(key, full)
	return 0
}

// limitKey is the address, or for IPv6 the /64 that one customer of a network
// commonly has to itself. What is no address shares one bucket.
func limitKey(addr string) netip.Prefix {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits) // fails only for a number of bits that the address hasn't
	return prefix
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
