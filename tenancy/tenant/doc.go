// Package tenant is the one notion of who is calling.
//
// A [Tenant] travels in the context from the authenticated request to the
// statement that touches the tenant's rows:
//
//	ctx = tenant.NewContext(ctx, t)          // done by mcptenant, or by a job
//	t, ok := tenant.FromContext(ctx)         // read by tenancy, metering and your handlers
//
// There is no default tenant. Code that finds none must refuse to work; every
// package of this module does.
//
// An [ID] can only be made by [ParseID] or [NewID]. Whoever holds one may
// derive schema names, Redis keys and file names from it without escaping: it
// is a UUID in canonical form, whatever the outside world sent.
//
// The package imports the standard library alone, so that it costs an importer
// nothing.
package tenant
