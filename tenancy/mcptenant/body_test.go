package mcptenant_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
)

// A client that sends nothing more is let go, whether it was let in or not, and
// whether the body is looked at or not. Mutation: without the deadline it holds
// its connection for ever.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	w := open(t, config{http: mcptenant.Options{BodyTimeout: 50 * time.Millisecond}})
	w.keys.add("good")
	const head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
	for _, tc := range []struct {
		name, token, body string
		status            int
	}{
		{"stranger", "bad", `{"json`, 401},
		{"nothing", "good", ``, 408},
		{"white space", "good", ` `, 408},
		{"half a message", "good", `{"jsonrpc":"2.0","id":1,"meth`, 400},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprint(tc.name, " ", chunked), func(t *testing.T) {
				t.Parallel()
				conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "http://"), "/mcp"))
				require.NoError(t, err)
				defer conn.Close()
				require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
				rest := "Content-Length: 1000\r\n\r\n" + tc.body
				if chunked {
					rest = fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s", len(tc.body)+1, tc.body)
				}
				_, err = io.WriteString(conn, head+"Authorization: Bearer "+tc.token+"\r\n"+rest)
				require.NoError(t, err)
				r := bufio.NewReader(conn)
				res, err := http.ReadResponse(r, nil)
				require.NoError(t, err)
				text, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, tc.status, res.StatusCode, string(text))
				require.NotContains(t, string(text), "127.0.0.1")
				_, err = io.Copy(io.Discard, r)
				require.NoError(t, err, "the connection is closed")
			})
		}
	}
}

// The bound is the body's: the answer takes the time that it takes.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	const limit = 200 * time.Millisecond
	between := func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
			select {
			case <-r.Context().Done():
				io.WriteString(w, "cancelled")
			case <-time.After(5 * limit):
			}
		})
	}
	w := open(t, config{between: between, http: mcptenant.Options{BodyTimeout: limit}})
	w.keys.add("good")
	for range 3 {
		require.Equal(t, "{}", w.post(t, "good", "{}").body)
	}
}

// A message takes ten times its size while it is decoded, so that few large ones
// of a tenant are handled at once; that holds back neither its small ones nor
// another tenant. Mutation: without the gate all ten are inside together.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprint("chunked ", chunked), func(t *testing.T) {
			t.Parallel()
			var inside, most atomic.Int64
			entered, release := make(chan struct{}, 100), make(chan struct{})
			let := sync.OnceFunc(func() { close(release) })
			w := open(t, config{between: func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						http.Error(w, err.Error(), http.StatusBadRequest)
						return
					}
					if len(body) < 100 {
						return
					}
					for n := inside.Add(1); n > most.Load(); {
						most.Store(n)
					}
					entered <- struct{}{}
					<-release
					inside.Add(-1)
				})
			}})
			t.Cleanup(let)
			w.keys.add("a")
			w.keys.add("b")
			large := func(token string) int {
				var body io.Reader = strings.NewReader(strings.Repeat("x", 200<<10))
				if chunked {
					body = io.MultiReader(body) // of no known length
				}
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url, body)
				require.NoError(t, err)
				r.Header.Set("Authorization", "Bearer "+token)
				return do(t, r).status
			}
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if status := large("a"); status != http.StatusOK {
						t.Errorf("a: %d", status)
					}
				})
			}
			for range 4 {
				<-entered
			}
			require.Equal(t, http.StatusOK, w.post(t, "a", "{}").status, "a small one")
			wg.Go(func() {
				if status := large("b"); status != http.StatusOK {
					t.Errorf("b: %d", status)
				}
			})
			<-entered
			require.EqualValues(t, 5, inside.Load())
			let()
			wg.Wait()
			require.LessOrEqual(t, most.Load(), int64(5))
		})
	}
}

func TestTooManyLargeBodies(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	w := open(t, config{http: mcptenant.Options{BodyTimeout: 300 * time.Millisecond}, between: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			select {
			case <-release:
			case <-time.After(10 * time.Second): // the test fails then
			}
		})
	}})
	w.keys.add("a")
	var refused atomic.Int64
	var wg sync.WaitGroup
	for range 7 {
		wg.Go(func() {
			got := w.post(t, "a", strings.Repeat("x", 200<<10))
			if got.status == http.StatusTooManyRequests && got.header.Get("Retry-After") != "" {
				if refused.Add(1) == 3 {
					close(release) // the other four
				}
			} else if got.status != http.StatusOK {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 3, refused.Load())
}
