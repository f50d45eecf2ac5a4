package stripetest_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
)

// A request whose answer is lost was applied all the same; its idempotency key
// makes the repetition harmless.
func Example() {
	stripe := stripetest.NewServer(nil)
	defer stripe.Close()
	stripe.Inject(stripetest.Fault{Kind: stripetest.DropAfter, Path: "/v1/customers"})

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
