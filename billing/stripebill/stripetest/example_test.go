package stripetest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
)

// A request whose answer is lost was applied all the same; its idempotency key
// makes the repetition harmless.
func Example() {
	stripe := stripetest.NewServer(nil)
	defer stripe.Close()
	stripe.Inject(stripetest.Fault{Kind: stripetest.DropAfter, Endpoint: "POST /v1/customers"})

	form := url.Values{"email": {"ada@example.com"}}.Encode()
	for range 2 {
		req, _ := http.NewRequest(http.MethodPost, stripe.URL+"/v1/customers", strings.NewReader(form))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Idempotency-Key", "signup-1")
		req.SetBasicAuth(stripe.SecretKey, "")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println("no answer")
			continue
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode, "replayed:", resp.Header.Get("Idempotent-Replayed"))
	}
	for _, event := range stripe.Events() {
		fmt.Println(event.Type)
	}
	// Output:
	// no answer
	// 200 replayed: true
	// customer.created
}

// post sends a form with the standard library alone.
func post(stripe *stripetest.Server, path string, form url.Values) int {
	req, _ := http.NewRequest(http.MethodPost, stripe.URL+path, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(stripe.SecretKey, "")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A day later an idempotency key is forgotten: what was safe to repeat makes a
// second customer. So whatever must happen once needs more than the key.
func ExampleEmulator_Advance() {
	stripe := stripetest.NewServer(nil)
	defer stripe.Close()
	signUp := func() {
		req, _ := http.NewRequest(http.MethodPost, stripe.URL+"/v1/customers", nil)
		req.Header.Set("Idempotency-Key", "signup-1")
		req.SetBasicAuth(stripe.SecretKey, "")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println("customers:", len(stripe.Events()))
	}
	signUp()
	stripe.Advance(23 * time.Hour)
	signUp()
	stripe.Advance(time.Hour)
	signUp()
	// Output:
	// customers: 1
	// customers: 1
	// customers: 2
}

// The second creation of a customer fails, and no other.
func ExampleEmulator_Inject() {
	stripe := stripetest.NewServer(nil)
	defer stripe.Close()
	stripe.Inject(stripetest.Fault{Kind: stripetest.RateLimited, Endpoint: "POST /v1/customers", Skip: 1})
	for range 3 {
		fmt.Println(post(stripe, "/v1/customers", nil))
	}
	// Output:
	// 200
	// 429
	// 200
}

// Webhooks in the wrong order, and one of them twice: an endpoint that tells
// repetitions by the event's id, and asks Stripe for the state, doesn't mind.
func ExampleEmulator_Deliver() {
	stripe := stripetest.NewServer(nil)
	defer stripe.Close()
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("webhook")
	}))
	defer endpoint.Close()
	stripe.HoldWebhooks()
	stripe.SetWebhookURL(endpoint.URL)

	post(stripe, "/v1/customers", nil)
	post(stripe, "/v1/products", url.Values{"name": {"Pro"}})
	events := stripe.Events()
	for _, i := range []int{1, 0, 1} {
		status, err := stripe.Deliver(context.Background(), events[i].ID)
		fmt.Println(events[i].Type, status, err)
	}
	// Output:
	// webhook
	// product.created 200 <nil>
	// webhook
	// customer.created 200 <nil>
	// webhook
	// product.created 200 <nil>
}

// Every webhook is lost. Whoever asks for what was not delivered finds it all
// the same, and here delivers it by hand.
func ExampleEmulator_DisturbWebhooks() {
	stripe := stripetest.NewServer(nil)
	defer stripe.Close()
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer endpoint.Close()
	stripe.SetWebhookURL(endpoint.URL)
	lost := make(chan stripetest.Event, 1)
	stripe.DisturbWebhooks(func(e stripetest.Event) stripetest.Fate {
		lost <- e
		return stripetest.Lost
	})

	post(stripe, "/v1/customers", nil)
	event := <-lost
	fmt.Println("lost:", event.Type)
	status, err := stripe.Deliver(context.Background(), event.ID)
	fmt.Println("delivered after all:", status, err)
	// Output:
	// lost: customer.created
	// delivered after all: 200 <nil>
}
