package archtest_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/archtest"
)

func TestCheckSnippets(t *testing.T) {
	t.Parallel()
	const program = "package main\n\nfunc main() {}\n"
	fenced := func(code string) string { return "# X\n\n```go\n" + code + "```\n" }
	tests := map[string]struct {
		program, readme, docs string
		want                  string // none: nothing is found
	}{
		"same":                  {program, fenced(program), "", ""},
		"fragments parse":       {program, fenced(program) + fenced("x, err := f()\n"), fenced("func f() {}\n"), ""},
		"other languages":       {program, fenced(program) + "```sh\n)(\n```\n", "", ""},
		"differs":               {program, fenced(program + "\n"), "", "no ```go block is the same"},
		"absent":                {program, "# X\n", fenced(program), "no ```go block is the same"},
		"fragment is malformed": {program, fenced(program), fenced("func (\n"), "docs/x.md:4:"},
		"program too long":      {program + strings.Repeat("// x\n", 60), fenced(program), "", "63 lines, the limit is 60"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := archtest.CheckSnippets(fstest.MapFS{
				"README.md":                   text(test.readme),
				"docs/x.md":                   text(test.docs),
				"examples/quickstart/main.go": text(test.program),
			})
			require.NoError(t, err)
			if test.want == "" {
				require.Empty(t, found)
			} else {
				require.Contains(t, strings.Join(found, "\n"), test.want)
			}
		})
	}
}
