package archtest

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// tree is the source of a module.
type tree struct {
	module   string // its path, as go.mod says
	fset     *token.FileSet
	packages map[string]*pkg // by directory
	found    []string        // violations seen while reading
}

// pkg is a directory with Go files.
type pkg struct {
	dir   string
	files []*file
}

type file struct {
	name    string // from the root of the module
	test    bool
	ast     *ast.File
	imports []imported
}

// imported is one import declaration.
type imported struct {
	path string
	name string // by which the file knows it
	pos  token.Pos
}

// read parses every Go file of the module. Nested modules, testdata and hidden
// directories are not part of it.
func read(source fs.FS) (*tree, error) {
	gomod, err := fs.ReadFile(source, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("archtest: %w", err)
	}
	t := &tree{fset: token.NewFileSet(), packages: make(map[string]*pkg)}
	for line := range strings.Lines(string(gomod)) {
		if rest, ok := strings.CutPrefix(line, "module "); ok {
			t.module = strings.TrimSpace(rest)
		}
	}
	if t.module == "" {
		return nil, errors.New("archtest: go.mod names no module")
	}
	err = fs.WalkDir(source, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return t.enter(source, name)
		}
		return t.add(source, name)
	})
	if err != nil {
		return nil, fmt.Errorf("archtest: %w", err)
	}
	return t, nil
}

func (t *tree) enter(source fs.FS, dir string) error {
	base := path.Base(dir)
	if dir != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules") {
		return fs.SkipDir
	}
	if _, err := fs.Stat(source, path.Join(dir, "go.mod")); err == nil && dir != "." {
		return fs.SkipDir
	}
	if slices.Contains(badNames, base) {
		t.report(dir, "a directory named %q names no idea", base)
	}
	return nil
}

func (t *tree) add(source fs.FS, name string) error {
	ext := path.Ext(name)
	if !slices.Contains(counted, ext) {
		return nil
	}
	text, err := fs.ReadFile(source, name)
	if err != nil {
		return err
	}
	if lines := bytes.Count(text, []byte("\n")); lines > maxLines {
		t.report(name, "%d lines, the limit is %d: more than one idea", lines, maxLines)
	}
	if ext != ".go" {
		return nil
	}
	stem := strings.TrimSuffix(strings.TrimSuffix(path.Base(name), ".go"), "_test")
	if slices.Contains(badNames, stem) {
		t.report(name, "a file named %q names no idea", stem)
	}
	parsed, err := parser.ParseFile(t.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := path.Dir(name)
	p := t.packages[dir]
	if p == nil {
		p = &pkg{dir: dir}
		t.packages[dir] = p
	}
	f := &file{name: name, test: strings.HasSuffix(name, "_test.go"), ast: parsed}
	for _, spec := range parsed.Imports {
		imp := imported{pos: spec.Pos()}
		imp.path, _ = strconv.Unquote(spec.Path.Value) // the parser checked it
		imp.name = packageName(imp.path)
		if spec.Name != nil {
			imp.name = spec.Name.Name
		}
		f.imports = append(f.imports, imp)
	}
	p.files = append(p.files, f)
	return nil
}

// packageName guesses the name of a package from its import path, as its
// authors form it: github.com/redis/go-redis/v9 is redis.
func packageName(importPath string) string {
	base := path.Base(importPath)
	if isVersion(base) {
		base = path.Base(path.Dir(importPath))
	}
	return strings.TrimSuffix(strings.TrimPrefix(base, "go-"), "-go")
}

func isVersion(s string) bool {
	digits, ok := strings.CutPrefix(s, "v")
	_, err := strconv.Atoi(digits)
	return ok && err == nil
}

// sorted returns the packages in order of their directory.
func (t *tree) sorted() []*pkg {
	var all []*pkg
	for _, p := range t.packages {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return all
}

// own returns the directory of a package of this module.
func (t *tree) own(importPath string) (dir string, ok bool) {
	if importPath == t.module {
		return ".", true
	}
	return strings.CutPrefix(importPath, t.module+"/")
}

// external reports whether a package is neither of this module nor of the
// standard library, whose first path element has no dot.
func (t *tree) external(importPath string) bool {
	_, own := t.own(importPath)
	first, _, _ := strings.Cut(importPath, "/")
	return !own && strings.Contains(first, ".")
}

// moduleOf returns the allowed module that a package belongs to.
func moduleOf(importPath string) (string, bool) {
	for _, m := range modules {
		if within(importPath, m) {
			return m, true
		}
	}
	return "", false
}

// within reports whether a path is root or below it.
func within(importPath, root string) bool {
	return importPath == root || strings.HasPrefix(importPath, root+"/")
}

func (t *tree) report(where, format string, args ...any) {
	t.found = append(t.found, where+": "+fmt.Sprintf(format, args...))
}

func (t *tree) reportAt(pos token.Pos, format string, args ...any) {
	p := t.fset.Position(pos)
	t.report(fmt.Sprintf("%s:%d", p.Filename, p.Line), format, args...)
}
