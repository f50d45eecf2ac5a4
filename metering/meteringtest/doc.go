// Package meteringtest helps to test code that meters: a limiter with a clock
// that stands still, a sink and a store that remember, and the conformance
// suites that every metering.Limiter and usage.Sink must pass.
//
//	limiter, clock := meteringtest.NewLimiter()
//	sink := &meteringtest.Sink{}
//	meter, err := metering.New(limiter, sink, &metering.Options{Now: clock.Now})
package meteringtest
