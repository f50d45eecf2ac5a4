package archtest

import (
	"go/ast"
	"go/token"
	"strings"
)

// checkSleep looks for time.Sleep in tests: it makes them slow and, on a busy
// machine, wrong. In a bubble of testing/synctest it is how time passes, and
// takes none; a helper that is called from bubbles alone says so on the line.
func (t *tree) checkSleep(f *file) {
	if !f.test {
		return
	}
	line := func(pos token.Pos) int { return t.fset.Position(pos).Line }
	excused := make(map[int]bool)
	for _, group := range f.ast.Comments {
		for _, comment := range group.List {
			if strings.Contains(comment.Text, "synctest") {
				excused[line(comment.Pos())] = true
			}
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if isCall(call, "synctest", "Test") {
			return false
		}
		if isCall(call, "time", "Sleep") && !excused[line(call.Pos())] {
			t.reportAt(call.Pos(), "time.Sleep in a test: wait for the thing itself")
		}
		return true
	})
}

func isCall(call *ast.CallExpr, pkg, name string) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	return ok && x.Name == pkg
}
