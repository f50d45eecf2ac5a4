package apikey_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Mutations seen by this test: claimSQL as a select without the delete (fifty
// winners), insertSQL without "on conflict" (errors).
func TestFirstKeyOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	replica, _ := b.start(t)
	id := b.directory.add(tenant.Provisioning)
	_, err := b.keys.Claim(t.Context(), id)
	require.ErrorIs(t, err, apikey.ErrNotFound, "not made yet")

	const callers = 50
	var ids sync.Map
	var wg sync.WaitGroup
	for i := range callers {
		store := []*apikey.Store{b.keys, replica}[i%2]
		wg.Go(func() {
			keyID, err := store.IssueFirst(t.Context(), id, apikey.Spec{Name: "first"})
			if err != nil {
				t.Errorf("issue first: %v", err)
			}
			ids.Store(keyID, true)
		})
	}
	wg.Wait()
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	require.Equal(t, 1, n, "one key, whoever asked")

	var token atomic.Value
	var won, late atomic.Int32
	for i := range callers {
		store := []*apikey.Store{b.keys, replica}[i%2]
		wg.Go(func() {
			got, err := store.Claim(t.Context(), id)
			switch {
			case err == nil:
				won.Add(1)
				token.Store(got)
			case errors.Is(err, apikey.ErrClaimed):
				late.Add(1)
			default:
				t.Errorf("claim: %v", err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
	require.EqualValues(t, callers-1, late.Load())

	b.directory.set(tenant.Tenant{ID: id, Plan: tenant.Free, Status: tenant.Active})
	got, err := b.keys.Authenticate(t.Context(), token.Load().(string))
	require.NoError(t, err)
	require.Equal(t, id, got.ID)

	// Asked for again after the claim, it is still the same key, claimed.
	_, err = b.keys.IssueFirst(t.Context(), id, apikey.Spec{})
	require.NoError(t, err)
	_, err = b.keys.Claim(t.Context(), id)
	require.ErrorIs(t, err, apikey.ErrClaimed)
	var left int
	require.NoError(t, b.pool.QueryRow(t.Context(), `select count(*) from mcpsaas.api_key_handoffs`).Scan(&left))
	require.Zero(t, left, "the sealed token is gone")
}

func TestHandoffEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, end := range map[string]func(id tenant.ID, keyID string){
		"time":   func(tenant.ID, string) { b.clock.move(24 * time.Hour) },
		"revoke": func(_ tenant.ID, keyID string) { require.NoError(t, b.keys.Revoke(t.Context(), keyID)) },
		"revoke all": func(id tenant.ID, _ string) {
			_, err := b.keys.RevokeAll(t.Context(), id)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := b.directory.add(tenant.Active)
			keyID, err := b.keys.IssueFirst(t.Context(), id, apikey.Spec{})
			require.NoError(t, err)
			end(id, keyID)
			_, err = b.keys.Claim(t.Context(), id)
			require.ErrorIs(t, err, apikey.ErrClaimed)
		})
	}
}

// The sealed token of one tenant can't be moved to another's row.
// Mutation seen by this test: sealedFor without the tenant.
func TestSealIsBoundToTheTenant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	victim, thief := b.directory.add(tenant.Active), b.directory.add(tenant.Active)
	_, err := b.keys.IssueFirst(t.Context(), victim, apikey.Spec{})
	require.NoError(t, err)
	_, err = b.pool.Exec(t.Context(), `update mcpsaas.api_key_handoffs set tenant_id = $1 where tenant_id = $2`, thief, victim)
	require.NoError(t, err)
	token, err := b.keys.Claim(t.Context(), thief)
	require.ErrorContains(t, err, "can't be opened")
	require.Empty(t, token)
}

// A first key that was rotated before anyone claimed it is no use to who comes
// after its end. Mutation: by the date of the hand-over alone it is shown.
func TestClaimAfterRotation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	first, err := b.keys.IssueFirst(t.Context(), id, apikey.Spec{})
	require.NoError(t, err)
	_, err = b.keys.Rotate(t.Context(), first, time.Hour)
	require.NoError(t, err)
	b.clock.move(time.Hour)
	_, err = b.keys.Claim(t.Context(), id)
	require.ErrorIs(t, err, apikey.ErrClaimed)
}
