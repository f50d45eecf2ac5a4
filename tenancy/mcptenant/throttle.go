package mcptenant

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// throttle counts refused credentials per client address: burst at once, then
// as many a minute. It only ever decides how a refusal is worded, so a good
// credential from a noisy address is served.
type throttle struct {
	every time.Duration // one failure is forgiven each
	burst int

	mu   sync.Mutex
	full map[netip.Prefix]time.Time // when the address has a full allowance again
}

// maxAddresses bounds the memory of a throttle. Addresses beyond it share one
// allowance until old ones are forgiven.
const maxAddresses = 8192

func newThrottle(perMinute int) *throttle {
	return &throttle{
		every: time.Minute / time.Duration(perMinute),
		burst: perMinute,
		full:  make(map[netip.Prefix]time.Time),
	}
}

// failed counts a failure of addr and returns how long the client should wait;
// zero means that it is still within its allowance.
func (t *throttle) failed(now time.Time, addr netip.Prefix) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	full, known := t.full[addr]
	if !known && len(t.full) >= maxAddresses {
		for a, f := range t.full {
			if !f.After(now) {
				delete(t.full, a)
			}
		}
		if len(t.full) >= maxAddresses {
			addr = netip.Prefix{}
			full = t.full[addr]
		}
	}
	if full.Before(now) {
		full = now
	}
	next := full.Add(t.every)
	if limit := now.Add(time.Duration(t.burst) * t.every); next.After(limit) {
		return next.Sub(limit)
	}
	t.full[addr] = next
	return 0
}

// clientAddr returns the address a request came from, as the unit that one
// client controls: a single IPv4 address, or the /64 of an IPv6 address.
// X-Forwarded-For is believed as far as trusted proxies wrote it.
func clientAddr(r *http.Request, trusted []netip.Prefix) netip.Prefix {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	addr := ap.Addr().Unmap()
	if contains(trusted, addr) {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0; i-- {
			hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
			if err != nil {
				break
			}
			addr = hop.Unmap()
			if !contains(trusted, addr) {
				break
			}
		}
	}
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.WithZone("").Prefix(bits)
	return p
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
