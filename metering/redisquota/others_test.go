//go:build e2e

package redisquota_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
)

// TestLimiterOnOthers runs on the servers that REDIS_SERVERS lists, as .ci/e2e-redis
// sets it.
func TestLimiterOnOthers(t *testing.T) {
	t.Parallel()
	programs := devtest.RedisPrograms()
	require.NotEmpty(t, programs, "REDIS_SERVERS lists them")
	for _, program := range programs {
		t.Run(filepath.Base(program), func(t *testing.T) {
			t.Parallel()
			url := devtest.RedisProgram(t, program)
			testFixtures(t, four(t, url))
			testFleets(t, fleetJob{URL: url}, 2*time.Second)
			t.Run("withdraw", func(t *testing.T) { testWithdraw(t, url) })
			t.Run("settled in doubt", func(t *testing.T) { testSettledInDoubt(t, url) })
			t.Run("receipts", func(t *testing.T) { testReceipts(t, url) })
		})
	}
}
