package tenancy

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// eachRole calls check for each of the application's roles.
func (a *audit) eachRole(check func(r catalogRole, name string)) {
	for _, r := range a.Roles {
		check(r, pgx.Identifier{r.Name}.Sanitize())
	}
}

// eachBound leaves out superusers, who have every privilege there is.
func (a *audit) eachBound(check func(r catalogRole, name string)) {
	a.eachRole(func(r catalogRole, name string) {
		if !r.Super {
			check(r, name)
		}
	})
}

func checkSuperuser(a *audit) {
	a.eachRole(func(r catalogRole, name string) {
		if r.Super {
			a.find(r.Name, "alter role "+name+" nosuperuser;", "a superuser bypasses every policy, forced or not")
		}
	})
}

func checkBypass(a *audit) {
	a.eachBound(func(r catalogRole, name string) {
		if r.Bypass {
			a.find(r.Name, "alter role "+name+" nobypassrls;", "the role bypasses every policy, forced or not")
		}
	})
}

func checkCreateRole(a *audit) {
	a.eachBound(func(r catalogRole, name string) {
		if r.CreateRole {
			a.find(r.Name, "alter role "+name+" nocreaterole;", "the role can make itself a member of others")
		}
	})
}

func checkReplication(a *audit) {
	a.eachBound(func(r catalogRole, name string) {
		if r.Replication {
			a.find(r.Name, "alter role "+name+" noreplication;", "the role can stream every change of every tenant")
		}
	})
}

func checkMember(a *audit) {
	a.eachBound(func(r catalogRole, name string) {
		for _, m := range r.Member {
			a.find(r.Name+" in "+m.Role, fmt.Sprintf("revoke %s from %s;", pgx.Identifier{m.Role}.Sanitize(), name),
				"by one set role the role can act as %s", strings.Join(m.Reaches, ", "))
		}
	})
}

func checkInherit(a *audit) {
	a.eachBound(func(r catalogRole, name string) {
		if r.Inherit {
			a.find(r.Name, "alter role "+name+" noinherit;", "whatever role it is made a member of, it has that one's privileges at once")
		}
	})
}

// ownable are the kinds of relation, as alter calls them.
var ownable = map[string]string{"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence"}

func checkOwner(a *audit) {
	a.eachBound(func(r catalogRole, _ string) {
		own := func(object, kind, sql string) {
			mend := ""
			if owner := a.rightfulOwner(r.Name); owner != "" {
				mend = fmt.Sprintf("alter %s %s owner to %s;", kind, sql, owner)
			}
			a.find(object, mend, "%s owns it, and an owner can take the policies away", r.Name)
		}
		if r.OwnsDatabase {
			own(a.Database, "database", pgx.Identifier{a.Database}.Sanitize())
		}
		for _, schema := range r.OwnedSchemas {
			own(schema, "schema", pgx.Identifier{schema}.Sanitize())
		}
		for _, rel := range a.Relations {
			if rel.Owner == r.Name {
				own(rel.object(), ownable[rel.Kind], rel.sql())
			}
		}
		for _, f := range a.Functions {
			if f.Owner == r.Name {
				own(f.object(), "routine", f.sql())
			}
		}
	})
}

func checkControlRole(a *audit) {
	c := a.Control
	if c == nil || !c.Login && !c.Super && !c.Bypass && !c.CreateRole {
		return
	}
	a.find(c.Name, "alter role "+pgx.Identifier{c.Name}.Sanitize()+" nologin nosuperuser nobypassrls nocreaterole;",
		"the server's own statements run as this role: it must not log in, bypass policies or make roles")
}

// reset takes a setting back where it was made.
func (a *audit) reset(s roleSetting) string {
	return a.alter(s) + " reset " + settingName(s.Name) + ";"
}

func (a *audit) alter(s roleSetting) string {
	database := pgx.Identifier{a.Database}.Sanitize()
	switch {
	case s.Role == "" && s.InDatabase:
		return "alter database " + database
	case s.Role == "":
		return "alter role all"
	case s.InDatabase:
		return "alter role " + pgx.Identifier{s.Role}.Sanitize() + " in database " + database
	default:
		return "alter role " + pgx.Identifier{s.Role}.Sanitize()
	}
}

// settingName quotes the parts of a name, which may have a dot.
func settingName(name string) string { return pgx.Identifier(strings.Split(name, ".")).Sanitize() }

// where says whom a setting is for.
func (a *audit) where(s roleSetting) string {
	if s.Role == "" {
		return a.Database
	}
	return s.Role
}

func checkPreset(a *audit) {
	for _, s := range a.Settings {
		if strings.EqualFold(s.Name, Setting) {
			a.find(a.where(s), a.reset(s), "%s is set for every session: a statement without a tenant runs as that one", Setting)
		}
	}
}

func checkRowSecurity(a *audit) {
	for _, s := range a.Settings {
		if s.Name == "row_security" && s.Value != "on" && s.Value != "true" && s.Value != "1" {
			a.find(a.where(s), a.reset(s), "row_security is off: each statement on a tenants' table fails instead of being filtered")
		}
	}
}

func checkSearchPath(a *audit) {
	for _, s := range a.Settings {
		if s.Name != "search_path" {
			continue
		}
		if p := parsePath(s.Value); p.catalogLate || p.tempEarly {
			a.find(a.where(s), a.alter(s)+" set search_path = "+p.mended+";",
				"search_path has other schemas before pg_catalog, or pg_temp before others: what is made there takes the place of PostgreSQL's own functions, or of tables")
		}
	}
}

// searchPath is what matters of one.
type searchPath struct {
	catalogLate bool // pg_catalog is named after another schema; unnamed it is first
	tempEarly   bool // pg_temp is named before another schema
	tempLast    bool // pg_temp is named last; unnamed it is first
	mended      string
}

func parsePath(path string) searchPath {
	var p searchPath
	var rest []string
	for part := range strings.SplitSeq(path, ",") {
		part = strings.TrimSpace(part)
		name := strings.Trim(part, `"`)
		if name == "" {
			continue
		}
		p.tempEarly = p.tempEarly || p.tempLast
		p.tempLast = name == "pg_temp"
		switch {
		case name == "pg_catalog":
			p.catalogLate = p.catalogLate || len(rest) > 0
		case !p.tempLast:
			rest = append(rest, part)
		}
	}
	p.mended = strings.Join(append(rest, "pg_temp"), ", ")
	return p
}
