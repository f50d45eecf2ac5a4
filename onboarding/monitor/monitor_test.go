package monitor_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding/monitor"
)

func TestNoopAndManual(t *testing.T) {
	t.Parallel()
	for _, m := range []monitor.Monitor{monitor.Noop{}, monitor.Manual{}} {
		spec := monitor.Spec{URL: "https://mcp.example.com/health", Key: "k"}
		one, err := m.Ensure(t.Context(), spec)
		require.NoError(t, err)
		two, err := m.Ensure(t.Context(), spec)
		require.NoError(t, err)
		require.Equal(t, one, two)
		require.Equal(t, "k", one.Key)
		status, err := m.Status(t.Context(), one)
		require.NoError(t, err)
		require.Equal(t, monitor.Unknown, status.State, "what nobody looks at is never said to be live")
		require.NoError(t, m.Remove(t.Context(), one))
		require.NoError(t, m.Remove(t.Context(), one))
	}
}
