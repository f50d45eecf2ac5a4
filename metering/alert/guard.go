package alert

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
)

// ErrRefused is matched by the errors of an endpoint that is not sent to,
// whatever is there: it is not https, or leads into a network that is not the
// public internet.
var ErrRefused = errors.New("alert: endpoint refused")

// special are the networks that are not the public internet, by the IANA
// IPv4 and IPv6 Special-Purpose Address Registries, and those whose addresses
// stand for IPv4 addresses: through a translator they lead anywhere.
var special = prefixes(
	"0.0.0.0/8",        // this network; on Linux, this host
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // shared by carriers' translators, and by clouds
	"127.0.0.0/8",      // loopback
	"169.254.0.0/16",   // link-local: the metadata services of clouds
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments, with a metadata service
	"192.0.2.0/24",     // documentation
	"192.31.196.0/24",  // AS112
	"192.52.193.0/24",  // AMT
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"192.175.48.0/24",  // AS112
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, and broadcast
	"168.63.129.16/32", // the platform service of Azure, public by its number
)

// global6 is all of IPv6 that is given out for the public internet; special6 are
// the parts of it that are not.
var (
	global6  = netip.MustParsePrefix("2000::/3")
	special6 = prefixes(
		"2001::/23",         // protocol assignments: Teredo, ORCHID, benchmarks
		"2001:db8::/32",     // documentation
		"2002::/16",         // 6to4
		"2620:4f:8000::/48", // AS112
		"3fff::/20",         // documentation
	)
)

func prefixes(list ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(list))
	for i, s := range list {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// public reports whether an address is one of the public internet. IPv4 that is
// written as IPv6 is no address of its own and never public.
func public(ip netip.Addr) bool {
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(ip) })
	}
	switch {
	case !ip.IsValid() || ip.Zone() != "" || ip.Is4In6():
		return false
	case ip.Is4():
		return !in(special)
	default:
		return global6.Contains(ip) && !in(special6)
	}
}

// control refuses a connection that is about to be opened. The address has been
// resolved by then and is the one that is connected to.
func (s *Sender) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: no address", ErrRefused)
	}
	if slices.ContainsFunc(s.allow, func(p netip.Prefix) bool { return p.Contains(to.Addr()) }) {
		return nil
	}
	if !s.ports[to.Port()] {
		return fmt.Errorf("%w: port %d", ErrRefused, to.Port())
	}
	if !public(to.Addr()) {
		return fmt.Errorf("%w: its address is not one of the public internet", ErrRefused)
	}
	return nil
}

// CheckURL reports whether a URL can be an endpoint, to tell whoever types it in
// at once; where its name leads is looked at when something is sent.
func (s *Sender) CheckURL(raw string) error {
	_, err := s.parse(raw)
	return err
}

func (s *Sender) parse(raw string) (*url.URL, error) {
	if len(raw) > 2000 {
		return nil, fmt.Errorf("%w: the URL has more than 2000 characters", ErrRefused)
	}
	u, err := url.Parse(raw)
	if err != nil { // the error quotes what may be a secret
		return nil, fmt.Errorf("%w: no URL", ErrRefused)
	}
	port := uint64(443)
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && s.plain:
		port = 80
	default:
		return nil, fmt.Errorf("%w: want https://", ErrRefused)
	}
	if u.Hostname() == "" || u.Opaque != "" {
		return nil, fmt.Errorf("%w: the URL has no host", ErrRefused)
	}
	if u.User != nil {
		return nil, fmt.Errorf("%w: the URL has a user", ErrRefused)
	}
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return nil, fmt.Errorf("%w: port %q", ErrRefused, p)
		}
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := s.control("", net.JoinHostPort(ip.String(), strconv.Itoa(int(port))), nil); err != nil {
			return nil, err
		}
	} else if len(s.allow) == 0 && !s.ports[uint16(port)] {
		return nil, fmt.Errorf("%w: port %d", ErrRefused, port)
	}
	return u, nil
}
