package apikey_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// FuzzAuthenticate: no input panics, and none but an issued token is anything
// but refused.
func FuzzAuthenticate(f *testing.F) {
	pool, err := pgxpool.New(f.Context(), "postgres://nobody@127.0.0.1:1/none") // never dialled
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	keys, err := apikey.New(pool, &directory{}, [][]byte{pepper}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add("mtk_live_")
	f.Add(resum("mtk_live_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV"))
	f.Fuzz(func(t *testing.T, token string) {
		got, err := keys.Authenticate(t.Context(), token)
		if got.ID != (tenant.ID{}) || !errors.Is(err, apikey.ErrMalformed) && !errors.Is(err, apikey.ErrNotReady) {
			t.Fatalf("Authenticate(%q) = %v, %v", token, got, err)
		}
	})
}
