package archtest

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// The README's program is this file, and as short as promised.
const (
	quickstart      = "examples/quickstart/main.go"
	quickstartLines = 60
)

// CheckSnippets returns one line for each piece of Go in the Markdown at the
// root of source and in docs that doesn't parse, and for a README that doesn't
// show examples/quickstart as it is compiled.
func CheckSnippets(source fs.FS) ([]string, error) {
	program, err := fs.ReadFile(source, quickstart)
	if err != nil {
		return nil, fmt.Errorf("archtest: %w", err)
	}
	var found []string
	if lines := strings.Count(string(program), "\n"); lines > quickstartLines {
		found = append(found, fmt.Sprintf("%s: %d lines, the limit is %d", quickstart, lines, quickstartLines))
	}
	shown := false
	for _, dir := range []string{".", "docs"} {
		entries, err := fs.ReadDir(source, dir)
		if err != nil {
			return nil, fmt.Errorf("archtest: %w", err)
		}
		for _, entry := range entries {
			name := path.Join(dir, entry.Name())
			if path.Ext(name) != ".md" {
				continue
			}
			text, err := fs.ReadFile(source, name)
			if err != nil {
				return nil, fmt.Errorf("archtest: %w", err)
			}
			for _, s := range snippets(string(text)) {
				if err := parses(s.code); err != nil {
					found = append(found, fmt.Sprintf("%s:%d: %v", name, s.line, err))
				}
				shown = shown || name == "README.md" && s.code == string(program)
			}
		}
	}
	if !shown {
		found = append(found, "README.md: no ```go block is the same as "+quickstart)
	}
	slices.Sort(found)
	return found, nil
}

// snippet is the content of a fenced block of Go.
type snippet struct {
	line int // of the first line in the fence
	code string
}

func snippets(markdown string) []snippet {
	var all []snippet
	var code strings.Builder
	inside, start, n := false, 0, 0
	for line := range strings.Lines(markdown) {
		n++
		switch {
		case !inside && strings.TrimSpace(line) == "```go":
			inside, start = true, n+1
			code.Reset()
		case inside && strings.TrimSpace(line) == "```":
			inside = false
			all = append(all, snippet{line: start, code: code.String()})
		case inside:
			code.WriteString(line)
		}
	}
	return all
}

// parses reports whether code is a file, declarations or statements.
func parses(code string) error {
	var first error
	for _, around := range [][2]string{{"", ""}, {"package p\n", ""}, {"package p\nfunc _() {\n", "\n}"}} {
		_, err := parser.ParseFile(token.NewFileSet(), "snippet", around[0]+code+around[1], parser.SkipObjectResolution)
		if err == nil {
			return nil
		}
		first = err
	}
	return first
}
