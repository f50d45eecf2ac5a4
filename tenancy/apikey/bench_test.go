package apikey_test

import (
	"strings"
	"testing"

	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func BenchmarkAuthenticate(b *testing.B) {
	bundle := setup(b)
	key := bundle.issue(b, bundle.directory.add(tenant.Active), apikey.Spec{})
	for _, bm := range []struct{ name, token string }{
		{"good", key.Token},
		{"unknown", resum("mtk_live_" + strings.Repeat("z", 12) + "_" + strings.Repeat("z", 32))},
		{"wrong secret", resum(key.Token[:22] + strings.Repeat("z", 32))},
		{"wrong checksum", key.Token[:len(key.Token)-1] + flip(key.Token[len(key.Token)-1])},
		{"junk", "eyJhbGciOiJub25lIn0.e30."},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bundle.keys.Authenticate(b.Context(), bm.token)
			}
		})
	}
}
