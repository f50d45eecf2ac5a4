package tenancy

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// contextExpr is the tenant that a statement runs for. NULLIF because the
// setting reads as the empty string instead of NULL once a transaction of the
// session has set it, and the empty string is no uuid. The select around it is
// evaluated once per statement instead of once per row.
const contextExpr = `(select ` + defaultExpr + `)`

// defaultExpr fills tenant_id for an insert that doesn't name it.
const defaultExpr = `NULLIF(current_setting('` + Setting + `', true), '')::uuid`

// signedExpr is the tenant that the statement's context was signed for. Only the
// restrictive policy asks for it: it costs some microseconds, and both must hold.
// The default doesn't, which is evaluated per row: a row with another's tenant_id
// is refused whatever it comes from.
//
// The comparison stands within a CASE. The planner takes plain equalities of a
// column together, those of the statement's own WHERE too, and compares rows with
// one of the values only, and that with the others once, before the first row
// (PostgreSQL's source: optimizer/README, EquivalenceClasses). A statement could
// choose a value that is the tenant's at that moment and another's a row later. The
// index is found by the permissive policy, whose equality is plain.
const signedExpr = `(select mcpsaas_app.current_tenant())`

// predicate is what a policy says.
type predicate struct {
	// text has {tenant} for whose schema the table is in.
	text string

	// hash stands in the names of the policies, so that a later version of this
	// package, or an edit, shows in the name.
	hash string

	norm string
}

func newPredicate(text string) predicate {
	sum := sha256.Sum256([]byte(text))
	return predicate{text, hex.EncodeToString(sum[:4]), normal(text)}
}

func (p predicate) expr(owner tenant.ID) string {
	return strings.ReplaceAll(p.text, "{tenant}", owner.String())
}

// is reports whether expr, as pg_get_expr prints it under [pinSQL], says the
// same.
func (p predicate) is(expr string, owner tenant.ID) bool {
	return normal(forAny(expr, owner)) == p.norm
}

// forAny is the inverse of expr.
func forAny(expr string, owner tenant.ID) string {
	if owner.IsZero() {
		return expr
	}
	return strings.ReplaceAll(expr, owner.String(), "{tenant}")
}

// unprinted and unspelled are what differs between what is written and what
// PostgreSQL's versions print of it.
var (
	unprinted = strings.NewReplacer(" ", "", "\n", "", "\t", "", "(", "", ")", "")
	unspelled = strings.NewReplacer("::text", "", `as"nullif"`, "", "ascurrent_tenant", "")
)

func normal(expr string) string {
	return unspelled.Replace(unprinted.Replace(strings.ToLower(expr)))
}

// What the generated policies say: that a row is the tenant's own or, in a
// tenant's own schema, that the whole table is.
var (
	byColumn = newPredicate(`tenant_id = ` + contextExpr)
	bySchema = newPredicate(`'{tenant}'::uuid = ` + contextExpr)

	byColumnSigned = newPredicate(`case when tenant_id = ` + signedExpr + ` then true else false end`)
	bySchemaSigned = newPredicate(`'{tenant}'::uuid = ` + signedExpr)
)

// shape is what the two policies of a table say. A row must satisfy both.
type shape struct {
	guard  predicate // restrictive: no further policy can widen it
	access predicate // permissive: row level security wants one besides
	owner  tenant.ID // whose schema the table is in; zero: all tenants'
	column bool      // it has a tenant_id
}

// shapeOf returns the shape of a table: in whose schema it is, whether it has a
// column tenant_id, and whether the context is to be signed. One in a schema that
// has the column is held to both, lest a tenant leave rows of its own in another's
// table.
func shapeOf(owner tenant.ID, column, signed bool) shape {
	s := shape{guard: byColumn, access: byColumn, owner: owner, column: column}
	switch {
	case owner.IsZero() && signed:
		s.guard = byColumnSigned
	case !owner.IsZero() && signed:
		s.guard = bySchemaSigned
	case !owner.IsZero():
		s.guard = bySchema
	}
	if !owner.IsZero() && !column {
		s.access = bySchema
	}
	return s
}

// signed returns the shape of the same table in a database with a signed
// context, or without.
func (s shape) signed(signed bool) shape { return shapeOf(s.owner, s.column, signed) }

func (s shape) guardName() string  { return "tenant_guard_" + s.guard.hash }
func (s shape) accessName() string { return "tenant_access_" + s.access.hash }

// policy is one row of pg_policy.
type policy struct {
	Name       string
	Permissive bool
	Whole      bool // for every command and role
	Using      string
	Check      string
}

// intact reports whether the generated policies are there and say what their
// names say they do. Further policies don't matter: the restrictive one binds
// them all.
func (s shape) intact(policies []policy) bool {
	var guard, access bool
	for _, p := range policies {
		guard = guard || s.isGuard(p)
		access = access || s.isAccess(p)
	}
	return guard && access
}

// holds reports whether the policies are intact, for a signed context or for one
// that isn't.
func (s shape) holds(policies []policy) bool {
	return s.signed(false).intact(policies) || s.signed(true).intact(policies)
}

func (s shape) isGuard(p policy) bool {
	return p.Name == s.guardName() && !p.Permissive && p.says(s.guard, s.owner)
}

func (s shape) isAccess(p policy) bool {
	return p.Name == s.accessName() && p.Permissive && p.says(s.access, s.owner)
}

// says reports whether the policy says it of every row that is read or written.
func (p policy) says(what predicate, owner tenant.ID) bool {
	return p.Whole && what.is(p.Using, owner) && (what.is(p.Check, owner) || p.Check == "")
}

// protection is one table, what its policies say, and who gets which privileges
// on it.
type protection struct {
	table pgx.Identifier
	shape
	role    string // that tenants' statements run as
	app     string // what that one gets: comma-separated privileges
	control string // what ControlRole gets
}

// tenantTable is what a table of the tenants' own data gets. The control role
// reads it for an export and empties it for an erasure, under the policies.
func tenantTable(table pgx.Identifier, signed bool) protection {
	return protection{
		table: table, shape: shapeOf(tenant.ID{}, true, signed),
		role: AppRole, app: "select, insert, update, delete", control: "select, delete",
	}
}

// schemaTable is the same for a table in the tenant's own schema.
func schemaTable(id tenant.ID, name string, column, signed bool) protection {
	p := tenantTable(pgx.Identifier{SchemaName(id), name}, signed)
	p.shape, p.role = shapeOf(id, column, signed), SchemaName(id)
	return p.ours(name)
}

// ours gives our own tables the privileges that they have for the place of
// theirs.
func (p protection) ours(name string) protection {
	switch name {
	case "tenant_config":
		p.control = "select, insert, update, delete"
	case "tenant_marker":
		p.app, p.control = "select", "select, insert, delete"
	}
	return p
}
