package tenancy

import (
	"fmt"
	"slices"
)

// eachView calls check for the views and materialized views that lead to
// tenants' rows and that a role can read, itself or through another view.
func (a *audit) eachView(check func(v *relation)) {
	reached := make(map[uint32]bool)
	var reach func(oid uint32)
	reach = func(oid uint32) {
		r := a.relations[oid]
		if r == nil || reached[oid] || r.Kind != "v" && r.Kind != "m" {
			return
		}
		reached[oid] = true
		for _, inner := range r.Reads {
			reach(inner)
		}
	}
	for _, r := range a.Relations {
		if r.reached() {
			reach(r.OID)
		}
	}
	for _, r := range a.Relations {
		if reached[r.OID] && (r.Column != nil || !r.owner.IsZero() || a.leads(r, map[uint32]bool{})) {
			check(r)
		}
	}
}

// leads reports whether a view reads a tenants' table, itself or through
// others.
func (a *audit) leads(r *relation, seen map[uint32]bool) bool {
	if seen[r.OID] {
		return false
	}
	seen[r.OID] = true
	return slices.ContainsFunc(r.Reads, func(oid uint32) bool {
		inner := a.relations[oid]
		return inner != nil && (inner.Tenants || inner.Schema == "mcpsaas" || inner.Kind == "f" || a.leads(inner, seen))
	})
}

// invokerVersion is the first PostgreSQL with views that check their reader.
const invokerVersion = 150000

func (a *audit) makeInvoker(v *relation) string {
	if a.Version < invokerVersion {
		if !v.reached() {
			return "" // it is read by another view
		}
		return v.revoke("all")
	}
	return fmt.Sprintf("alter view %s set (security_invoker = true);", v.sql())
}

func checkViewOwner(a *audit) {
	a.eachView(func(v *relation) {
		if v.Kind == "v" && !v.Invoker && v.OwnerFree {
			a.find(v.object(), a.makeInvoker(v), "the view reads as its owner %s, whom no policy binds: every tenant sees every row", v.Owner)
		}
	})
}

func checkViewInvoker(a *audit) {
	if a.Version < invokerVersion {
		return // the owner's being bound is all that can be had
	}
	a.eachView(func(v *relation) {
		if v.Kind == "v" && !v.Invoker && !v.OwnerFree {
			a.find(v.object(), a.makeInvoker(v), "the view reads as its owner: it is safe only as long as the policies bind %s and every table below is forced", v.Owner)
		}
	})
}

func checkMaterialized(a *audit) {
	a.eachView(func(v *relation) {
		if v.Kind == "m" && v.reached() && !a.stays(v) {
			a.find(v.object(), v.revoke("all"),
				"row level security can't hold for a materialized view, which has the rows of whoever refreshed it")
		}
	})
}

// stays reports whether a view in a tenant's own schema reads nothing else.
func (a *audit) stays(v *relation) bool {
	return !v.owner.IsZero() && len(v.Access) == 0 && !slices.ContainsFunc(v.Reads, func(oid uint32) bool {
		return a.relations[oid] == nil || a.relations[oid].Schema != v.Schema
	})
}

// eachDefiner calls check for the functions that a role can call and that run
// as someone else. Ours have a rule of their own.
func (a *audit) eachDefiner(check func(f *function)) {
	for _, f := range a.Functions {
		if f.Definer && len(f.Executable) > 0 && !isOwn(f) {
			check(f)
		}
	}
}

func (f *function) revoke() string {
	return fmt.Sprintf("revoke execute on routine %s from %s;", f.sql(), roleList(f.Executable))
}

func checkDefinerFree(a *audit) {
	a.eachDefiner(func(f *function) {
		if f.OwnerFree {
			a.find(f.object(), f.revoke(), "it runs as its owner %s, whom no policy binds, and the application can call it", f.Owner)
		}
	})
}

func checkDefiner(a *audit) {
	a.eachDefiner(func(f *function) {
		if !f.OwnerFree {
			a.find(f.object(), f.revoke(), "it runs as its owner %s, with that one's privileges, and the application can call it", f.Owner)
		}
	})
}

func checkDefinerPath(a *audit) {
	a.eachDefiner(func(f *function) {
		path, what := "pg_catalog, pg_temp", "has the caller's search_path: the caller says which tables and functions it means; name them with their schema"
		if f.SearchPath != nil {
			p := parsePath(*f.SearchPath)
			if p.tempLast && !p.catalogLate && !p.tempEarly {
				return
			}
			path, what = p.mended, "doesn't end its search_path with pg_temp, which is searched first if it isn't named, or begin it with pg_catalog: others' tables and functions take the place of what it means"
		}
		a.find(f.object(), fmt.Sprintf("alter routine %s set search_path = %s;", f.sql(), path), "the function runs as its owner and %s", what)
	})
}

func checkLeakproof(a *audit) {
	for _, f := range a.Functions {
		if f.Leakproof && !isOwn(f) {
			a.find(f.object(), "alter function "+f.sql()+" not leakproof;", "it is called on rows before the policies filter them: what it writes or raises tells of other tenants' rows")
		}
	}
}
