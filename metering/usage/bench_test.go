package usage_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkRecord is Record beside a bare write(2) of as many bytes to a file
// that is appended to, the two in turn; the time per operation is of both.
func BenchmarkRecord(b *testing.B) {
	s := open(b, b.TempDir(), &usage.SpoolOptions{MaxBytes: 64 << 30})
	e := meteringtest.NewEvent(tenant.NewID())
	payload, err := e.AppendBinary(make([]byte, 8))
	require.NoError(b, err)
	file, err := os.OpenFile(filepath.Join(b.TempDir(), "bare"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(b, err)
	defer file.Close()

	var record, bare []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		err := s.Record(b.Context(), e)
		middle := time.Now()
		_, errBare := file.Write(payload)
		bare = append(bare, time.Since(middle))
		record = append(record, middle.Sub(start))
		if err != nil || errBare != nil {
			b.Fatal(err, errBare)
		}
	}
	for unit, times := range map[string][]time.Duration{"record": record, "write": bare} {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2])/1e3, unit+"-p50-us")
		b.ReportMetric(float64(times[len(times)*99/100])/1e3, unit+"-p99-us")
	}
}
