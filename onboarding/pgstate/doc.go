// Package pgstate keeps the state of package onboarding in PostgreSQL: where
// each tenant stands, the steps that were done for it, and the audit log.
//
//	store, err := pgstate.New(controlPool, nil)
//	provisioner, err := onboarding.New(store, steps, nil)
//
// The tables are mcpsaas.tenant_lifecycle, mcpsaas.tenant_steps and
// mcpsaas.audit_log; [Migrate] makes them, after tenancy.Migrate. The tenant's
// entry in the directory (mcpsaas.tenants) is written by package tenancy in the
// same transaction, so that plan, status and the notice to the replicas are
// never apart.
//
// Every write is guarded by the state and the fencing token that the writer
// has read. Time is the database's, so that replicas need not agree on it.
//
// [Store.List], [Store.Steps] and [Store.Audit] are for operators.
package pgstate
