package stripetest_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// stateEnv makes this test binary an emulator that keeps its state in the file
// it names.
const stateEnv = "STRIPETEST_STATE"

func TestMain(m *testing.M) {
	if path := os.Getenv(stateEnv); path != "" {
		s := stripetest.NewServer(&stripetest.Options{StateFile: path})
		_, _ = os.Stdout.WriteString(s.URL + " " + s.SecretKey + "\n")
		select {}
	}
	os.Exit(m.Run())
}

// TestStateSurvivesAKill: what a client was told is still true after a kill -9,
// idempotency keys and identifiers included. Mutation seen by it: the state
// saved after the answer.
func TestStateSurvivesAKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stripe.json")
	begin := func() (*stripetest.Server, func()) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), stateEnv+"="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		base, key, _ := strings.Cut(strings.TrimSpace(line), " ")
		kill := func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		t.Cleanup(kill)
		return &stripetest.Server{Emulator: &stripetest.Emulator{SecretKey: key}, URL: base}, kill
	}
	s, kill := begin()
	key := s.SecretKey
	o := newShop(t, s, false)
	total := 0
	for i := range 60 {
		if i%10 == 9 {
			kill()
			s, kill = begin()
			require.Equal(t, key, s.SecretKey)
		}
		form := o.use("3", "batch-"+strconv.Itoa(i), time.Now())
		header := http.Header{"Idempotency-Key": {strconv.Itoa(i)}}
		status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", form, header)
		require.Equal(t, 200, status, "%v", out)
		total += 3
	}
	kill()
	s, _ = begin()
	// The key replays; without it the identifier is known.
	form := o.use("3", "batch-59", time.Now())
	form.Set("timestamp", unix(time.Now()))
	status, _, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", form, nil)
	require.Equal(t, 400, status)

	from := time.Now().Add(-time.Hour).Truncate(time.Minute)
	q := url.Values{"customer": {o.customer}, "start_time": {unix(from)}, "end_time": {unix(from.Add(2 * time.Hour))}}
	_, out, _ := call(t, s, http.MethodGet, "/v1/billing/meters/"+o.meter+"/event_summaries?"+q.Encode(), nil, nil)
	require.EqualValues(t, total, out["data"].([]any)[0].(map[string]any)["aggregated_value"])
}

// TestWebhooksSurviveARestart: what was not delivered is delivered by the next
// process.
func TestWebhooksSurviveARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stripe.json")
	s := newServer(t, &stripetest.Options{Now: time.Now, StateFile: path})
	s.HoldWebhooks()
	s.SetWebhookURL("http://127.0.0.1:1/")
	create(t, s, "/v1/customers", nil)
	s.Close()

	h := newHook(t, s, 0)
	again := newServer(t, &stripetest.Options{Now: time.Now, StateFile: path, WebhookURL: h.URL})
	require.Equal(t, s.WebhookSecret, again.WebhookSecret)
	again.ReleaseWebhooks()
	require.Eventually(t, func() bool { return len(h.types()) == 1 }, time.Minute, 5*time.Millisecond)
	require.NoError(t, h.bad)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds secrets")
}

func TestStateThatIsNone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stripe.json")
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err := stripetest.New(&stripetest.Options{StateFile: path})
	require.ErrorContains(t, err, "not a state file")
	_, err = stripetest.New(&stripetest.Options{StateFile: filepath.Join(path, "x")})
	require.Error(t, err)
	_, err = stripetest.New(&stripetest.Options{SummaryLag: -1})
	require.ErrorContains(t, err, "SummaryLag")
}

// TestHandlerWithoutServer: the emulator is a handler like any other, and cuts
// connections as well as a recorder lets it.
func TestHandlerWithoutServer(t *testing.T) {
	t.Parallel()
	e, err := stripetest.New(nil)
	require.NoError(t, err)
	t.Cleanup(e.Close)
	req := httptest.NewRequest(http.MethodGet, "/v1/balance", nil)
	req.SetBasicAuth(e.SecretKey, "")
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, req)
	require.Equal(t, 200, rec.Code)
	e.Inject(stripetest.Fault{Kind: stripetest.DropBefore})
	require.Panics(t, func() { e.ServeHTTP(httptest.NewRecorder(), req) })
	require.Equal(t, 2, e.Requests("GET /v1/balance"))
	rec = httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/c/pay/cs_unknown", nil))
	require.Equal(t, 404, rec.Code)
}
