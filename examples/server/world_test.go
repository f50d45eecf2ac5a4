package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// asServer makes this test binary the server, so that a test can kill it.
const asServer = "MCPSAAS_TEST_AS_SERVER"

func TestMain(m *testing.M) {
	switch os.Getenv(asServer) {
	case "":
		os.Exit(keepNothing(m))
	case bareServer:
		serveBare()
	default:
		main()
	}
}

// keepNothing runs the tests with an empty cache directory, in which nothing may be
// when they end: what a server keeps there is one directory for each database, and
// each test has databases of its own.
//
// Mutation that it saw: a directory made for a server that has nothing to keep.
func keepNothing(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cache")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} { // as os.UserCacheDir asks
		os.Setenv(name, dir)
	}
	code := m.Run()
	var kept []string
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		if filepath.Base(path) == "mcpsaas" {
			kept = append(kept, path)
		}
		return nil
	})
	if len(kept) > 0 {
		fmt.Fprintln(os.Stderr, "tests would leave in the user's cache directory:", kept)
		return 1
	}
	return code
}

// unitsMeter is the meter's event name at Stripe.
const unitsMeter = "mcpsaas_units"

// world is all that a server needs, outliving the server: a database, a Redis
// and a Stripe of the test's own.
type world struct {
	t      testing.TB
	db     *pgxpool.Pool // the owner's, which the policies bind too
	super  string        // URL of the superuser, whom they don't
	redis  *devtest.RedisServer
	stripe *stripetest.Server
	env    map[string]string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	db := devtest.DB(t, devtest.Template{Name: "empty"})
	w := &world{t: t, db: db.Pool(t), super: db.Superuser, redis: devtest.DurableRedis(t), stripe: stripetest.NewServer(nil)}
	t.Cleanup(w.stripe.Close)
	addr := freeAddr(t)
	w.stripe.SetWebhookURL("http://" + addr + "/webhooks/stripe")
	w.env = map[string]string{
		"ADDR": addr, "ADMIN_ADDR": "127.0.0.1:0",
		"DATABASE_URL": db.URL, "APP_DATABASE_URL": db.As("app_user"), "REDIS_URL": w.redis.URL,
		"STRIPE_API_BASE": w.stripe.URL, "STRIPE_SECRET_KEY": w.stripe.SecretKey, "STRIPE_WEBHOOK_SECRET": w.stripe.WebhookSecret,
		"API_KEY_PEPPER": strings.Repeat("p", 32), "TENANT_DATABASES": sameServer, "SPOOL_DIR": filepath.Join(t.TempDir(), "spool"), "REPORT_INTERVAL": "1s",
		// The budget is about Redis; here it would be about a busy machine.
		"REDIS_BUDGET": "2s",
	}
	return w
}

// superPool sees every row, whoever it belongs to.
func (w *world) superPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), w.super)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// freeAddr returns an address that was free a moment ago: a server that is
// killed and started again must come back where Stripe calls it.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// ending is how a server ended, once it has.
type ending struct {
	done chan struct{}
	err  error
}

func (e *ending) wait() error {
	<-e.done
	return e.err
}

// running is a server that serves.
type running struct {
	demo
	base string
	kill func() // kill -9; nil for a server in this process
	stop func() error
}

// tenant returns the demo tenant of a plan.
func (r *running) tenant(plan tenant.Plan) demoTenant {
	for _, t := range r.Tenants {
		if t.Plan == plan {
			return t
		}
	}
	panic("no such plan: " + string(plan))
}

func (w *world) demoFile() string { return filepath.Join(w.t.TempDir(), "demo.json") }

// await waits for the demo file, or for the server's end.
func (w *world) await(file string, end *ending) *running {
	w.t.Helper()
	deadline := time.After(90 * time.Second)
	for {
		if b, err := os.ReadFile(file); err == nil {
			r := &running{base: "http://" + w.env["ADDR"]}
			require.NoError(w.t, json.Unmarshal(b, &r.demo))
			return r
		}
		select {
		case <-end.done:
			w.t.Fatalf("the server ended before it was ready: %v", end.err)
		case <-deadline:
			w.t.Fatal("the server isn't ready after 90 s")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// serve runs the server in this process until the test ends.
func (w *world) serve(extend func(*app, *mcp.Server), args ...string) *running {
	w.t.Helper()
	file := w.demoFile()
	cmd, rest, err := pick(append([]string{"serve", "-demo-json", file}, args...))
	require.NoError(w.t, err)
	getenv := func(name string) string { return w.env[name] }
	c := new(config)
	_, err = c.parse("serve", rest, getenv, io.Discard)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var stderr bytes.Buffer
	end := &ending{done: make(chan struct{})}
	go func() {
		end.err = cmd.run(ctx, &environment{config: c, getenv: getenv, stdout: io.Discard, stderr: &stderr, extend: extend}, nil)
		close(end.done)
	}()
	stop := func() error {
		cancel()
		return end.wait()
	}
	w.t.Cleanup(func() {
		if err := stop(); err != nil {
			w.t.Errorf("server: %v", err)
		}
		if w.t.Failed() {
			w.t.Logf("the server's log:\n%s", stderr.Bytes())
		}
	})
	r := w.await(file, end)
	r.stop = stop
	return r
}

// spawn runs the server in a process of its own, until it serves.
func (w *world) spawn(args ...string) *running {
	w.t.Helper()
	file := w.demoFile()
	kill, stop, end := w.launch(file, args...)
	r := w.await(file, end)
	r.kill, r.stop = kill, stop
	return r
}

// launch starts the server in a process of its own.
func (w *world) launch(file string, args ...string) (kill func(), stop func() error, end *ending) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"serve", "-demo-json", file}, args...)...)
	cmd.Env = append(os.Environ(), asServer+"=1", "HOME=", "XDG_CACHE_HOME=", "LocalAppData=") // as some services run
	for name, value := range w.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(w.t, cmd.Start())
	end = &ending{done: make(chan struct{})}
	go func() {
		end.err = cmd.Wait()
		close(end.done)
	}()
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		end.wait()
		if w.t.Failed() {
			w.t.Logf("the server's log:\n%s", stderr.Bytes())
		}
	})
	kill = func() {
		require.NoError(w.t, cmd.Process.Kill())
		end.wait()
	}
	stop = func() error {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			return err
		}
		return end.wait()
	}
	return kill, stop, end
}

// command runs another command of the server on the same world.
func (w *world) command(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(w.t.Context(), args, func(name string) string { return w.env[name] }, &out, io.Discard)
	return out.String(), err
}

// bearer adds a token to every request.
type bearer struct{ token string }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return http.DefaultTransport.RoundTrip(r)
}

// connect opens a session of the real SDK client. An empty revision is the
// newest.
func connect(t *testing.T, r *running, token, revision string) *mcp.ClientSession {
	t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "v1"}, nil)
	var opts *mcp.ClientSessionOptions
	if revision != "" {
		opts = &mcp.ClientSessionOptions{ProtocolVersion: revision}
	}
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: r.MCPURL, HTTPClient: &http.Client{Transport: bearer{token}}, DisableStandaloneSSE: true,
	}, opts)
	require.NoError(t, err)
	t.Cleanup(func() { session.Close() })
	return session
}

// answer is what came back for a call over plain HTTP.
type answer struct {
	status int
	id     string
	isErr  bool // the tool's error, or the protocol's
	text   string
	out    json.RawMessage
	meta   map[string]json.RawMessage
}

// post makes one call over plain HTTP, as a client without a session does.
func post(ctx context.Context, url, token, session, id, tool string, args any) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": id, "method": "tools/call",
		"params": map[string]any{"name": tool, "arguments": args},
	})
	if err != nil {
		return answer{}, err
	}
	return postRaw(ctx, url, token, session, body)
}

func postRaw(ctx context.Context, url, token, session string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		req.Header.Set("Mcp-Session-Id", session)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode}
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(res.Body)
		a.text = string(b)
		return a, err
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			data = lines.Text()
		}
		if !strings.HasPrefix(data, "{") {
			continue
		}
		var message struct {
			ID     string `json:"id"`
			Error  *struct{ Message string }
			Result *struct {
				Meta    map[string]json.RawMessage `json:"_meta"`
				IsError bool                       `json:"isError"`
				Content []struct{ Text string }
				Out     json.RawMessage `json:"structuredContent"`
			}
		}
		if err := json.Unmarshal([]byte(data), &message); err != nil {
			return a, fmt.Errorf("answer %q: %w", data, err)
		}
		switch {
		case message.Error != nil:
			a.id, a.isErr, a.text = message.ID, true, message.Error.Message
			return a, nil
		case message.Result != nil:
			a.id, a.isErr, a.out, a.meta = message.ID, message.Result.IsError, message.Result.Out, message.Result.Meta
			for _, c := range message.Result.Content {
				a.text += c.Text
			}
			return a, nil
		}
	}
	return a, errors.Join(lines.Err(), io.ErrUnexpectedEOF)
}

// getHealth returns the status code and the status of /health.
func getHealth(t *testing.T, r *running) (int, string) {
	t.Helper()
	res, err := http.Get(r.HealthURL)
	require.NoError(t, err)
	defer res.Body.Close()
	var body struct{ Status string }
	require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
	return res.StatusCode, body.Status
}

// eventually waits for a condition, with a bound that no machine needs.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 90*time.Second, 20*time.Millisecond, what)
}

// formPost posts a form, asks for JSON and follows no redirect.
func formPost(t testing.TB, address string, form url.Values, out any) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	if out != nil {
		require.NoError(t, json.NewDecoder(res.Body).Decode(out))
	}
	return res
}

// askStripe makes a request of the API that must succeed, as a person does who
// changes something there. into may be nil.
func (w *world) askStripe(t testing.TB, method, path string, form url.Values, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.stripe.URL+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+w.stripe.SecretKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	if into != nil {
		require.NoError(t, json.NewDecoder(res.Body).Decode(into))
	}
}
