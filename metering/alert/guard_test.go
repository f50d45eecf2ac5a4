package alert_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/alert"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// refusedAddresses are not of the public internet, by the number of each
// registry's entry and at its edges, and in the ways of writing an IPv4 address
// as one of IPv6.
var refusedAddresses = []string{
	"0.0.0.0", "0.1.2.3", "10.0.0.0", "10.255.255.255", "100.64.0.1", "100.127.255.255",
	"100.100.100.200", // metadata of a cloud
	"127.0.0.1", "127.255.255.254", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255",
	"192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.7",
	"203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
	"::", "::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1",
	"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:93.184.215.14", "::7f00:1", "::10.0.0.1",
	"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
	"2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2001:10::1", "100::1", "3fff::1", "5f00::1", "4000::1",
}

var publicAddresses = []string{
	"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
	"169.253.255.255", "192.167.255.255", "198.20.0.0", "223.255.255.255", "93.184.215.14",
	"2606:4700:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888", "2003::1",
}

func newSender(t testing.TB, url string, opts *alert.Options) *alert.Sender {
	t.Helper()
	s, err := alert.NewSender(alert.EndpointsFunc(func(context.Context, tenant.ID) (alert.Endpoint, error) {
		return alert.Endpoint{URL: url, Secrets: []string{secret}}, nil
	}), opts)
	require.NoError(t, err)
	return s
}

func host(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + strings.ReplaceAll(ip, "%", "%25") + "]"
	}
	return ip
}

// An address that is written into the URL. Mutation: without the look at the
// address, all of the first list are taken.
func TestAddresses(t *testing.T) {
	t.Parallel()
	s := newSender(t, "", nil)
	for _, ip := range refusedAddresses {
		require.ErrorIs(t, s.CheckURL("https://"+host(ip)+"/hook"), alert.ErrRefused, ip)
	}
	for _, ip := range publicAddresses {
		require.NoError(t, s.CheckURL("https://"+host(ip)+"/hook"), ip)
	}
	allowing := newSender(t, "", &alert.Options{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	require.NoError(t, allowing.CheckURL("https://10.1.2.3/"))
	require.ErrorIs(t, allowing.CheckURL("https://10.2.2.3/"), alert.ErrRefused)
}

func TestURLs(t *testing.T) {
	t.Parallel()
	s := newSender(t, "", nil)
	require.NoError(t, s.CheckURL("https://hooks.example.com/a?b=c"))
	require.NoError(t, s.CheckURL("https://hooks.example.com:443/a"))
	for _, url := range []string{
		"", "hooks.example.com", "http://hooks.example.com/", "ftp://hooks.example.com/", "file:///etc/passwd", "unix:///run/x",
		"gopher://hooks.example.com/", "https://", "https:hooks.example.com", "https://user:pw@hooks.example.com/", "https://hooks.example.com:6379/",
		"https://hooks.example.com:0/", "https://hooks.example.com:99999/", "https://hooks.example.com:-1/", "https://[::1/", "https://h\x00st/",
		"https://hooks.example.com/" + strings.Repeat("x", 2000),
	} {
		require.ErrorIs(t, s.CheckURL(url), alert.ErrRefused, url)
	}
	other := newSender(t, "", &alert.Options{Ports: []uint16{8443}, AllowHTTP: true})
	require.NoError(t, other.CheckURL("http://hooks.example.com:8443/"))
	require.ErrorIs(t, other.CheckURL("https://hooks.example.com/"), alert.ErrRefused)
}

// names is a name server that gives the next of its addresses to every question
// of that address's family.
type names struct {
	mu      sync.Mutex
	answers []netip.Addr
}

func (n *names) next(kind uint16) (address []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ip := n.answers[0]
	if ip.Is4() && kind != 1 || ip.Is6() && kind != 28 { // A, AAAA
		return nil
	}
	if len(n.answers) > 1 {
		n.answers = n.answers[1:]
	}
	return ip.AsSlice()
}

// resolver returns a resolver that asks n.
func (n *names) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo(n.answer(buf[:size]), from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answer answers a question of one name as RFC 1035 section 4 has it.
func (n *names) answer(question []byte) []byte {
	end := 12
	for question[end] != 0 {
		end += 1 + int(question[end])
	}
	end += 5
	kind := binary.BigEndian.Uint16(question[end-4:])
	reply := append([]byte{}, question[:2]...)
	reply = append(reply, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
	reply = append(reply, question[12:end]...)
	address := n.next(kind)
	if address == nil {
		return reply
	}
	reply[7] = 1
	reply = append(reply, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(address)))
	return append(reply, address...)
}

// A name that leads to one address now and to another a moment later. Mutation: with
// the look at the address taken from the dialer, the connection goes to 127.0.0.1.
func TestRebinding(t *testing.T) {
	t.Parallel()
	public, inside := netip.MustParseAddr("93.184.215.14"), netip.MustParseAddr("127.0.0.1")
	server := &names{answers: []netip.Addr{public, inside, public, inside}}
	s := newSender(t, "https://rebinding.example.com/", nil)
	s.Resolve(server.resolver(t))
	var reached sync.Map
	var times atomic.Int64
	s.Stop(func(address string) { reached.Store(address, true); times.Add(1) })
	refused := 0
	for range 4 {
		require.NoError(t, s.CheckURL("https://rebinding.example.com/"))
		err := s.Send(t.Context(), tenant.NewID(), message)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "127.0.0.1")
		require.NotContains(t, err.Error(), "rebinding")
		if strings.Contains(err.Error(), "refused") {
			require.ErrorIs(t, err, alert.ErrRefused)
			refused++
		}
	}
	require.Equal(t, 2, refused)
	require.EqualValues(t, 2, times.Load())
	reached.Range(func(address, _ any) bool {
		require.Equal(t, "93.184.215.14:443", address)
		return true
	})
}

// Every address of the corpus, as the answer to a name. Mutations: with a dialer
// that judges IPv4 addresses alone, those of IPv6 are connected to; with one that
// judges IPv6 addresses alone, those of IPv4.
func TestNamesThatLeadInside(t *testing.T) {
	t.Parallel()
	send := func(ip string) (connected string, err error) {
		s := newSender(t, "https://name.example.com/", nil)
		s.Resolve((&names{answers: []netip.Addr{netip.MustParseAddr(ip).WithZone("")}}).resolver(t))
		s.Stop(func(address string) { connected = address })
		err = s.Send(t.Context(), tenant.NewID(), message)
		return connected, err
	}
	const mapped = "::ffff:93.184.215.14" // which a resolver takes for the address that it stands for
	for _, ip := range refusedAddresses {
		if ip == mapped {
			continue
		}
		connected, err := send(ip)
		require.ErrorIs(t, err, alert.ErrRefused, ip)
		require.Empty(t, connected, ip)
	}
	for _, ip := range append([]string{mapped}, publicAddresses...) {
		connected, err := send(ip)
		require.NotErrorIs(t, err, alert.ErrRefused, ip)
		require.Equal(t, net.JoinHostPort(strings.TrimPrefix(ip, "::ffff:"), "443"), connected)
	}
}
