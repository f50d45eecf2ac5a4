package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// tap is a way to a server that can be closed, after which nothing passes and
// no connection ends: how a machine looks that hangs.
type tap struct {
	addr string
	mu   sync.Mutex
	shut bool
	open *sync.Cond
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &tap{addr: l.Addr().String()}
	p.open = sync.NewCond(&p.mu)
	var wg sync.WaitGroup
	var conns []net.Conn
	carry := func(dst, src net.Conn) {
		defer dst.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := src.Read(b)
			p.mu.Lock()
			for p.shut {
				p.open.Wait()
			}
			p.mu.Unlock()
			if n > 0 {
				if _, err := dst.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			conns = append(conns, in, out)
			p.mu.Unlock()
			wg.Go(func() { carry(out, in) })
			wg.Go(func() { carry(in, out) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.set(false)
		p.mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *tap) set(shut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = shut
	p.open.Broadcast()
}

// through returns the URL with the tap's address in it.
func (p *tap) through(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.Host = p.addr
	return u.String()
}

func hostOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Host
}

// TestStopWhileAllHangs tells a server to stop while calls are under way, a
// client keeps a half-sent request open, and Postgres, Redis and Stripe hang:
// it ends well, and what was answered is billed by the next one.
//
// Mutation that it saw: waiting for the workers and the pools until they end
// takes longer than a stop may.
func TestStopWhileAllHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	postgres := newTap(t, hostOf(t, w.env["DATABASE_URL"]))
	for _, name := range []string{"DATABASE_URL", "APP_DATABASE_URL"} {
		w.env[name] = postgres.through(t, w.env[name])
	}
	r := w.spawn()
	pro := r.tenant(tenant.Pro)
	for n := range 10 {
		a, err := post(t.Context(), r.MCPURL, pro.APIKey, "", string(rune('a'+n)), "search_products", map[string]any{})
		require.NoError(t, err)
		require.False(t, a.isErr, a.text)
	}
	half, err := net.Dial("tcp", w.env["ADDR"])
	require.NoError(t, err)
	defer half.Close()
	_, err = io.WriteString(half, "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)

	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Slow, Delay: time.Minute, Times: -1})
	w.redis.Freeze()
	postgres.set(true)
	var calls sync.WaitGroup
	for range 3 {
		calls.Go(func() {
			if _, err := post(t.Context(), r.MCPURL, pro.APIKey, "", "cut", "search_products", map[string]any{}); err == nil {
				t.Error("answered while the database hangs")
			}
		})
	}
	eventually(t, "the monitor sees it", func() bool {
		status, _ := getHealth(t, r)
		return status == http.StatusServiceUnavailable
	})

	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	select {
	case err := <-stopped:
		require.NoError(t, err, "an orderly stop")
	case <-time.After(15 * time.Second): // the contract; 10 are planned
		t.Fatal("the server doesn't stop")
	}
	calls.Wait()
	w.redis.Thaw()
	w.stripe.Heal()
	postgres.set(false)
	w.spawn()
	w.billed(t, pro.StripeCustomer, 10)
}

// TestStopBeforeReady tells a server to stop while it makes its dev stack.
//
// Mutation that it saw: an error of what was interrupted, taken for the
// server's own.
func TestStopBeforeReady(t *testing.T) {
	t.Parallel()
	newWorld(t) // skips where there is no PostgreSQL
	cmd := exec.Command(os.Args[0], "serve", "-addr", "127.0.0.1:0", "-admin-addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), asServer+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "Starting")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
}
