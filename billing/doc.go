// Package billing turns usage into what a provider bills, exactly once.
package billing
