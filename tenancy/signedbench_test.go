package tenancy_test

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkSigned reads one row by its primary key, as a transaction of its own in
// one round trip, where the policies want the context signed and where they
// don't, in turns. The difference is to be no more than 30 us.
func BenchmarkSigned(b *testing.B) {
	id := tenant.NewID()
	type side struct {
		conn  *pgx.Conn
		token func() string
		times []time.Duration
	}
	var sides []*side
	for _, signed := range []bool{false, true} {
		s := setup(b)
		signer := s.signer(b, "k1")
		s.add(b, id, "apple")
		sd := &side{conn: s.Conn(b, tenancy.AppRole), token: func() string { return "" }}
		if signed {
			require.NoError(b, tenancy.SignContext(b.Context(), s.Conn(b, devstack.OwnerRole), true))
			sd.token = func() string { return signer.Token(id) }
		}
		for name, sql := range map[string]string{
			"enter": `select mcpsaas_app.enter($1, 0, true, false)`,
			"sign":  `select mcpsaas_app.enter($1, 0, true, false), set_config('app.current_tenant_token', $2, true)`,
			"read":  `select id from products where tenant_id = $1 and name = 'apple'`,
		} {
			_, err := sd.conn.Prepare(b.Context(), name, sql)
			require.NoError(b, err)
		}
		sides = append(sides, sd)
	}
	for b.Loop() {
		for _, s := range sides {
			began := time.Now()
			batch := &pgx.Batch{}
			if token := s.token(); token != "" {
				batch.Queue("sign", id.String(), token)
			} else {
				batch.Queue("enter", id.String())
			}
			var key string
			batch.Queue("read", id.String()).QueryRow(func(row pgx.Row) error { return row.Scan(&key) })
			if err := s.conn.SendBatch(b.Context(), batch).Close(); err != nil {
				b.Fatal(err)
			}
			s.times = append(s.times, time.Since(began))
		}
	}
	median := func(s *side) float64 {
		slices.Sort(s.times)
		return float64(s.times[len(s.times)/2].Nanoseconds()) / 1e3
	}
	plain, signed := median(sides[0]), median(sides[1])
	b.ReportMetric(plain, "unsigned-us")
	b.ReportMetric(signed, "signed-us")
	b.ReportMetric(signed-plain, "cost-us")
}
