package tenancy

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

func checkTemporary(a *audit) {
	a.eachBound(func(r catalogRole, _ string) {
		if len(r.Temporary) > 0 {
			a.find(r.Name, fmt.Sprintf("revoke temporary on database %s from %s;", pgx.Identifier{a.Database}.Sanitize(), roleList(r.Temporary)),
				"temporary tables outlive a tenant's transaction and can shadow tables")
		}
	})
}

func checkCreateSchema(a *audit) {
	a.eachBound(func(r catalogRole, _ string) {
		if len(r.Create) > 0 {
			a.find(r.Name, fmt.Sprintf("revoke create on database %s from %s;", pgx.Identifier{a.Database}.Sanitize(), roleList(r.Create)),
				"the role can create schemas, and tables in them that shadow others and that no policy covers")
		}
	})
}

func checkCreateTable(a *audit) {
	a.eachBound(func(r catalogRole, _ string) {
		for _, c := range r.Creatable {
			a.find(c.Schema, fmt.Sprintf("revoke create on schema %s from %s;", pgx.Identifier{c.Schema}.Sanitize(), roleList(c.Via)),
				"%s can create tables and functions in it, which no policy covers and which all tenants share", r.Name)
		}
	})
}

func checkLargeObjects(a *audit) {
	a.eachBound(func(r catalogRole, _ string) {
		if r.LargeObjects == 0 {
			return
		}
		mend := ""
		if owner := a.rightfulOwner(r.Name); owner != "" {
			mend = fmt.Sprintf(takeLargeObjectsSQL, quoteLiterals(r.Reach), owner, roleList(append(r.Reach, "")))
		}
		a.find(r.Name, mend, "%d large objects are open to every tenant by their number; keep them in a column instead", r.LargeObjects)
	})
}

const takeLargeObjectsSQL = `do $$
declare
	lo oid;
begin
	for lo in
		select l.oid from pg_largeobject_metadata l
		where exists (select from aclexplode(coalesce(l.lomacl, acldefault('L', l.lomowner))) a
			where a.grantee in (select 0::oid union select oid from pg_roles where rolname in (%[1]s)))
	loop
		execute format('alter large object %%s owner to %[2]s', lo);
		execute format('revoke all on large object %%s from %[3]s', lo);
	end loop;
end $$;`

func quoteLiterals(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quoteLiteral(name)
	}
	return strings.Join(quoted, ", ")
}

func checkFiles(a *audit) {
	a.eachBound(func(r catalogRole, _ string) {
		for _, f := range r.Functions {
			if f.Files {
				a.find(f.Name, fmt.Sprintf("revoke execute on function %s from %s;", f.Name, roleList(f.Via)),
					"by it %s reads or writes files of the server, those of the database among them (a superuser mends it)", r.Name)
			}
		}
	})
}

func checkLargeObjectFunctions(a *audit) {
	if !a.strict {
		return
	}
	a.eachBound(func(r catalogRole, _ string) {
		var names, via []string
		for _, f := range r.Functions {
			if !f.Files {
				names, via = append(names, f.Name), append(via, f.Via...)
			}
		}
		if len(names) > 0 {
			a.find(r.Name, fmt.Sprintf("revoke execute on function %s from %s;", strings.Join(names, ", "), roleList(via)),
				"the role can make large objects, which no policy covers (a superuser mends it)")
		}
	})
}

func checkLargeObjectCompat(a *audit) {
	if a.LargeObjectCompat {
		a.find(a.Database, fmt.Sprintf("alter database %s set lo_compat_privileges = off;", pgx.Identifier{a.Database}.Sanitize()),
			"lo_compat_privileges is on: large objects have no owner and no privileges (a superuser mends it, for sessions that begin later)")
	}
}

// writeSentinelSQL runs under the sentinel's own context, as Migrate does.
const writeSentinelSQL = `begin;
select set_config('` + Setting + `', '%[1]s', true), set_config('` + tokenSetting + `', mcpsaas.token('%[1]s'), true);
insert into public.tenant_marker (tenant_id) values ('%[1]s') on conflict do nothing;
commit;`

func checkMarker(a *audit) {
	marker := false
	for _, name := range []string{"tenant_marker", "tenant_config"} {
		found := false
		for _, r := range a.Relations {
			found = found || r.is(name) && r.Tenants
		}
		if !found {
			a.find("public."+name, "", "the table is missing: run tenancy.Migrate, which makes it")
		}
		marker = marker || found && name == "tenant_marker"
	}
	if marker && a.MarkerReadable && !a.sentinel {
		a.find("public.tenant_marker", fmt.Sprintf(writeSentinelSQL, Sentinel),
			"the sentinel's row is missing, so that the canary's not seeing it proves nothing")
	}
}

// checkUnseen says what it takes a privilege to see. The rest of what the
// rules judge anyone may read who may read the catalog at all; who may not gets
// an error for an answer.
func checkUnseen(a *audit) {
	for _, r := range a.Relations {
		if !r.is("tenant_marker") || !r.Tenants || a.MarkerReadable {
			continue
		}
		if a.signed && !a.MayAct {
			a.find("public.tenant_marker", "", "%s may not sign a context, so that it is not known whether the sentinel's row is there; run the audit as the owner or as %s", a.User, ControlRole)
		} else {
			a.find("public.tenant_marker", fmt.Sprintf("grant usage on schema public to %[1]s; grant select on public.tenant_marker to %[1]s;", pgx.Identifier{a.User}.Sanitize()),
				"%s may not read it, so that it is not known whether the sentinel's row is there; run the audit as the owner or as %s", a.User, ControlRole)
		}
	}
}
