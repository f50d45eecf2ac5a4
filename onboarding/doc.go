// Package onboarding brings tenants to life, and to an orderly end.
//
// What a tenant should be is written down first; a reconciler then makes it so,
// in steps that are recorded one by one. So a webhook only says what is wanted
// and is done, saying it fifty times is saying it once, and a crash at any
// point is made good by whoever comes next, without being asked again.
//
//	steps, err := onboarding.Standard(onboarding.Parts{Isolation: data, Keys: keys, Canary: canary, ...})
//	provisioner, err := onboarding.New(state, steps, nil) // state: package pgstate
//	go provisioner.Run(ctx)                               // in each replica
//
//	err = provisioner.Provision(ctx, onboarding.Request{Tenant: id, Plan: "pro"})
//	_, err = provisioner.Wait(ctx, id, tenant.Active)
//
// # The life of a tenant
//
// The states and what leads from one to the next are one table, [Next]:
//
//	requested -> provisioning -> active <-> suspended
//	                  |            |            |
//	                failed         +-----+------+
//	                  |                  |
//	                  +------> deprovision_scheduled  (grace: restore leads back to active)
//	                                     |
//	                               deprovisioning -> purging -> deleted
//
// Closing and opening the door, and a change of plan, need no work: they take
// effect in the transaction in which they are asked for. Anything that the
// table doesn't have is refused with a [*TransitionError], and nothing is
// changed. A deleted tenant's id is never used again.
//
// # Who may want what
//
// [Provisioner.Raise] is for billing: all that it says of a tenant each time,
// ordered by a sequence number. [Provisioner.Provision], Suspend, Resume,
// Deprovision, Restore and Retry are for operators, with an actor and a reason
// for the audit log. Neither lifts what the other has imposed.
//
// # Steps
//
// A [Step] has to be idempotent; what it returns is stored for later steps. An
// error is tried again with growing waits, and after ten attempts the operation
// fails, is shown, and begins again in an hour; [Terminal] errors wait for an
// operator. Two provisioners never work on one tenant at once: a lease says
// who does, and a fencing token keeps one that stalled from writing.
//
// [Standard] has the steps for tenants on shared tables. A tenant is active
// only after a [Canary], a real MCP client with a key of the tenant's own, has
// gone through the whole server and has seen the tenant's own marker and no
// other. Nothing of a leaving tenant is dropped before its last usage is
// billed and its [Archive] has been read back and found good.
package onboarding
