package tenancy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// BenchmarkMove moves a tenant of 200,000 rows while eight writers write as fast
// as they can, half of them in repeatable read. It prints the pause as the mover
// measures it, from the request for the lock to the commit that ends it; the
// longest time that any writer was without an answer during the whole move, the
// brake's share included; and rows copied in a second of it.
func BenchmarkMove(b *testing.B) {
	for _, way := range []struct {
		name     string
		from, to tenancy.Placement
	}{
		{"shared-schema", sharedPlace, schemaPlace}, {"schema-shared", schemaPlace, sharedPlace},
		{"shared-database", sharedPlace, awayPlace}, {"database-shared", awayPlace, sharedPlace},
		{"schema-database", schemaPlace, awayPlace}, {"database-schema", awayPlace, schemaPlace},
	} {
		b.Run(way.name, func(b *testing.B) {
			c := newCrew(b, 8, nil)
			c.pace = 0
			c.away("away", devtest.DB(b, devtest.Template{Name: "empty"}))
			c.must(c.id,
				`insert into items (id, owner, position, value) select gen_random_uuid(), 100, i, i from generate_series(1, 100000) i`,
				`insert into notes (id, item, body) select gen_random_uuid(), id, repeat('x', 100) from items limit 50000`,
				`insert into events (owner, n) select 100, i from generate_series(1, 50000) i`)
			m := c.mover(b, nil)
			if way.from != sharedPlace {
				_, err := m.Move(b.Context(), c.id, way.from)
				require.NoError(b, err)
			}
			var pause, gap, took time.Duration
			var rows, writes int64
			n := 0
			for b.Loop() {
				if n++; n > 1 {
					b.StopTimer()
					_, err := m.Move(b.Context(), c.id, way.from)
					require.NoError(b, err)
					b.StartTimer()
				}
				before := c.acked.Load()
				c.start(b)
				c.until(b, 500)
				r, err := m.Move(b.Context(), c.id, way.to)
				require.NoError(b, err)
				c.until(b, 100)
				c.stop()
				for _, w := range c.writers {
					gap, w.gap = max(gap, w.gap), 0
				}
				pause, took = max(pause, r.Pause), took+r.Took
				rows, writes = rows+r.Rows, writes+c.acked.Load()-before
				b.Logf("%s -> %s: %d rows in %s, pause %s, longest gap %s, %d writes carried over of %d acknowledged", r.From, r.To, r.Rows, r.Took, r.Pause, gap, r.Changes, c.acked.Load()-before)
			}
			b.ReportMetric(float64(pause.Microseconds())/1000, "pause-ms")
			b.ReportMetric(float64(gap.Microseconds())/1000, "gap-ms")
			b.ReportMetric(float64(rows)/took.Seconds(), "rows/s")
			b.ReportMetric(float64(writes)/took.Seconds(), "writes/s")
		})
	}
}
