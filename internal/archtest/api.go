package archtest

import (
	"go/ast"
	"slices"
)

// checkAPI looks for types of third-party modules in the exported API of
// packages that don't exist for that module.
func (t *tree) checkAPI(p *pkg) {
	allowed := thirdParty[p.dir].api
	for _, f := range p.files {
		if f.test || f.ast.Name.Name == "main" {
			continue
		}
		foreign := make(map[string]string) // by the name in this file
		for _, imp := range f.imports {
			if module, ok := moduleOf(imp.path); ok && !slices.Contains(allowed, module) {
				foreign[imp.name] = module
			}
		}
		if len(foreign) == 0 {
			continue
		}
		for _, decl := range f.ast.Decls {
			for _, typ := range exportedTypes(decl) {
				t.checkForeign(typ, foreign)
			}
		}
	}
}

func (t *tree) checkForeign(typ ast.Node, foreign map[string]string) {
	ast.Inspect(typ, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := selector.X.(*ast.Ident); ok && foreign[x.Name] != "" {
			t.reportAt(selector.Pos(), "%s.%s of %s stands in the exported API", x.Name, selector.Sel.Name, foreign[x.Name])
		}
		return false
	})
}

// exportedTypes returns the type expressions that users of a declaration see:
// not the bodies of functions, and not unexported fields.
func exportedTypes(decl ast.Decl) []ast.Node {
	var seen []ast.Node
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if exportedFunc(d) {
			seen = append(seen, d.Type)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					seen = append(seen, visible(s)...)
				}
			case *ast.ValueSpec:
				exported := slices.ContainsFunc(s.Names, func(n *ast.Ident) bool { return n.IsExported() })
				if exported && s.Type != nil {
					seen = append(seen, s.Type)
				}
			}
		}
	}
	return seen
}

// visible returns what users see of an exported type.
func visible(s *ast.TypeSpec) []ast.Node {
	structType, ok := s.Type.(*ast.StructType)
	if !ok {
		return []ast.Node{s.Type}
	}
	var seen []ast.Node
	for _, field := range structType.Fields.List {
		embedded := len(field.Names) == 0
		exported := slices.ContainsFunc(field.Names, func(n *ast.Ident) bool { return n.IsExported() })
		if embedded || exported {
			seen = append(seen, field.Type)
		}
	}
	return seen
}
