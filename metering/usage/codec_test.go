package usage_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestBinaryForm(t *testing.T) {
	t.Parallel()
	full := meteringtest.NewEvent(tenant.NewID())
	odd := usage.Event{
		ID: "0190A2B4-5C6D-7E8F-8A9B-0C1D2E3F4A5B", Tool: "a\x00\xff", Units: -1, Duration: -time.Second,
		Time: time.Date(-5, 1, 1, 0, 0, 0, 999_999_999, time.UTC), RequestID: "é",
	}
	short := full
	short.ID, short.Unmetered = "01", false
	for _, e := range []usage.Event{full, odd, short, {}} {
		b, err := e.AppendBinary([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, "before", string(b[:6]))
		b = b[6:]
		var got usage.Event
		require.NoError(t, got.UnmarshalBinary(b))
		require.Equal(t, e, got)
		for n := range b {
			require.Error(t, got.UnmarshalBinary(b[:n]), n)
		}
		require.Error(t, got.UnmarshalBinary(append(b, 0)))
		require.Equal(t, e, got, "a refused form changes nothing")
	}
	b, err := full.AppendBinary(nil)
	require.NoError(t, err)
	require.LessOrEqual(t, len(b), 90)
}

func FuzzUnmarshalBinary(f *testing.F) {
	b, err := meteringtest.NewEvent(tenant.NewID()).AppendBinary(nil)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var e, again usage.Event
		if e.UnmarshalBinary(b) != nil {
			return
		}
		b, err := e.AppendBinary(nil)
		require.NoError(t, err)
		require.NoError(t, again.UnmarshalBinary(b))
		require.Equal(t, e, again)
	})
}
