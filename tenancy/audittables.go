package tenancy

import (
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// eachColumn calls check for the tables whose column tenant_id is their own.
func (a *audit) eachColumn(check func(t *relation)) {
	for _, t := range a.tenantTables() {
		if !t.Partition && t.Column != nil && (t.owner.IsZero() || t.Column.Type == "uuid") {
			check(t)
		}
	}
}

func checkType(a *audit) {
	a.eachColumn(func(t *relation) {
		if t.Column.Type == "uuid" {
			return
		}
		mend := ""
		for _, p := range a.policies[t.OID] { // a policy keeps the type of its columns
			mend += fmt.Sprintf("drop policy if exists %s on %s;\n", pgx.Identifier{p.Name}.Sanitize(), t.sql())
		}
		a.find(t.object(), mend+fmt.Sprintf("alter table %s alter column tenant_id drop default, alter column tenant_id type uuid using tenant_id::text::uuid;", t.sql()),
			"tenant_id is of type %s: the generated policies compare it with a uuid", t.Column.Type)
	})
}

func checkNullable(a *audit) {
	a.eachColumn(func(t *relation) {
		if !t.Column.NotNull {
			a.find(t.object(), fmt.Sprintf("alter table %s alter column tenant_id set not null;", t.sql()),
				"tenant_id may be null: a row without it is nobody's, and unique constraints don't hold for it")
		}
	})
}

func checkDefault(a *audit) {
	a.eachColumn(func(t *relation) {
		if t.Column.filled {
			return
		}
		what := "has no default"
		if t.Column.Preset != "" {
			what = "has a default that isn't the context"
		}
		a.find(t.object(), fmt.Sprintf("alter table %s alter column tenant_id set default %s;", t.sql(), defaultExpr),
			"tenant_id %s: an insert that doesn't name it fails, or writes another's row", what)
	})
}

func checkEnabled(a *audit) {
	a.eachPolicied(func(t *relation) {
		if t.Enabled {
			return
		}
		severity, who := SeverityError, "every tenant sees every row"
		if !t.reached() {
			severity, who = SeverityWarning, "the application can't reach the table yet; who grants it opens every row"
		}
		a.findAt(severity, t.object(), fmt.Sprintf("alter table %s enable row level security;", t.sql()), "row level security is off: %s", who)
	})
}

func checkForced(a *audit) {
	a.eachPolicied(func(t *relation) {
		if t.Forced {
			return
		}
		severity := SeverityError
		if !t.reached() {
			severity = SeverityWarning
		}
		a.findAt(severity, t.object(), fmt.Sprintf("alter table %s force row level security;", t.sql()),
			"row level security isn't forced: views, functions and jobs of the owner see every row")
	})
}

func checkTenantIndex(a *audit) {
	leads := make(map[uint32]bool)
	for _, i := range a.Indexes {
		leads[i.Table] = leads[i.Table] || i.Leads && i.Usable
	}
	a.eachColumn(func(t *relation) {
		if leads[t.OID] || !t.owner.IsZero() { // where all rows are one tenant's
			return
		}
		how := " concurrently"
		if t.Kind == "p" {
			how = "" // PostgreSQL, CREATE INDEX: not for a partitioned table
		}
		a.find(t.object(), fmt.Sprintf("create index%s on %s (tenant_id);", how, t.sql()),
			"no index begins with tenant_id: each statement of a tenant reads all tenants' rows")
	})
}

func checkPartition(a *audit) {
	for _, t := range a.tenantTables() {
		if t.Partition && !t.shielded() {
			a.find(t.object(), t.revoke("all"),
				"the policies of the partitioned table don't hold for a partition that is named itself")
		}
	}
}

func checkInheritance(a *audit) {
	for _, t := range a.tenantTables() {
		if t.Partition {
			continue
		}
		for _, oid := range t.Parents {
			parent := a.relations[oid]
			if parent == nil {
				continue
			}
			severity, what := SeverityWarning, "its unique constraints and foreign keys don't hold for this table"
			if parent.reached() && !(parent.Enabled && parent.Forced && a.guarded(parent.OID)) {
				severity, what = SeverityError, "read through it, rows are filtered by its policies alone, and it has none that hold"
			}
			a.findAt(severity, t.object(), fmt.Sprintf("alter table %s no inherit %s;", t.sql(), parent.sql()),
				"the table inherits from %s: %s", parent.object(), what)
		}
	}
}

func checkForeignTable(a *audit) {
	for _, r := range a.Relations {
		if r.Kind == "f" && r.reached() {
			a.find(r.object(), r.revoke("all"),
				"row level security can't hold for a foreign table: every tenant sees every row")
		}
	}
}

func checkRewriteRule(a *audit) {
	for _, w := range a.Rules {
		t := a.relations[w.Table]
		a.find(t.object()+"."+w.Name, fmt.Sprintf("drop rule %s on %s;", pgx.Identifier{w.Name}.Sanitize(), t.sql()),
			"a rule rewrites statements, and what it adds runs with the privileges of the table's owner; use a trigger")
	}
}

func checkTrigger(a *audit) {
	for _, g := range a.Triggers {
		t, f := a.relations[g.Table], a.functions[g.Function]
		if f == nil { // PostgreSQL's own
			continue
		}
		object := t.object() + "." + g.Name
		if f.Definer && f.OwnerFree {
			a.findAt(SeverityError, object, "alter function "+f.sql()+" security invoker;",
				"the trigger's function runs as %s, which no policy binds", f.Owner)
			continue
		}
		if f.Owner != t.Owner {
			a.find(object, fmt.Sprintf("alter function %s owner to %s;", f.sql(), pgx.Identifier{t.Owner}.Sanitize()),
				"%s, who doesn't own the table, can change what the trigger does with every tenant's rows", f.Owner)
		}
	}
}

func checkPublication(a *audit) {
	seen := make(map[string]bool)
	for _, p := range a.Publications {
		t := a.relations[p.Table]
		name := pgx.Identifier{p.Name}.Sanitize()
		object := p.Name + " of schema " + t.Schema
		mend := fmt.Sprintf("alter publication %s drop tables in schema %s;", name, pgx.Identifier{t.Schema}.Sanitize())
		switch {
		case p.All:
			object, mend = p.Name, "drop publication "+name+";"
		case p.Listed:
			object, mend = p.Name+" of "+t.object(), fmt.Sprintf("alter publication %s drop table %s;", name, t.sql())
		}
		if !seen[object] {
			seen[object] = true
			a.find(object, mend, "the publication sends the rows of all tenants to its subscribers, which no policy filters")
		}
	}
}

func checkSharedTable(a *audit) {
	for _, r := range a.Relations {
		if (r.Kind != "r" && r.Kind != "p") || r.Column != nil || r.Tenants || r.Schema == "mcpsaas" || !r.reached() {
			continue
		}
		severity, what := SeverityWarning, "every tenant reads every row"
		if slices.ContainsFunc(r.Access, func(g grant) bool { return g.Privilege != "select" }) {
			severity, what = SeverityError, "what one tenant writes all others read"
		}
		a.findAt(severity, r.object(), r.revoke("all"),
			"the table has no tenant_id and is granted to the application: %s; allow it if that is its purpose", what)
	}
}
