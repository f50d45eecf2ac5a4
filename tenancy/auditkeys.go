package tenancy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

func checkForeignKey(a *audit) {
	for _, k := range a.ForeignKeys {
		if k.Crosses {
			continue
		}
		scoped := false
		for i, column := range k.Columns {
			scoped = scoped || column == "tenant_id" && k.TargetColumns[i] == "tenant_id"
		}
		if scoped {
			continue
		}
		t, target := a.relations[k.Table], a.relations[k.Target]
		a.find(t.object()+"."+k.Name, a.scopeForeignKey(k),
			"a row can refer to another tenant's row in %s, which tells that it exists; on delete and on update reach across as well", target.object())
	}
}

func checkCrossingKey(a *audit) {
	for _, k := range a.ForeignKeys {
		if k.Crosses {
			t := a.relations[k.Table]
			a.find(t.object()+"."+k.Name, fmt.Sprintf("alter table %s drop constraint %s;", t.sql(), pgx.Identifier{k.Name}.Sanitize()),
				"it refers to %s: what one place has is told to the other, and neither can be moved or taken away alone", a.relations[k.Target].object())
		}
	}
}

// actions are those of a foreign key, as pg_constraint has them.
var actions = map[string]string{"a": "", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}

// scopeForeignKey makes the key anew with tenant_id before its columns. The
// target needs a constraint on the same ones.
func (a *audit) scopeForeignKey(k foreignKey) string {
	if slices.Contains(k.Columns, "tenant_id") {
		return "" // it refers to something else than a tenant_id
	}
	t, target := a.relations[k.Table], a.relations[k.Target]
	columns, targets := columnList(k.Columns), columnList(k.TargetColumns)
	var b strings.Builder
	if !a.uniqueOn(k.Target, k.TargetColumns) {
		fmt.Fprintf(&b, "alter table %s add unique (tenant_id, %s);\n", target.sql(), targets)
	}
	name := pgx.Identifier{k.Name}.Sanitize()
	fmt.Fprintf(&b, "alter table %s drop constraint %s, add constraint %s foreign key (tenant_id, %s) references %s (tenant_id, %s)",
		t.sql(), name, name, columns, target.sql(), targets)
	if k.Full {
		b.WriteString(" match full")
	}
	if action := actions[k.OnUpdate]; action != "" {
		b.WriteString(" on update " + action)
	}
	if action := actions[k.OnDelete]; action != "" {
		b.WriteString(" on delete " + action)
		if k.OnDelete == "n" || k.OnDelete == "d" {
			if a.Version < 150000 {
				return "" // it would set tenant_id as well
			}
			b.WriteString(" (" + columns + ")")
		}
	}
	if k.Deferrable {
		b.WriteString(" deferrable")
	}
	if k.Deferred {
		b.WriteString(" initially deferred")
	}
	return b.String() + ";"
}

// uniqueOn reports whether a key may refer to tenant_id and these columns.
func (a *audit) uniqueOn(table uint32, columns []string) bool {
	want := "(tenant_id, " + columnList(columns) + ")"
	for _, i := range a.Indexes {
		if i.Table == table && i.Unique && i.Usable && strings.HasSuffix(strings.ReplaceAll(i.Def, `"`, ""), strings.ReplaceAll(want, `"`, "")) {
			return true
		}
	}
	return false
}

func columnList(columns []string) string {
	quoted := make([]string, len(columns))
	for i, c := range columns {
		quoted[i] = pgx.Identifier{c}.Sanitize()
	}
	return strings.Join(quoted, ", ")
}

// eachUnscoped calls check for the indexes that hold across tenants.
func (a *audit) eachUnscoped(check func(i index, t *relation, object string)) {
	for _, i := range a.Indexes {
		if (i.Unique || i.Exclusion) && !i.Scoped && !i.Inherited {
			t := a.relations[i.Table]
			check(i, t, t.object()+"."+i.Name)
		}
	}
}

func checkUnique(a *audit) {
	a.eachUnscoped(func(i index, t *relation, object string) {
		if i.Primary || i.Exclusion {
			return
		}
		mend := a.scopeConstraint(i, t)
		if i.Constraint == "" {
			head, rest, ok := strings.Cut(i.Def, " USING btree (")
			if !ok {
				return
			}
			head = strings.Replace(head, " ON ONLY ", " ON ", 1) // as a partitioned table's is printed
			mend = fmt.Sprintf("drop index %s;\n%s USING btree (tenant_id, %s;", pgx.Identifier{t.Schema, i.Name}.Sanitize(), head, rest)
		}
		a.find(object, mend, "a violation tells one tenant what another has, and keeps it from having the same")
	})
}

func checkPrimaryKey(a *audit) {
	a.eachUnscoped(func(i index, t *relation, object string) {
		if i.Primary {
			a.find(object, a.scopeConstraint(i, t), "the primary key doesn't contain tenant_id: who guesses a key learns whether another tenant has it")
		}
	})
}

func checkExclusion(a *audit) {
	a.eachUnscoped(func(i index, t *relation, object string) {
		if !i.Exclusion {
			return
		}
		mend := a.scopeConstraint(i, t)
		mend = strings.Replace(mend, "(tenant_id, ", "(tenant_id WITH =, ", 1)
		if strings.Contains(i.ConstraintDef, "USING gist") {
			mend = "create extension if not exists btree_gist;\n" + mend
		}
		a.find(object, mend, "the rows of one tenant keep another from having its own, and tell of them")
	})
}

// scopeConstraint makes a constraint anew with tenant_id as the first column.
// Keys that refer to it must be made anew before.
func (a *audit) scopeConstraint(i index, t *relation) string {
	head, rest, ok := strings.Cut(i.ConstraintDef, "(")
	if !ok {
		return ""
	}
	name := pgx.Identifier{i.Constraint}.Sanitize()
	return fmt.Sprintf("alter table %s drop constraint %s, add constraint %s %s(tenant_id, %s;", t.sql(), name, name, head, rest)
}

func checkLeaky(a *audit) {
	for _, i := range a.Indexes {
		if len(i.Leaky) == 0 || i.Inherited {
			continue
		}
		t := a.relations[i.Table]
		a.find(t.object()+"."+i.Name, "", "the operators of %s aren't leakproof, so that under a policy the index can't be used for it; "+
			"index a stored generated column of a plainer type (text, bigint) instead", strings.Join(i.Leaky, ", "))
	}
}
