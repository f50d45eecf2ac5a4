package archtest

import (
	"io/fs"
	"slices"
	"strings"
)

// Check returns one line for each place in the module at the root of source
// that breaks a rule, with the file and the line where there is one.
func Check(source fs.FS) ([]string, error) {
	t, err := read(source)
	if err != nil {
		return nil, err
	}
	if err := t.checkTopLevel(source); err != nil {
		return nil, err
	}
	for _, p := range t.sorted() {
		for _, f := range p.files {
			t.checkImports(p, f)
			t.checkSleep(f)
		}
		t.checkDocs(p)
		t.checkAPI(p)
	}
	t.checkArrows()
	t.checkStripe()
	return t.found, nil
}

// checkTopLevel compares the directories of the repository with the house.
// Hidden ones other than ours belong to tools and aren't in the repository.
func (t *tree) checkTopLevel(source fs.FS) error {
	entries, err := fs.ReadDir(source, ".")
	if err != nil {
		return err
	}
	var dirs []string
	for _, entry := range entries {
		if name := entry.Name(); entry.IsDir() && (!strings.HasPrefix(name, ".") || slices.Contains(topLevel, name)) {
			dirs = append(dirs, name)
		}
	}
	for _, dir := range dirs {
		if !slices.Contains(topLevel, dir) {
			t.report(dir, "no top-level directory of the design")
		}
	}
	for _, dir := range topLevel {
		if !slices.Contains(dirs, dir) {
			t.report(dir, "this top-level directory is missing")
		}
	}
	if _, ok := t.packages["."]; ok {
		t.report(".", "no package at the root of the module")
	}
	return nil
}
