package cloudevents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// classify says what the answer to an event proves. A status of 4xx proves that
// it was not applied; it is a refusal for good if it is about the event itself,
// and else about the way there, which somebody will mend. Everything else but a
// success may have been applied.
func (r *Reporter) classify(resp *http.Response) billing.Receipt {
	receipt := billing.Receipt{RequestID: resp.Header.Get("X-Request-Id")}
	status := resp.StatusCode
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" && status < 400 {
		receipt.Reason = "cloudevents: an answer that is not the receiver's" // a proxy, or a captive portal
		return receipt
	}
	receipt.Reason = reason(resp)
	switch {
	case status == http.StatusOK, status == http.StatusCreated, status == http.StatusAccepted, status == http.StatusNoContent:
		receipt.Result, receipt.Reason = billing.Accepted, ""
	case status == r.opts.Duplicate:
		receipt.Result, receipt.Reason = billing.AlreadyAccepted, ""
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		receipt.Result = billing.Unauthorized
	case status == http.StatusTooManyRequests:
		receipt.Result, receipt.RetryAfter = billing.NotApplied, retryAfter(resp, time.Second)
	case status == http.StatusRequestTimeout, status == http.StatusConflict:
		// The receiver gave up on a request, or is at an earlier one.
		receipt.RetryAfter = retryAfter(resp, 2*time.Second)
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnprocessableEntity:
		receipt.Result = billing.Rejected
	case status >= 400 && status < 500:
		receipt.Result, receipt.RetryAfter = billing.NotApplied, retryAfter(resp, time.Minute)
	case status >= 500:
		receipt.RetryAfter = retryAfter(resp, 0)
	}
	return receipt
}

// retryAfter reads the header of that name, in seconds, or returns least.
func retryAfter(resp *http.Response, least time.Duration) time.Duration {
	const most = time.Hour
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return least
	}
	return min(max(least, time.Duration(min(seconds, 1<<20))*time.Second), most)
}

// reason is the status, and the receiver's own words where it uses RFC 9457.
func reason(resp *http.Response) string {
	s := fmt.Sprintf("cloudevents: status %d", resp.StatusCode)
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/problem+json" || resp.StatusCode == http.StatusUnauthorized {
		return s
	}
	var problem struct{ Title, Detail string }
	if json.NewDecoder(io.LimitReader(resp.Body, 16<<10)).Decode(&problem) != nil {
		return s
	}
	for _, words := range []string{problem.Title, problem.Detail} {
		if words = strings.ToValidUTF8(words, ""); words != "" {
			s += fmt.Sprintf(": %.200s", words)
		}
	}
	return s
}

// lost is the receipt of a request without an answer. Its reason has no address:
// the client's own error would quote it.
func lost(err error) billing.Receipt {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return billing.Receipt{Result: billing.NotApplied, Reason: "cloudevents: no connection"}
	}
	return billing.Receipt{Reason: describe(err).Error()}
}

func describe(err error) error {
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("cloudevents: request cancelled")
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return errors.New("cloudevents: no answer in time")
	}
	return errors.New("cloudevents: connection lost")
}
