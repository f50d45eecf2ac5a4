// Package billingtest holds what a billing provider, and whoever connects to
// one, is tested with.
//
// [Provider] is a provider in memory that forgets, loses answers and repeats
// saved failures as real ones do. [TestReporter] checks that a
// [billing.Reporter] keeps what the pipeline relies on. [Matrix] lists more than a
// thousand ways to crash and fail, and [Scenario.Run] plays one in a [World]: what
// is billed in the end must be what was produced, to the unit, each in its billing
// period; where that can't be, it must be on record.
//
//	for _, s := range billingtest.Matrix() {
//		outcome, err := s.Run(ctx, world(t))
//		...
//		if !outcome.Honest() || s.Open() && !outcome.Exact() { ... }
//	}
package billingtest
