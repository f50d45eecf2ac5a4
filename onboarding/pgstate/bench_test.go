package pgstate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkProvision is one tenant from the wish to the activation, with the
// canary through the whole handler.
func BenchmarkProvision(b *testing.B) {
	w := setup(b)
	p := w.provisioner(w.store, nil)
	w.run(p)
	for b.Loop() {
		id := tenant.NewID()
		require.NoError(b, p.Provision(b.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
		_, err := p.Wait(b.Context(), id, tenant.Active)
		require.NoError(b, err)
	}
}
