package pgstate_test

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func Example() {
	ctx := context.Background()
	config, err := tenancy.ControlConfig("postgres://owner@localhost/shop")
	if err != nil {
		log.Fatal(err)
	}
	control, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer control.Close()
	store, err := pgstate.New(control, nil)
	if err != nil {
		log.Fatal(err)
	}
	var steps onboarding.Steps // of onboarding.Standard
	provisioner, err := onboarding.New(store, steps, nil)
	if err != nil {
		log.Fatal(err)
	}
	id := tenant.NewID()
	if err := provisioner.Provision(ctx, onboarding.Request{Tenant: id, Plan: tenant.Free}); err != nil {
		log.Fatal(err)
	}

	// Operators see where the tenants stand, and why.
	failed, err := store.List(ctx, pgstate.Filter{States: []tenant.Status{tenant.Failed}})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range failed {
		log.Println(r.Tenant, r.Failure.Step, r.Failure.Text)
	}
}
