//go:build e2e

package redisquota_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
)

// TestLimiterOnOthers runs on the servers that REDIS_SERVERS lists.
func TestLimiterOnOthers(t *testing.T) {
	t.Parallel()
	programs := devtest.RedisPrograms()
	require.NotEmpty(t, programs, "REDIS_SERVERS lists them")
	for _, program := range programs {
		t.Run(filepath.Base(program), func(t *testing.T) {
			t.Parallel()
			url := devtest.RedisProgram(t, program)
			_, client := newLimiter(t, url)
			info, err := client.InfoMap(t.Context(), "server").Result()
			require.NoError(t, err)
			t.Log("redis_version", info["Server"]["redis_version"], "valkey_version", info["Server"]["valkey_version"])
			testFixtures(t, four(t, url))
			testFleets(t, fleetJob{URL: url}, 2*time.Second)
		})
	}
}
