package tenancy

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The parts of one statement: what the other two select from, what says whom row
// level security binds, and the rest.
var (
	//go:embed auditwith.sql
	withSQL string
	//go:embed auditroles.sql
	rolesSQL string
	//go:embed auditrest.sql
	restSQL string
)

// settleSQL makes expressions print every name that isn't PostgreSQL's own with
// its schema, so that public.current_setting can't pass for the real one.
// Compiling the query takes longer than running it.
const settleSQL = `
select set_config('search_path', 'pg_catalog', true), set_config('transaction_read_only', 'on', true), set_config('jit', 'off', true)`

const sentinelSeenSQL = `select exists (select from public.tenant_marker where tenant_id = $1)`

// catalog is what the rules judge. oids are those of pg_class and pg_proc.
type catalog struct {
	Version           int                `json:"version"`
	Database          string             `json:"database"`
	DatabaseOwner     string             `json:"database_owner"`
	ControlOwner      string             `json:"control_owner"` // of schema mcpsaas
	User              string             `json:"user"`
	MayAct            bool               `json:"may_act"` // the auditing role may sign a context
	LargeObjectCompat bool               `json:"large_object_compat"`
	MarkerReadable    bool               `json:"marker_readable"`
	Roles             []catalogRole      `json:"roles"`
	Control           *controlRole       `json:"control"`
	Relations         []*relation        `json:"relations"`
	Policies          []policyGroup      `json:"policies"`
	TenantRoles       []tenantRole       `json:"tenant_roles"` // those that aren't as generated
	SchemaOwners      []schemaOwned      `json:"schema_owners"`
	Indexes           []index            `json:"indexes"`
	ForeignKeys       []foreignKey       `json:"foreign_keys"`
	Functions         []*function        `json:"functions"`
	Triggers          []trigger          `json:"triggers"`
	Rules             []rewrite          `json:"rules"`
	Publications      []publication      `json:"publications"`
	Settings          []roleSetting      `json:"settings"`
	DefaultPrivileges []defaultPrivilege `json:"default_privileges"`

	sentinel  bool // the sentinel's row is there
	signed    bool // the marker's policies want a signed context, and so should all
	relations map[uint32]*relation
	functions map[uint32]*function
	policies  map[uint32][]catalogPolicy // by table
}

// catalogRole is one of the application's roles.
type catalogRole struct {
	Name        string `json:"name"`
	Super       bool   `json:"super"`
	Bypass      bool   `json:"bypass"`
	CreateRole  bool   `json:"create_role"`
	Replication bool   `json:"replication"`
	Inherit     bool   `json:"inherit"`
	Member      []struct {
		Role    string   `json:"role"`
		Reaches []string `json:"reaches"`
	} `json:"member"`
	OwnsDatabase bool     `json:"owns_database"`
	OwnedSchemas []string `json:"owned_schemas"`
	Reach        []string `json:"reach"` // itself, and what it may become

	// Privileges that it has, by whom they were given to: a role or, as the
	// empty string, public.
	Temporary    []string `json:"temporary"`
	Create       []string `json:"create"`
	ControlUsage []string `json:"control_usage"`
	Creatable    []struct {
		Schema string   `json:"schema"`
		Via    []string `json:"via"`
	} `json:"creatable"`
	SchemaGrants []schemaGrant `json:"schema_grants"`
	Functions    []struct {    // of PostgreSQL's own
		Name  string   `json:"name"`
		Via   []string `json:"via"`
		Files bool     `json:"files"` // reads or writes files of the server
	} `json:"functions"`
	LargeObjects int `json:"large_objects"`
}

type controlRole struct {
	Name       string `json:"name"`
	Login      bool   `json:"login"`
	Super      bool   `json:"super"`
	Bypass     bool   `json:"bypass"`
	CreateRole bool   `json:"create_role"`
}

// relation is a table, a view or a sequence.
type relation struct {
	OID       uint32        `json:"oid"`
	Schema    string        `json:"schema"`
	Name      string        `json:"name"`
	Kind      string        `json:"kind"` // pg_class.relkind
	Owner     string        `json:"owner"`
	OwnerFree bool          `json:"owner_free"` // no policy binds the owner
	Enabled   bool          `json:"enabled"`
	Forced    bool          `json:"forced"`
	Partition bool          `json:"partition"`
	Tenants   bool          `json:"tenants"` // a table with a tenant_id, and not one of the control tables
	Invoker   bool          `json:"invoker"`
	Column    *tenantColumn `json:"column"`
	Parents   []uint32      `json:"parents"`
	Reads     []uint32      `json:"reads"`
	Public    bool          `json:"public"`
	Home      bool          `json:"home"` // its tenant's own role has what it should
	Access    []grant       `json:"access"`

	shape // what its generated policies say
}

// grant is a privilege that a role has by one that it may become, or by public.
type grant struct {
	Role      string `json:"role"`
	Via       string `json:"via"`
	Privilege string `json:"privilege"`
}

type tenantColumn struct {
	Type    string `json:"type"`
	NotNull bool   `json:"not_null"`
	Preset  string `json:"preset"`

	filled bool // the preset is what is generated
}

func (r *relation) object() string { return r.Schema + "." + r.Name }
func (r *relation) sql() string    { return pgx.Identifier{r.Schema, r.Name}.Sanitize() }

// reached reports whether a role can do anything with it.
func (r *relation) reached() bool { return r.Home || len(r.Access) > 0 }

// granted reports whether a role has one of the privileges.
func (r *relation) granted(privileges ...string) bool {
	return slices.ContainsFunc(r.Access, func(g grant) bool { return slices.Contains(privileges, g.Privilege) })
}

// revoke takes privileges from all that the application has them by.
func (r *relation) revoke(what string) string {
	var via []string
	if r.Public {
		via = append(via, "")
	}
	for _, g := range r.Access {
		via = append(via, g.Via)
	}
	if r.Kind == "S" {
		return fmt.Sprintf("revoke %s on sequence %s from %s;", what, r.sql(), roleList(via))
	}
	return fmt.Sprintf("revoke %s on %s from %s;", what, r.sql(), roleList(via))
}

// is reports whether it is the table of this name in schema public.
func (r *relation) is(name string) bool { return r.Schema == "public" && r.Name == name }

// policyGroup is policies that are the same but for their tables: in a tenant's own
// schema its id is {tenant}.
type policyGroup struct {
	Tables     []uint32 `json:"tables"`
	Name       string   `json:"name"`
	Permissive bool     `json:"permissive"`
	Command    string   `json:"command"`
	Everyone   bool     `json:"everyone"`
	Using      string   `json:"using"`
	Check      string   `json:"check"`
	Functions  []uint32 `json:"functions"`
}

// catalogPolicy is one of them.
type catalogPolicy struct {
	*policyGroup
	guard  bool // it is the generated restrictive policy of its table
	access bool // the permissive one
	other  bool // the guard as it is with an unsigned context in place of a signed one, or the reverse
}

type index struct {
	Table         uint32   `json:"table"`
	Name          string   `json:"name"`
	Unique        bool     `json:"unique"`
	Primary       bool     `json:"primary"`
	Exclusion     bool     `json:"exclusion"`
	Usable        bool     `json:"usable"` // valid and for all rows
	Inherited     bool     `json:"inherited"`
	Scoped        bool     `json:"scoped"` // tenant_id is one of the keys
	Leads         bool     `json:"leads"`  // and the first
	Leaky         []string `json:"leaky"`
	Constraint    string   `json:"constraint"`
	ConstraintDef string   `json:"constraint_def"`
	Def           string   `json:"def"`
}

type foreignKey struct {
	Table         uint32   `json:"table"`
	Target        uint32   `json:"target"`
	Name          string   `json:"name"`
	Columns       []string `json:"columns"`
	TargetColumns []string `json:"target_columns"`
	OnUpdate      string   `json:"on_update"`
	OnDelete      string   `json:"on_delete"`
	Full          bool     `json:"full"`
	Deferrable    bool     `json:"deferrable"`
	Deferred      bool     `json:"deferred"`
	Crosses       bool     `json:"crosses"` // into or out of a tenant's own schema
}

type function struct {
	OID           uint32   `json:"oid"`
	Schema        string   `json:"schema"`
	Name          string   `json:"name"`
	Arguments     string   `json:"arguments"`
	Owner         string   `json:"owner"`
	OwnerFree     bool     `json:"owner_free"`
	Definer       bool     `json:"definer"`
	Leakproof     bool     `json:"leakproof"`
	Volatility    string   `json:"volatility"`
	Language      string   `json:"language"`
	Config        []string `json:"config"`
	Source        string   `json:"source"` // of those in schema mcpsaas_app
	ReadsSettings bool     `json:"reads_settings"`
	SearchPath    *string  `json:"search_path"`
	Executable    []string `json:"executable"` // by which roles, or public
}

func (f *function) object() string { return f.Schema + "." + f.Name + "(" + f.Arguments + ")" }
func (f *function) sql() string {
	return pgx.Identifier{f.Schema, f.Name}.Sanitize() + "(" + f.Arguments + ")"
}

type trigger struct {
	Table    uint32 `json:"table"`
	Name     string `json:"name"`
	Function uint32 `json:"function"`
}

type rewrite struct {
	Table uint32 `json:"table"`
	Name  string `json:"name"`
}

type publication struct {
	Table  uint32 `json:"table"`
	Name   string `json:"name"`
	All    bool   `json:"all"`
	Listed bool   `json:"listed"`
}

// roleSetting is made with alter role or alter database. Role is empty if it
// holds for all.
type roleSetting struct {
	Role       string `json:"role"`
	InDatabase bool   `json:"in_database"`
	Name       string `json:"name"`
	Value      string `json:"value"`
}

type defaultPrivilege struct {
	Creator string `json:"creator"`
	Schema  string `json:"schema"` // empty: all
	Kind    string `json:"kind"`
	Grantee string `json:"grantee"` // empty: public
}

// readCatalog reads at one moment, in a transaction that is given up. With no
// roles it reads no more than what concerns the session's own.
func readCatalog(ctx context.Context, db AuditConn, roles []string) (*catalog, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // a transaction that is left open would cost the connection

	sql, parts := withSQL+rolesSQL+", "+restSQL, make([][]byte, 2)
	if roles == nil {
		sql, parts = withSQL+rolesSQL, parts[:1]
	}
	batch := &pgx.Batch{}
	batch.Queue(settleSQL)
	batch.Queue(sql, roles, ControlRole).QueryRow(func(row pgx.Row) error {
		if roles == nil {
			return row.Scan(&parts[0])
		}
		return row.Scan(&parts[0], &parts[1])
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	c := new(catalog)
	for _, text := range parts {
		if err := json.Unmarshal(text, c); err != nil {
			return nil, err
		}
	}
	c.link()
	if roles == nil {
		return c, nil
	}
	act := setSQL
	if c.signed {
		act = actSQL
		c.MarkerReadable = c.MarkerReadable && c.MayAct
	}
	if c.MarkerReadable {
		batch := &pgx.Batch{}
		batch.Queue(act, Sentinel.String())
		batch.Queue(sentinelSeenSQL, Sentinel).QueryRow(func(row pgx.Row) error { return row.Scan(&c.sentinel) })
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *catalog) link() {
	c.relations = make(map[uint32]*relation, len(c.Relations))
	for _, r := range c.Relations {
		c.relations[r.OID] = r
	}
	c.functions = make(map[uint32]*function)
	for _, f := range c.Functions {
		c.functions[f.OID] = f
	}
	marker := shapeOf(tenant.ID{}, true, true).guardName()
	for _, p := range c.Policies {
		c.signed = c.signed || p.Name == marker && slices.ContainsFunc(p.Tables, func(oid uint32) bool { return c.relations[oid].is("tenant_marker") })
	}
	filled := make(map[string]bool)
	for _, r := range c.Relations {
		r.shape = shapeOf(schemaOwner(r.Schema), r.Column != nil && r.Column.Type == "uuid", c.signed)
		if r.Column == nil {
			continue
		}
		if _, ok := filled[r.Column.Preset]; !ok {
			filled[r.Column.Preset] = normal(r.Column.Preset) == normal(defaultExpr)
		}
		r.Column.filled = filled[r.Column.Preset]
	}
	c.policies = make(map[uint32][]catalogPolicy, len(c.Relations))
	for i := range c.Policies {
		g := &c.Policies[i]
		judged := make(map[shape]catalogPolicy) // by the shape but for the owner, who is {tenant} here
		for _, oid := range g.Tables {
			s := c.relations[oid].shape
			s.owner = tenant.ID{}
			p, ok := judged[s]
			if !ok {
				row := policy{g.Name, g.Permissive, g.whole(), g.Using, g.Check}
				p = catalogPolicy{g, s.isGuard(row), s.isAccess(row), false}
				other := c.relations[oid].signed(!c.signed)
				other.owner = tenant.ID{}
				p.other = other.isGuard(row)
				judged[s] = p
			}
			c.policies[oid] = append(c.policies[oid], p)
		}
	}
}

func (c *catalog) tenantTables() []*relation {
	return slices.DeleteFunc(slices.Clone(c.Relations), func(r *relation) bool { return !r.Tenants })
}

// shielded is a partition that only its parent leads to, whose policies hold
// then.
func (r *relation) shielded() bool { return r.Partition && !r.reached() && !r.Public }

// roleList lists roles as a grant or a revoke does. The empty string is public.
func roleList(names []string) string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = "public"
		if name != "" {
			quoted[i] = pgx.Identifier{name}.Sanitize()
		}
	}
	return strings.Join(quoted, ", ")
}

// rightfulOwner is who should own what a role of the application owns.
func (c *catalog) rightfulOwner(not string) string {
	owner := c.DatabaseOwner
	for _, r := range c.Relations {
		if r.is("tenant_marker") && r.Owner != not {
			owner = r.Owner
		}
	}
	if owner == not {
		return ""
	}
	return pgx.Identifier{owner}.Sanitize()
}
