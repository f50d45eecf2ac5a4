package archtest

import (
	"path"
	"slices"
	"strings"
)

// checkImports holds each import against the tables.
func (t *tree) checkImports(p *pkg, f *file) {
	for _, imp := range f.imports {
		if f.test {
			t.checkTestImport(p, imp)
		} else {
			t.checkImport(p, imp)
		}
	}
}

func (t *tree) checkImport(p *pkg, imp imported) {
	if within(imp.path, "testing") && !mayTest(p.dir) {
		t.reportAt(imp.pos, "imports %s outside a test", imp.path)
	}
	if dir, ok := t.own(imp.path); ok {
		if from, limited := onlyFrom[dir]; limited && !slices.Contains(from, p.dir) {
			t.reportAt(imp.pos, "imports %s, which is for tests or for %v", dir, from)
		}
	}
	if !t.external(imp.path) {
		return
	}
	module, ok := moduleOf(imp.path)
	if !ok {
		t.reportAt(imp.pos, "imports %s, no allowed dependency", imp.path)
		return
	}
	allowed := thirdParty[p.dir]
	if !slices.Contains(allowed.api, module) && !slices.Contains(allowed.inner, module) {
		t.reportAt(imp.pos, "package %s may not import %s", p.dir, module)
	}
}

func (t *tree) checkTestImport(p *pkg, imp imported) {
	if !t.external(imp.path) {
		return
	}
	module, ok := moduleOf(imp.path)
	switch {
	case !ok:
		t.reportAt(imp.pos, "imports %s, no allowed dependency", imp.path)
	case slices.Contains(stdlibTests, p.dir):
		t.reportAt(imp.pos, "the tests of %s use the standard library alone, not %s", p.dir, imp.path)
	case module == testify && imp.path != testify+"/require":
		t.reportAt(imp.pos, "of testify, tests use require alone, not %s", imp.path)
	}
}

// mayTest reports whether a package helps tests, and so may import testing.
func mayTest(dir string) bool {
	return strings.HasSuffix(path.Base(dir), "test") && !slices.Contains(noTesting, dir)
}

// checkArrows follows the imports of each package that has a rule.
func (t *tree) checkArrows() {
	for _, rule := range arrows {
		if t.packages[rule.from] != nil {
			t.follow(rule, rule.from, []string{rule.from}, map[string]bool{rule.from: true})
		}
	}
}

// follow walks depth first; chain is the way from the rule's package to dir.
func (t *tree) follow(rule arrow, dir string, chain []string, seen map[string]bool) {
	p := t.packages[dir]
	if p == nil {
		return // imports a package that isn't there: the compiler's business
	}
	for _, f := range p.files {
		if f.test {
			continue
		}
		for _, imp := range f.imports {
			target, own := t.own(imp.path)
			if !own {
				target = imp.path
			}
			if rule.forbids(target, own, t.external(imp.path)) {
				t.reportAt(imp.pos, "%s may not reach %s: %s", rule.from, target, strings.Join(append(chain, target), " -> "))
				continue
			}
			if own && !seen[target] {
				seen[target] = true
				t.follow(rule, target, append(slices.Clip(chain), target), seen)
			}
		}
	}
}

func (a arrow) forbids(target string, own, external bool) bool {
	if own && slices.Contains(a.except, target) {
		return false
	}
	if a.stdlib {
		return own || external
	}
	if own && within(target, a.from) {
		return false
	}
	return slices.ContainsFunc(a.never, func(root string) bool { return within(target, root) })
}

// checkStripe keeps the client of the payment provider in one file, so that a
// new major version touches that file alone.
func (t *tree) checkStripe() {
	var importers []string
	for _, p := range t.sorted() {
		for _, f := range p.files {
			uses := func(imp imported) bool { return within(imp.path, stripe) }
			if !f.test && slices.ContainsFunc(f.imports, uses) {
				importers = append(importers, f.name)
			}
		}
	}
	if len(importers) > 1 {
		t.report(importers[1], "only one file may import %s, and %s does", stripe, importers[0])
	}
}
