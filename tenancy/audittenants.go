package tenancy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tenantRole is the role of a tenant's own schema, if it isn't as generated.
type tenantRole struct {
	Name        string   `json:"name"`
	Login       bool     `json:"login"`
	Super       bool     `json:"super"`
	Bypass      bool     `json:"bypass"`
	CreateRole  bool     `json:"create_role"`
	CreateDB    bool     `json:"create_db"`
	Replication bool     `json:"replication"`
	Member      []string `json:"member"`    // what it may become
	Inherited   []string `json:"inherited"` // by which of the application's roles
	Admin       []string `json:"admin"`     // which of them may grant it to others
}

func (r tenantRole) sql() string { return pgx.Identifier{r.Name}.Sanitize() }

// schemaGrant is a privilege on a tenant's own schema that isn't its own role's, or
// one of such a role on another schema.
type schemaGrant struct {
	Schema    string `json:"schema"`
	Via       string `json:"via"`
	Privilege string `json:"privilege"`
}

type schemaOwned struct {
	Schema string `json:"schema"`
	Owner  string `json:"owner"`
}

func checkTenantRole(a *audit) {
	for _, r := range a.TenantRoles {
		var has, lacks []string
		for _, attribute := range []struct {
			has  bool
			name string
		}{{r.Login, "login"}, {r.Super, "superuser"}, {r.Bypass, "bypassrls"}, {r.CreateRole, "createrole"}, {r.CreateDB, "createdb"}, {r.Replication, "replication"}} {
			if attribute.has {
				has, lacks = append(has, attribute.name), append(lacks, "no"+attribute.name)
			}
		}
		if len(has) > 0 {
			a.find(r.Name, fmt.Sprintf("alter role %s %s;", r.sql(), strings.Join(lacks, " ")),
				"the role of a tenant's schema has %s: it is for set role, and for nothing else", strings.ToUpper(strings.Join(has, ", ")))
		}
	}
}

func checkTenantMember(a *audit) {
	for _, r := range a.TenantRoles {
		for _, of := range r.Member {
			a.find(r.Name+" in "+of, fmt.Sprintf("revoke %s from %s;", pgx.Identifier{of}.Sanitize(), r.sql()),
				"the role of a tenant's schema can become %s, and so have what is out of its schema", of)
		}
	}
}

// membershipVersion is the first PostgreSQL where it is a membership, and not the
// role, that inherits.
const membershipVersion = 160000

func checkTenantInherit(a *audit) {
	const what = "%s has the privileges of tenants' roles without becoming them: a statement outside of a tenant's transaction reaches their schemas"
	seen := make(map[string]bool)
	for _, r := range a.TenantRoles {
		for _, by := range r.Inherited {
			name := pgx.Identifier{by}.Sanitize()
			switch {
			case a.Version >= membershipVersion:
				a.find(r.Name+" by "+by, fmt.Sprintf("grant %s to %s with inherit false;", r.sql(), name), what, by)
			case !seen[by]:
				seen[by] = true
				a.find(by, fmt.Sprintf("alter role %s noinherit;", name), what, by)
			}
		}
		for _, by := range r.Admin {
			a.find(r.Name+" by "+by, fmt.Sprintf("revoke admin option for %s from %s;", r.sql(), pgx.Identifier{by}.Sanitize()),
				"%s can make others members of a tenant's role", by)
		}
	}
}

func checkTenantOwner(a *audit) {
	own := func(object, kind, sql, owner, privileges string) {
		mend := ""
		if rightful := a.rightfulOwner(owner); rightful != "" {
			mend = fmt.Sprintf("alter %s %s owner to %s;", kind, sql, rightful)
			if privileges != "" { // which went with what it has as the owner
				mend += fmt.Sprintf("\ngrant %s on %s %s to %s;", privileges, kind, sql, pgx.Identifier{owner}.Sanitize())
			}
		}
		a.find(object, mend, "the tenant's role %s owns it, and an owner can take the policies away", owner)
	}
	for _, s := range a.SchemaOwners {
		own(s.Schema, "schema", pgx.Identifier{s.Schema}.Sanitize(), s.Owner, "usage")
	}
	for _, r := range a.Relations {
		if tenantSchema.MatchString(r.Owner) && r.Kind != "S" { // which goes with its table
			privileges := ""
			if r.Kind == "r" || r.Kind == "p" {
				privileges = "select, insert, update, delete"
			}
			own(r.object(), ownable[r.Kind], r.sql(), r.Owner, privileges)
		}
	}
}

// checkTenantSchema looks at both sides of a schema's wall.
func checkTenantSchema(a *audit) {
	seen := make(map[schemaGrant]bool)
	for _, r := range a.Roles {
		for _, g := range r.SchemaGrants {
			if seen[g] {
				continue
			}
			seen[g] = true
			what := "the tenant's role " + g.Via + " has what is out of its schema"
			if tenantSchema.MatchString(g.Schema) {
				what = "a tenant's schema is its own role's to use, and nobody's to create in"
			}
			a.find(g.Schema, fmt.Sprintf("revoke %s on schema %s from %s;", g.Privilege, pgx.Identifier{g.Schema}.Sanitize(), roleList([]string{g.Via})),
				"%s is granted to %s: %s", g.Privilege, orPublic(g.Via), what)
		}
	}
}

func orPublic(role string) string {
	if role == "" {
		return "public"
	}
	return role
}

func checkTenantGrant(a *audit) {
	for _, r := range a.Relations {
		var via []string
		for _, g := range r.Access {
			if tenantSchema.MatchString(g.Via) && g.Via != r.Schema || !r.owner.IsZero() && g.Via != r.Schema && g.Via != "" {
				via = append(via, g.Via)
			}
		}
		slices.Sort(via)
		if via = slices.Compact(via); len(via) > 0 && !(r.Partition && r.Tenants) {
			on := r.sql()
			if r.Kind == "S" {
				on = "sequence " + on
			}
			a.find(r.object(), fmt.Sprintf("revoke all on %s from %s;", on, roleList(via)),
				"what is in a tenant's schema is for that one's role, which has nothing else; %s has this", strings.Join(via, ", "))
		}
	}
}
