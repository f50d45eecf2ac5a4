package tenancy_test

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxy stands between a client and the server, counts round trips, and makes
// each take longer. A round trip is counted when the client sends after the
// server has: the protocol takes turns.
type proxy struct {
	listener net.Listener
	target   *url.URL
	delay    time.Duration
	turns    atomic.Int64
	opened   atomic.Int64
	wg       sync.WaitGroup
}

func newProxy(t testing.TB, target string, delay time.Duration) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, target: u, delay: delay}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		listener.Close()
		p.wg.Wait()
	})
	return p
}

// url is the target's, by way of the proxy.
func (p *proxy) url() string {
	u := *p.target
	query := u.Query()
	query.Del("host")
	query.Del("port")
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	u.Host = p.listener.Addr().String()
	return u.String()
}

func (p *proxy) dial() (net.Conn, error) {
	query := p.target.Query()
	host, port := p.target.Hostname(), p.target.Port()
	if h := query.Get("host"); h != "" {
		host = h
	}
	if q := query.Get("port"); q != "" {
		port = q
	}
	if host != "" && host[0] == '/' {
		return net.Dial("unix", host+"/.s.PGSQL."+port)
	}
	return net.Dial("tcp", net.JoinHostPort(host, port))
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := p.dial()
		if err != nil {
			client.Close()
			continue
		}
		p.opened.Add(1)
		var answered atomic.Bool
		p.wg.Go(func() {
			p.carry(server, client, func() {
				if answered.Swap(false) {
					p.turns.Add(1)
				}
			})
		})
		p.wg.Go(func() { p.carry(client, server, func() { answered.Store(true) }) })
	}
}

// carry takes from src to dst; half of the delay falls on either way.
func (p *proxy) carry(dst, src net.Conn, before func()) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			before()
			if p.delay > 0 {
				<-time.After(p.delay / 2) // the length of the link
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
