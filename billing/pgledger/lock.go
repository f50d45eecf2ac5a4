package pgledger

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Advisory locks, all of one transaction. The first number is the class.
//
// The tenant's lock is held to seal its usage and to change its billing
// periods, so that these see each other's whole work. Two tenants may share a
// lock by accident, which costs a wait.
//
// The append locks are for usage on its way in: whether it is to be billed is
// decided from the billing periods, so these must not change between the look
// and the commit. Append shares the locks of its tenants' buckets; who changes
// a tenant's periods takes that bucket alone, after the tenant's lock. There
// are few buckets because one Append may hold all of them, and locks are a
// fixed resource of the server.
const (
	lockTenantSQL = `select pg_advisory_xact_lock(822001, hashtext($1::text))`
	lockBucketSQL = `select pg_advisory_xact_lock(822002, get_byte(uuid_send($1::uuid), 15) & 31)`
	lockAppendSQL = `select pg_advisory_xact_lock_shared(822002, b) from (
		select distinct get_byte(uuid_send(t), 15) & 31 as b from unnest($1) as t order by 1) as buckets`
)

func lockTenant(ctx context.Context, tx pgx.Tx, id tenant.ID) error {
	_, err := tx.Exec(ctx, lockTenantSQL, id.String())
	return err
}
