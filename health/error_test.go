package health_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/mcpsaas/mcpsaas/health"
)

type adapterError struct{ class string }

func (e adapterError) Error() string       { return "adapter" }
func (e adapterError) HealthClass() string { return e.class }

func TestErrorsBecomeStatusAndClass(t *testing.T) {
	t.Parallel()
	refused := func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		_, err = net.Dial("tcp", l.Addr().String())
		return err
	}
	tests := []struct {
		name   string
		err    error
		status health.Status
		class  health.Class
	}{
		{"nil", nil, health.StatusOK, ""},
		{"nil degraded", health.Degraded(nil), health.StatusOK, ""},
		{"nil with a class", health.WithClass(nil, health.ClassAuth), health.StatusOK, ""},
		{"plain", errBoom, health.StatusDown, health.ClassInternal},
		{"degraded", health.Degraded(errBoom), health.StatusDegraded, health.ClassInternal},
		{"degraded, wrapped, with a class", fmt.Errorf("x: %w", health.Degraded(health.WithClass(errBoom, health.ClassQuery))), health.StatusDegraded, health.ClassQuery},
		{"class around degraded", health.WithClass(health.Degraded(errBoom), health.ClassAuth), health.StatusDegraded, health.ClassAuth},
		{"adapter's class", fmt.Errorf("x: %w", adapterError{"auth"}), health.StatusDown, health.ClassAuth},
		{"adapter's own words", adapterError{"host db.internal"}, health.StatusDown, health.ClassInternal},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), health.StatusDown, health.ClassTimeout},
		{"i/o deadline", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, health.StatusDown, health.ClassTimeout},
		{"refused", refused(), health.StatusDown, health.ClassRefused},
		{"no such host", &net.DNSError{Err: "no such host", Name: "db.internal", IsNotFound: true}, health.StatusDown, health.ClassRefused},
		{"resolver's time-out", &net.DNSError{Err: "i/o timeout", IsTimeout: true}, health.StatusDown, health.ClassTimeout},
		{"joined", errors.Join(errBoom, health.WithClass(errBoom, health.ClassQuery)), health.StatusDown, health.ClassQuery},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := switchable{tt.err}
			a := newAggregator(t, one(health.Check{Name: "x", Run: s.run}))
			wantStatus(t, first(t, a), tt.status, tt.class)
		})
	}
}

func TestWrappedErrorsKeepTheirCause(t *testing.T) {
	t.Parallel()
	for _, err := range []error{health.Degraded(errBoom), health.WithClass(errBoom, health.ClassAuth)} {
		if !errors.Is(err, errBoom) || err.Error() != errBoom.Error() {
			t.Errorf("%T hides its cause: %v", err, err)
		}
	}
}
