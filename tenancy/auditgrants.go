package tenancy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

func checkExcess(a *audit) {
	for _, t := range a.tenantTables() {
		if t.Partition {
			continue
		}
		for _, letters := range t.Access {
			if strings.ContainsAny(letters, "Dxt") {
				a.find(t.object(), fmt.Sprintf("revoke truncate, references, trigger on %s from %s;", t.sql(), a.grantees()),
					"truncate is not subject to row level security; references and trigger see every row")
				break
			}
		}
	}
}

func checkSequence(a *audit) {
	for _, s := range a.Relations {
		if s.Kind != "S" || s.Schema == "mcpsaas" || !s.reached() {
			continue
		}
		severity, what := SeverityWarning, "its numbers tell each tenant how much the others do; use an identity column, which needs no grant, or a uuid"
		for _, letters := range s.Access {
			if strings.Contains(letters, "w") {
				severity, what = SeverityError, "one tenant can set it back, and the inserts of all others fail"
			}
		}
		a.findAt(severity, s.object(), fmt.Sprintf("revoke all on sequence %s from %s;", s.sql(), a.grantees()), "%s", what)
	}
}

func checkDefaultPrivilege(a *audit) {
	for _, d := range a.DefaultPrivileges {
		kind := map[string]string{"r": "tables", "S": "sequences"}[d.Kind]
		grantee := "public"
		if d.Grantee != "" {
			grantee = pgx.Identifier{d.Grantee}.Sanitize()
		}
		in, object := "", "every schema"
		if d.Schema != "" {
			in, object = " in schema "+pgx.Identifier{d.Schema}.Sanitize(), d.Schema
		}
		a.find(object, fmt.Sprintf("alter default privileges for role %s%s revoke all on %s from %s;", pgx.Identifier{d.Creator}.Sanitize(), in, kind, grantee),
			"%s that %s creates are granted to %s before anyone has protected them", kind, d.Creator, grantee)
	}
}

func checkPublic(a *audit) {
	for _, t := range a.tenantTables() {
		if !t.Partition && t.Public {
			a.find(t.object(), fmt.Sprintf("revoke all on %s from public;", t.sql()), "the table is granted to public: to every role there is and every one to come")
		}
	}
}

func checkControlSchema(a *audit) {
	a.eachBound(func(r catalogRole, name string) {
		if r.ControlUsage && !slices.Contains(r.OwnedSchemas, "mcpsaas") {
			a.find("mcpsaas", fmt.Sprintf("revoke usage on schema mcpsaas from public, %s;", name), "%s can reach the control tables, which no policy covers", r.Name)
		}
	})
	for _, rel := range a.Relations {
		if rel.Schema == "mcpsaas" && rel.reached() {
			kind := ""
			if rel.Kind == "S" {
				kind = "sequence "
			}
			a.find(rel.object(), fmt.Sprintf("revoke all on %s%s from %s;", kind, rel.sql(), a.grantees()), "the control table is granted to the application")
		}
	}
}
