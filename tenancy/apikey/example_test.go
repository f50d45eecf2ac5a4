package apikey_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://control@127.0.0.1/app")
	if err != nil {
		panic(err)
	}
	defer pool.Close()
	tenants := &directory{} // a *tenancy.Directory
	keys, err := apikey.New(pool, tenants, [][]byte{[]byte("at least 32 bytes that only you know")}, nil)
	if err != nil {
		panic(err)
	}
	// keys.Run(ctx) runs beside the server's other background work.

	_, err = keys.Authenticate(ctx, "not a key")
	fmt.Println(err)
	_, err = keys.Issue(ctx, tenant.NewID(), apikey.Spec{Scopes: []string{tenant.ScopeCanary}})
	fmt.Println(err)
	// Output:
	// apikey: malformed key: tenant: invalid credential
	// apikey: issue: Spec.ExpiresAt: a key with scope canary must expire within 24h0m0s
}
