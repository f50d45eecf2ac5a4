// Package billingtest holds what a billing provider, and whoever connects to
// one, is tested with.
package billingtest
