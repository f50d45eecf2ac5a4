// Package apikey issues API keys, judges them and takes them back.
//
//	keys, err := apikey.New(controlPool, directory, [][]byte{pepper}, nil)
//	go keys.Run(ctx)                                    // in an errgroup
//	key, err := keys.Issue(ctx, id, apikey.Spec{Name: "ci"}) // key.Token is shown once
//	t, err := keys.Authenticate(ctx, token)             // from memory
//	err = keys.Revoke(ctx, key.ID)                      // everywhere within a second
//
// A token looks like mtk_live_<12 characters>_<38 characters>. The twelve are
// the key's id, which is public; the rest holds 190 random bits and a checksum,
// by which junk is refused without looking anywhere. The database stores an
// HMAC-SHA256 of the token under a server secret, the pepper: with so many
// random bits a slow hash would protect nothing and make every call a burden,
// and without the pepper a copy of the table can't even be tested against.
//
// All keys are in memory, so authentication costs neither a round trip nor an
// allocation, and no storm of invented keys reaches the database.
//
// The first key of a tenant is made before anyone is there to see it. Its token
// waits sealed (AES-GCM under a key derived from the pepper, bound to tenant
// and key) until it is claimed, once:
//
//	_, err := keys.IssueFirst(ctx, id, apikey.Spec{Name: "first"}) // any number of times
//	token, err := keys.Claim(ctx, id)                              // one caller gets it
//
// Run tenancy.Migrate and [Migrate] before use.
package apikey
