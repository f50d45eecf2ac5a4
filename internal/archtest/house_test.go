package archtest_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/archtest"
)

func TestHouse(t *testing.T) {
	t.Parallel()
	found, err := archtest.Check(os.DirFS("../.."))
	require.NoError(t, err)
	require.Empty(t, found, "\n%s", strings.Join(found, "\n"))
}

func TestSnippets(t *testing.T) {
	t.Parallel()
	found, err := archtest.CheckSnippets(os.DirFS("../.."))
	require.NoError(t, err)
	require.Empty(t, found, "\n%s", strings.Join(found, "\n"))
}

func ExampleCheck() {
	tree := lawful()
	tree["health/db.go"] = source("health", pgx)
	found, err := archtest.Check(tree)
	if err != nil {
		panic(err)
	}
	for _, violation := range found {
		fmt.Println(violation)
	}
	// Output:
	// health/db.go:3: package health may not import github.com/jackc/pgx/v5
	// health/db.go:3: health may not reach github.com/jackc/pgx/v5: health -> github.com/jackc/pgx/v5
}
