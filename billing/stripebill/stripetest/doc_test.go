package stripetest_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEndpointsAreDocumented: the package's documentation names the path of
// each route.
func TestEndpointsAreDocumented(t *testing.T) {
	t.Parallel()
	routes, err := os.ReadFile("routes.go")
	require.NoError(t, err)
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	named := strings.NewReplacer(" .../{id}", "").Replace(string(doc))
	found := regexp.MustCompile(`\{"[A-Z]+ /v1/([^"]+)"`).FindAllStringSubmatch(string(routes), -1)
	require.GreaterOrEqual(t, len(found), 25)
	for _, m := range found {
		path := m[1]
		base, _, _ := strings.Cut(path, "/{id}")
		action := path[strings.LastIndex(path, "/")+1:]
		require.Contains(t, named, base, path)
		require.Contains(t, named, action, path)
	}
}
