package devtest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
)

// The tests of NoLeaks aren't parallel: it can't be.

func TestNoLeaksFinds(t *testing.T) {
	stop := make(chan struct{})
	r := &recorder{TB: t}
	r.run(func() {
		devtest.NoLeaks(r)
		go leak(stop)
	})
	close(stop)
	require.True(t, r.failed)
	require.Contains(t, r.said, "1 goroutines left")
	require.Contains(t, r.said, "devtest_test.leak")
}

func leak(stop chan struct{}) { <-stop }

func TestNoLeaksWaits(t *testing.T) {
	before := make(chan struct{})
	defer close(before)
	go leak(before)
	r := &recorder{TB: t}
	stop := make(chan struct{})
	r.run(func() {
		devtest.NoLeaks(r)
		go leak(stop)
		r.Cleanup(func() { time.AfterFunc(50*time.Millisecond, func() { close(stop) }) })
	})
	require.False(t, r.failed, r.said)
}

func TestNoLeaksKnowsTheServices(t *testing.T) {
	r := &recorder{TB: t}
	r.run(func() {
		devtest.NoLeaks(r)
		t.Run("test", func(t *testing.T) {
			devtest.DB(t, devtest.Template{Name: "empty"}).Pool(t)
			devtest.SharedRedis(t)
		})
	})
	require.False(t, r.failed, r.said)
}

func TestLogger(t *testing.T) {
	t.Parallel()
	devtest.Logger(t).Debug("shown with the test's output", "tenant", "t")
	require.True(t, devtest.Logger(t).Enabled(t.Context(), -4))
}
