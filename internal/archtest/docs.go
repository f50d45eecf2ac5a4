package archtest

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// checkDocs wants a package comment on every package, and of those that can be
// imported a comment on every exported name, and an example.
func (t *tree) checkDocs(p *pkg) {
	documented, program, shown, sources := false, false, false, 0
	for _, f := range p.files {
		if f.test {
			shown = shown || slices.ContainsFunc(f.ast.Decls, isExample)
			continue
		}
		sources++
		documented = documented || f.ast.Doc != nil
		if f.ast.Name.Name == "main" {
			program = true
			continue
		}
		for _, decl := range f.ast.Decls {
			t.checkDeclDoc(decl)
		}
	}
	if sources > 0 && !documented {
		t.report(p.dir, "no package comment")
	}
	if sources > 0 && !program && !shown {
		t.report(p.dir, "no example")
	}
}

func isExample(decl ast.Decl) bool {
	d, ok := decl.(*ast.FuncDecl)
	return ok && d.Recv == nil && strings.HasPrefix(d.Name.Name, "Example")
}

func (t *tree) checkDeclDoc(decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && exportedFunc(d) && !wellKnown(d) {
			t.undocumented(d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if !s.Name.IsExported() {
					continue
				}
				if s.Doc == nil && d.Doc == nil {
					t.undocumented(s.Name)
				}
				t.checkMembers(s)
			case *ast.ValueSpec:
				if s.Doc != nil || s.Comment != nil || d.Doc != nil {
					continue
				}
				for _, name := range s.Names {
					if name.IsExported() {
						t.undocumented(name)
					}
				}
			}
		}
	}
}

// checkMembers wants a comment on each field of an option struct, which is
// where users look for the default, and on each method of an interface, which
// is what implementers must know. Elsewhere, and for an interface of one
// method, the comment of the type may say it all.
func (t *tree) checkMembers(s *ast.TypeSpec) {
	var fields *ast.FieldList
	switch typ := s.Type.(type) {
	case *ast.StructType:
		if !strings.HasSuffix(s.Name.Name, "Options") {
			return
		}
		fields = typ.Fields
	case *ast.InterfaceType:
		if typ.Methods.NumFields() < 2 {
			return
		}
		fields = typ.Methods
	default:
		return
	}
	line := func(pos token.Pos) int { return t.fset.Position(pos).Line }
	covered, last := false, -1
	for _, field := range fields.List {
		own := field.Doc != nil || field.Comment != nil
		// One comment may stand above several lines that follow each other.
		covered = own || covered && line(field.Pos()) == last+1
		last = line(field.End())
		for _, name := range field.Names {
			if name.IsExported() && !covered {
				t.undocumented(name)
			}
		}
	}
}

// exportedFunc reports whether users can call a function: an exported one, or
// an exported method of an exported type.
func exportedFunc(d *ast.FuncDecl) bool {
	if !d.Name.IsExported() {
		return false
	}
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	receiver := d.Recv.List[0].Type
	for {
		switch r := receiver.(type) {
		case *ast.StarExpr:
			receiver = r.X
		case *ast.IndexExpr:
			receiver = r.X
		case *ast.IndexListExpr:
			receiver = r.X
		case *ast.Ident:
			return r.IsExported()
		default:
			return true
		}
	}
}

// wellKnown reports whether a method is one whose meaning every reader knows.
func wellKnown(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"Error", "Unwrap", "Is", "String"}, d.Name.Name)
}

func (t *tree) undocumented(name *ast.Ident) {
	t.reportAt(name.Pos(), "%s has no comment", name.Name)
}
