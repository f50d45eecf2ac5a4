//go:build e2e

package stripebill_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// TestForeignSignatures: what Stripe's own libraries for Node.js and Python
// sign is taken by our handler, and what the emulator signs, also with two
// secrets, is taken by theirs; a payload that was changed by nobody.
//
// STRIPE_NODE is a directory with the npm package stripe, STRIPE_PYTHON a
// Python that can import stripe; .ci/e2e-stripe makes both.
func TestForeignSignatures(t *testing.T) {
	t.Parallel()
	for name, program := range map[string][]string{
		"stripe-node":   {os.Getenv("STRIPE_NODE"), "node", "testdata/sign.mjs"},
		"stripe-python": {os.Getenv("STRIPE_PYTHON"), os.Getenv("STRIPE_PYTHON"), "testdata/sign.py"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NotEmpty(t, program[0], "make e2e brings Stripe's libraries")
			run := func(payload string, args ...string) (string, error) {
				cmd := exec.CommandContext(t.Context(), program[1], append(program[2:3:3], args...)...)
				cmd.Stdin = strings.NewReader(payload)
				out, err := cmd.Output()
				return string(out), err
			}
			const payload = `{"id":"evt_1","object":"event","type":"customer.created","created":1,"data":{"object":{"id":"cus_1","object":"customer","name":"Ä \u00e9 日本"}}}`
			const secret, other = "whsec_one", "whsec_two"
			now := time.Now() // their clocks are the machine's

			header, err := run(payload, "sign", secret, strconv.FormatInt(now.Unix(), 10))
			require.NoError(t, err)
			handler, err := stripebill.NewWebhook(acceptAll{}, []string{other, secret}, nil)
			require.NoError(t, err)
			post := func(body string) int {
				req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
				req.Header.Set("Stripe-Signature", header)
				rec := httptest.NewRecorder()
				handler.ServeHTTP(rec, req)
				return rec.Code
			}
			require.Equal(t, 200, post(payload))
			require.Equal(t, 400, post(strings.Replace(payload, "cus_1", "cus_2", 1)))

			ours := stripetest.Sign([]byte(payload), secret, now)
			id, err := run(payload, "verify", secret, ours)
			require.NoError(t, err)
			require.Equal(t, "evt_1", id)
			_, err = run(payload, "verify", other, ours)
			require.Error(t, err)
			_, err = run(strings.Replace(payload, "cus_1", "cus_2", 1), "verify", secret, ours)
			require.Error(t, err)

			body, header, secrets := rolledWebhook(t)
			for _, s := range secrets {
				_, err = run(body, "verify", s, header)
				require.NoError(t, err, "a webhook during a roll")
			}
		})
	}
}

type acceptAll struct{}

func (acceptAll) Accept(context.Context, billing.Notice) (bool, error) { return true, nil }

// rolledWebhook is a webhook of the emulator while its secret is rolled.
func rolledWebhook(t *testing.T) (body, header string, secrets []string) {
	t.Helper()
	w := setup(t, &stripetest.Options{Now: time.Now})
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		body, header = string(data), r.Header.Get("Stripe-Signature")
	}))
	w.raw(t, http.MethodPost, "/v1/customers", "")
	secrets = []string{w.stripe.WebhookSecret, w.stripe.RollWebhookSecret(time.Hour)}
	w.stripe.SetWebhookURL(endpoint.URL)
	_, err := w.stripe.Deliver(t.Context(), w.stripe.Events()[0].ID)
	require.NoError(t, err)
	endpoint.Close() // waits for the handler
	return body, header, secrets
}
