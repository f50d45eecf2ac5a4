package meteringtest_test

import (
	"testing"

	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
)

func TestMemoryLimiter(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(*testing.T) meteringtest.LimiterFixture {
		limiter, clock := meteringtest.NewLimiter()
		return meteringtest.LimiterFixture{Limiter: limiter, Now: clock.Now, Advance: clock.Advance, Calls: 20_000}
	})
}

func TestMemorySink(t *testing.T) {
	t.Parallel()
	meteringtest.TestSink(t, func(*testing.T) meteringtest.SinkFixture {
		sink := &meteringtest.Sink{}
		return meteringtest.SinkFixture{Sink: sink, Events: sink.Events}
	})
}
