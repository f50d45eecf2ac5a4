package meteringtest_test

import (
	"os"
	"testing"

	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
)

func TestMemoryLimiter(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(*testing.T) meteringtest.LimiterFixture {
		limiter, clock := meteringtest.NewLimiter()
		calls := 20_000
		if os.Getenv("SOAK") != "" {
			calls = 500_000
		}
		return meteringtest.LimiterFixture{Limiter: limiter, Now: clock.Now, Advance: clock.Advance, Calls: calls}
	})
}

func TestMemorySink(t *testing.T) {
	t.Parallel()
	meteringtest.TestSink(t, func(*testing.T) meteringtest.SinkFixture {
		sink := &meteringtest.Sink{}
		return meteringtest.SinkFixture{Sink: sink, Events: sink.Events}
	})
}
