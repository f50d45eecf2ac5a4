package main

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// databaseTier is where tenants with a database of their own have it, as
// TENANT_DATABASES says. What stands beside a tenant is a reference; its
// address and password are where this says, and nowhere else.
type databaseTier struct {
	kind string // "": there are none
	arg  string // the prefix or the directory
}

const (
	sameServer = "same-server" // on the server of DATABASE_URL, made by the server itself
	fromEnv    = "env"         // env:PREFIX: in variables PREFIX_REFERENCE
	fromFiles  = "file"        // file:DIR: in files, as secrets are mounted
)

// errDatabaseTier repeats nothing: what was typed may be a URL.
var errDatabaseTier = errors.New("TENANT_DATABASES: want " + sameServer + ", " + fromEnv + ":PREFIX or " + fromFiles + ":DIRECTORY; an address belongs into what these name")

func parseDatabaseTier(s string) (databaseTier, error) {
	kind, arg, _ := strings.Cut(s, ":")
	t := databaseTier{kind, arg}
	switch {
	case s == "", s == sameServer:
	case kind == fromEnv && envName(arg), kind == fromFiles && arg != "" && !strings.Contains(arg, "\x00"):
	default:
		return databaseTier{}, errDatabaseTier
	}
	return t, nil
}

// envName allows the beginning of the name of a variable.
func envName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// resolver finds the databases by their references, as the owner or as app_user; home is the
// address of the first database in that role. It is nil where there are none.
func (t databaseTier) resolver(home, role string) tenancy.Resolver {
	switch t.kind {
	case sameServer:
		return serverDatabases(home)
	case fromEnv:
		return tenancy.EnvResolver(t.arg + "_" + strings.ToUpper(role) + "_")
	case fromFiles:
		return tenancy.FileResolver(filepath.Join(t.arg, role))
	}
	return nil
}

// The roles that there are URLs for.
const (
	asOwner = "owner"
	asApp   = "app"
)

// tier is where a tenant of this plan belongs. Without databases there is
// nothing better than a schema.
func (t databaseTier) tier(plan tenant.Plan) tenancy.Tier {
	tier := tenancy.DefaultTier(plan)
	if tier == tenancy.TierDatabase && t.kind == "" {
		return tenancy.TierSchema
	}
	return tier
}

// place is where a new tenant goes.
func (t databaseTier) place(id tenant.ID, plan tenant.Plan) tenancy.Placement {
	p := tenancy.Placement{Tier: t.tier(plan)}
	if p.Tier == tenancy.TierDatabase {
		p.Database = databaseRef(id)
	}
	return p
}

// databaseRef is the reference of a tenant's own database.
func databaseRef(id tenant.ID) string { return id.String() }

// parseTarget reads -to: shared, schema, database (the tenant's own), or
// database:REFERENCE.
func (t databaseTier) parseTarget(s string, id tenant.ID) (tenancy.Placement, error) {
	if s == string(tenancy.TierDatabase) {
		s += ":" + databaseRef(id)
	}
	p, err := tenancy.ParsePlacement(s)
	if err != nil || p.Tier == "" || !plainRef(p.Database) {
		tier, _, _ := strings.Cut(s, ":") // what follows may be an address with a password
		return tenancy.Placement{}, usagef("-to %s: want shared, schema, database or database:REFERENCE (of lower-case letters, digits and hyphens)", quote(tier))
	}
	if p.Tier == tenancy.TierDatabase && t.kind == "" {
		return tenancy.Placement{}, usagef("-to %s: TENANT_DATABASES is not set (-tenant-databases)", p)
	}
	return p, nil
}

// plainRef keeps addresses and paths from being taken for references.
func plainRef(s string) bool {
	const most = 40
	for _, c := range []byte(s) {
		if c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(s) <= most
}
