package tenancy

import (
	"fmt"

	"github.com/jackc/pgx/v5"
)

func checkExcess(a *audit) {
	for _, t := range a.tenantTables() {
		if !t.Partition && t.granted("truncate", "references", "trigger") {
			a.find(t.object(), t.revoke("truncate, references, trigger"), "truncate is not subject to row level security; references and trigger see every row")
		}
	}
}

func checkSequence(a *audit) {
	for _, s := range a.Relations {
		if s.Kind != "S" || s.Schema == "mcpsaas" || len(s.Access) == 0 {
			continue
		}
		severity, what := SeverityWarning, "its numbers tell each tenant how much the others do; use an identity column, which needs no grant, or a uuid"
		if s.granted("update") {
			severity, what = SeverityError, "one tenant can set it back, and the inserts of all others fail"
		}
		a.findAt(severity, s.object(), s.revoke("all"), "%s", what)
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
	a.eachBound(func(r catalogRole, _ string) {
		if len(r.ControlUsage) > 0 {
			a.find("mcpsaas", fmt.Sprintf("revoke usage on schema mcpsaas from %s;", roleList(r.ControlUsage)), "%s can reach the control tables, which no policy covers", r.Name)
		}
	})
	for _, rel := range a.Relations {
		if rel.Schema == "mcpsaas" && rel.reached() {
			a.find(rel.object(), rel.revoke("all"), "the control table is granted to the application")
		}
	}
}
