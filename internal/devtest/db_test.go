package devtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
)

func TestDB(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, devtest.Template{Name: "empty"})
	var n int
	require.NoError(t, db.Pool(t).QueryRow(t.Context(), `select 1`).Scan(&n))
	require.Equal(t, 1, n)
	r := devtest.Redis(t)
	r.Freeze()
	r.Thaw()
	r.Stop()
	r.Start()
}
func BenchmarkDB(b *testing.B) {
	for b.Loop() {
		devtest.DB(b, devtest.Template{Name: "empty"})
	}
}
