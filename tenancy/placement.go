package tenancy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Tier is a kind of place where a tenant's rows can live.
type Tier string

// The tiers. What separates tenants is, in this order: the policies; the
// policies and a role that reaches one schema; a database.
const (
	TierShared   Tier = "shared"   // the tables of schema public, with other tenants' rows
	TierSchema   Tier = "schema"   // tables of the tenant's own, in a schema of the same database
	TierDatabase Tier = "database" // a database of its own, on this server or another
)

// DefaultTier is where a new tenant of this plan goes: pro into a schema,
// enterprise into a database, everybody else into the shared tables. A plan
// says nothing about where a tenant is that exists already: only a [Mover]
// changes that.
func DefaultTier(plan tenant.Plan) Tier {
	switch plan {
	case tenant.Pro:
		return TierSchema
	case tenant.Enterprise:
		return TierDatabase
	}
	return TierShared
}

// Placement is where a tenant's rows live. The zero value is the shared
// tables.
type Placement struct {
	Tier Tier

	// Database names the database for a [Resolver]: a reference, never a URL.
	// Only TierDatabase has one.
	Database string
}

// ParsePlacement reads what [Placement.String] writes: "shared", "schema" or
// "database:" and the reference.
func ParsePlacement(s string) (Placement, error) {
	tier, database, _ := strings.Cut(s, ":")
	p := Placement{Tier: Tier(tier), Database: database}
	if err := p.validate(); err != nil || strings.HasSuffix(s, ":") {
		return Placement{}, fmt.Errorf("tenancy: placement %q: want shared, schema or database:REFERENCE", s)
	}
	return p, nil
}

// String returns the placement as people write it.
func (p Placement) String() string {
	switch p.Tier {
	case "":
		return string(TierShared)
	case TierDatabase:
		return string(TierDatabase) + ":" + p.Database
	}
	return string(p.Tier)
}

func (p Placement) validate() error {
	switch p.Tier {
	case "", TierShared, TierSchema:
		if p.Database != "" {
			return fmt.Errorf("Placement.Database is for tier %q alone", TierDatabase)
		}
	case TierDatabase:
		if p.Database == "" {
			return errors.New("Placement.Database is empty")
		}
	default:
		return fmt.Errorf("Placement.Tier %q is none", string(p.Tier))
	}
	return nil
}

// SchemaName is the name of the tenant's own schema, and of the role that
// reaches it and nothing else. It says nothing about the tenant but its id,
// because the names of all schemas can be read by every role of the database.
func SchemaName(id tenant.ID) string {
	return schemaPrefix + strings.ReplaceAll(id.String(), "-", "")
}

const schemaPrefix = "t_"

// tenantSchema matches what SchemaName returns.
var tenantSchema = regexp.MustCompile(`^t_[0-9a-f]{32}$`)

// schemaOwner is the inverse of [SchemaName]: zero for any other schema.
func schemaOwner(schema string) tenant.ID {
	digits, ok := strings.CutPrefix(schema, schemaPrefix)
	if !ok || len(digits) != 32 {
		return tenant.ID{}
	}
	id, err := tenant.ParseID(digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:])
	if err != nil || SchemaName(id) != schema {
		return tenant.ID{}
	}
	return id
}

// columns are the placement's in the table of tenants.
func (p Placement) columns(id tenant.ID) (tier string, schema, database *string) {
	switch p.Tier {
	case TierSchema:
		name := SchemaName(id)
		return string(TierSchema), &name, nil
	case TierDatabase:
		return string(TierDatabase), nil, &p.Database
	}
	return string(TierShared), nil, nil
}

// placementOf is the inverse of columns.
func placementOf(tier string, database *string) Placement {
	p := Placement{Tier: Tier(tier)}
	if database != nil {
		p.Database = *database
	}
	return p
}
