package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBucket(t *testing.T) {
	t.Parallel()
	var b bucket
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	taken := func() (n int) {
		for b.take(now) {
			n++
		}
		return n
	}
	require.Equal(t, strangersBurst, taken())
	now = now.Add(-time.Hour) // a clock that steps back gives nothing
	require.Zero(t, taken())
	now = now.Add(time.Hour + time.Second)
	require.Equal(t, strangersPerSecond, taken())
	now = now.Add(time.Hour)
	require.Equal(t, strangersBurst, taken())
}
