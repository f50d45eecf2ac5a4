package tenancy

// AuditRule is something that [Audit] looks for.
type AuditRule struct {
	ID       string   `json:"id"`       // never used for anything else
	Name     string   `json:"name"`     // for people
	Severity Severity `json:"severity"` // usual: a finding may have another
	Summary  string   `json:"summary"`
	Source   string   `json:"source"` // the page that says so
}

// AuditRules returns the rules, in the order of their ids.
func AuditRules() []AuditRule {
	var all []AuditRule
	for _, r := range rules() {
		all = append(all, r.AuditRule)
	}
	return all
}

type rule struct {
	AuditRule
	check func(*audit)
	class string // of the fault for which Open refuses the role; empty: it doesn't ask
}

// The pages of the manual that the rules are taken from.
const (
	manual      = "https://www.postgresql.org/docs/current/"
	rowSecurity = manual + "ddl-rowsecurity.html"
	privileges  = manual + "ddl-priv.html"
	viewRules   = manual + "rules-privileges.html"
	attributes  = manual + "role-attributes.html"
	membership  = manual + "role-membership.html"
	makePolicy  = manual + "sql-createpolicy.html"
	makeFunc    = manual + "sql-createfunction.html"
	makeView    = manual + "sql-createview.html"
	volatility  = manual + "xfunc-volatility.html"
	clientConf  = manual + "runtime-config-client.html"
	inheritance = manual + "ddl-inherit.html"
	constraints = manual + "ddl-constraints.html"
	largeObject = manual + "lo-implementation.html"
)

// staleAllowance has no check of its own: it is found when the others are done.
var staleAllowance = AuditRule{"TEN509", "stale-allowance", SeverityNote, "an allowance for a finding that isn't there", privileges}

// rules are numbered so that a mend never needs one with a higher number.
func rules() []rule {
	return []rule{
		{AuditRule{"TEN000", "unseen", SeverityWarning, "a fact that the auditing role may not see", privileges}, checkUnseen, ""},

		{AuditRule{"TEN001", "role-superuser", SeverityError, "the application's role is a superuser", rowSecurity}, checkSuperuser, "superuser"},
		{AuditRule{"TEN002", "role-bypassrls", SeverityError, "the application's role has BYPASSRLS", rowSecurity}, checkBypass, "bypassrls"},
		{AuditRule{"TEN003", "role-createrole", SeverityError, "the application's role has CREATEROLE", attributes}, checkCreateRole, "createrole"},
		{AuditRule{"TEN004", "role-replication", SeverityError, "the application's role has REPLICATION", attributes}, checkReplication, "replication"},
		{AuditRule{"TEN005", "role-member", SeverityError, "the application's role can become one that no policy binds, or an owner", membership}, checkMember, "member"},
		{AuditRule{"TEN006", "role-inherit", SeverityWarning, "the application's role has INHERIT", membership}, checkInherit, ""},
		{AuditRule{"TEN007", "role-owner", SeverityError, "the application's role owns something", rowSecurity}, checkOwner, "owner"},
		{AuditRule{"TEN008", "control-role", SeverityError, "the control role can log in, bypass policies or make roles", attributes}, checkControlRole, ""},
		{AuditRule{"TEN009", "context-preset", SeverityError, "the tenant's context is set for every session", clientConf}, checkPreset, ""},
		{AuditRule{"TEN010", "row-security-off", SeverityError, "row_security is set to off for every session", clientConf}, checkRowSecurity, ""},
		{AuditRule{"TEN011", "search-path", SeverityWarning, "search_path has pg_temp before other schemas, or others before pg_catalog", clientConf}, checkSearchPath, ""},
		{AuditRule{"TEN012", "tenant-role", SeverityError, "the role of a tenant's schema can log in, bypass policies or make roles", attributes}, checkTenantRole, "tenant_role"},
		{AuditRule{"TEN013", "tenant-role-member", SeverityError, "the role of a tenant's schema can become another", membership}, checkTenantMember, "tenant_member"},
		{AuditRule{"TEN014", "tenant-role-inherit", SeverityError, "the application has a tenant's role without set role, or may grant it", membership}, checkTenantInherit, "tenant_inherit"},
		{AuditRule{"TEN015", "tenant-role-owner", SeverityError, "the role of a tenant's schema owns something", rowSecurity}, checkTenantOwner, "tenant_owner"},
		{AuditRule{"TEN016", "tenant-schema-grant", SeverityError, "a tenant's schema is open to others, or its role to other schemas", privileges}, checkTenantSchema, "tenant_schema"},

		{AuditRule{"TEN101", "tenant-id-type", SeverityError, "tenant_id is not a uuid", rowSecurity}, checkType, ""},
		{AuditRule{"TEN102", "tenant-id-nullable", SeverityError, "tenant_id may be null", constraints}, checkNullable, ""},
		{AuditRule{"TEN103", "tenant-id-default", SeverityWarning, "tenant_id isn't filled from the context", rowSecurity}, checkDefault, ""},
		{AuditRule{"TEN104", "rls-off", SeverityError, "row level security is off", rowSecurity}, checkEnabled, "not_enabled"},
		{AuditRule{"TEN105", "rls-not-forced", SeverityError, "row level security isn't forced on the owner", rowSecurity}, checkForced, "not_forced"},
		{AuditRule{"TEN106", "policies-missing", SeverityError, "a generated policy is missing", makePolicy}, checkPoliciesMissing, "policies"},
		{AuditRule{"TEN107", "policy-altered", SeverityError, "a generated policy isn't what its name says", makePolicy}, checkPoliciesAltered, "policies"},
		{AuditRule{"TEN108", "policy-open", SeverityError, "a permissive policy that no restrictive one limits opens other tenants' rows", makePolicy}, checkPolicyOpen, ""},
		{AuditRule{"TEN109", "policy-gap", SeverityError, "a policy doesn't hold for every command", makePolicy}, checkPolicyGap, ""},
		{AuditRule{"TEN110", "empty-context", SeverityError, "a policy fails on the empty string that a used connection has for a context", clientConf}, checkNullIf, ""},
		{AuditRule{"TEN111", "helper-immutable", SeverityError, "a policy calls an immutable function that reads the context", volatility}, checkHelperImmutable, ""},
		{AuditRule{"TEN112", "helper-volatile", SeverityWarning, "a policy calls a volatile function", volatility}, checkHelperVolatile, ""},
		{AuditRule{"TEN113", "context-per-row", SeverityNote, "a policy reads the context for every row", rowSecurity}, checkUnwrapped, ""},
		{AuditRule{"TEN114", "tenant-index", SeverityWarning, "no index begins with tenant_id", rowSecurity}, checkTenantIndex, ""},
		{AuditRule{"TEN115", "partition-granted", SeverityError, "a partition can be reached around the policies of its parent", rowSecurity}, checkPartition, "partition"},
		{AuditRule{"TEN116", "inheritance", SeverityWarning, "a tenants' table inherits from another", inheritance}, checkInheritance, ""},
		{AuditRule{"TEN117", "foreign-table", SeverityError, "a foreign table is granted to the application", rowSecurity}, checkForeignTable, "no_policies"},
		{AuditRule{"TEN118", "rewrite-rule", SeverityWarning, "a rule on a tenants' table", viewRules}, checkRewriteRule, ""},
		{AuditRule{"TEN119", "trigger-owner", SeverityWarning, "a trigger's function is someone else's", manual + "sql-createtrigger.html"}, checkTrigger, ""},
		{AuditRule{"TEN120", "published", SeverityNote, "a publication sends all tenants' rows", manual + "logical-replication-security.html"}, checkPublication, ""},
		{AuditRule{"TEN121", "shared-table", SeverityWarning, "a table without tenant_id is granted to the application", privileges}, checkSharedTable, ""},
		{AuditRule{"TEN122", "tenant-table-grant", SeverityError, "what is in a tenant's schema is granted to others, or its role has what isn't", privileges}, checkTenantGrant, "tenant_grant"},
		{AuditRule{"TEN123", "signed-mixed", SeverityError, "some policies want a signed context and some don't", makePolicy}, checkSigned, "unsigned"},

		{AuditRule{"TEN201", "foreign-key-scope", SeverityError, "a foreign key doesn't contain tenant_id", rowSecurity}, checkForeignKey, ""},
		{AuditRule{"TEN202", "unique-scope", SeverityError, "a unique constraint or index doesn't contain tenant_id", rowSecurity}, checkUnique, ""},
		{AuditRule{"TEN203", "primary-key-scope", SeverityWarning, "a primary key doesn't contain tenant_id", rowSecurity}, checkPrimaryKey, ""},
		{AuditRule{"TEN204", "exclusion-scope", SeverityError, "an exclusion constraint doesn't contain tenant_id", rowSecurity}, checkExclusion, ""},
		{AuditRule{"TEN205", "leaky-index", SeverityNote, "an index that a policy keeps from being used", viewRules}, checkLeaky, ""},
		{AuditRule{"TEN206", "foreign-key-schema", SeverityError, "a foreign key leaves a tenant's schema, or leads into one", constraints}, checkCrossingKey, ""},

		{AuditRule{"TEN301", "view-owner", SeverityError, "a view reads as an owner whom no policy binds", viewRules}, checkViewOwner, ""},
		{AuditRule{"TEN302", "view-invoker", SeverityWarning, "a view reads as its owner", makeView}, checkViewInvoker, ""},
		{AuditRule{"TEN303", "materialized-view", SeverityError, "a materialized view is granted to the application", rowSecurity}, checkMaterialized, "no_policies"},
		{AuditRule{"TEN304", "definer-free", SeverityError, "a SECURITY DEFINER function runs as an owner whom no policy binds", makeFunc}, checkDefinerFree, ""},
		{AuditRule{"TEN305", "definer", SeverityWarning, "a SECURITY DEFINER function is the application's to call", makeFunc}, checkDefiner, ""},
		{AuditRule{"TEN306", "definer-path", SeverityError, "a SECURITY DEFINER function lets the caller say what it means", makeFunc}, checkDefinerPath, ""},
		{AuditRule{"TEN307", "leakproof", SeverityWarning, "a function of the user's is called before the policies", viewRules}, checkLeakproof, ""},
		{AuditRule{"TEN308", "own-function", SeverityError, "a function of this package isn't what Migrate made", makeFunc}, checkOwnFunctions, ""},

		{AuditRule{"TEN401", "excess-grant", SeverityError, "TRUNCATE, REFERENCES or TRIGGER is granted on a tenants' table", privileges}, checkExcess, "excess"},
		{AuditRule{"TEN402", "sequence-grant", SeverityWarning, "a sequence is granted to the application", privileges}, checkSequence, ""},
		{AuditRule{"TEN403", "default-privileges", SeverityError, "tables to come are granted to the application", manual + "sql-alterdefaultprivileges.html"}, checkDefaultPrivilege, ""},
		{AuditRule{"TEN404", "public-grant", SeverityWarning, "a tenants' table is granted to public", privileges}, checkPublic, ""},
		{AuditRule{"TEN405", "control-schema", SeverityError, "the application can reach the control tables", privileges}, checkControlSchema, "control_schema"},

		{AuditRule{"TEN501", "temporary", SeverityError, "the application can make temporary tables", privileges}, checkTemporary, "temporary"},
		{AuditRule{"TEN502", "create-schema", SeverityError, "the application can make schemas", privileges}, checkCreateSchema, "create"},
		{AuditRule{"TEN503", "create-table", SeverityError, "the application can make tables", manual + "ddl-schemas.html"}, checkCreateTable, "create"},
		{AuditRule{"TEN504", "large-objects", SeverityError, "there are large objects within reach of all tenants", largeObject}, checkLargeObjects, ""},
		{AuditRule{"TEN505", "server-files", SeverityError, "the application can read or write files of the server", manual + "functions-admin.html"}, checkFiles, ""},
		{AuditRule{"TEN506", "large-object-functions", SeverityNote, "the application can make large objects (strict)", largeObject}, checkLargeObjectFunctions, ""},
		{AuditRule{"TEN507", "large-object-compat", SeverityError, "large objects have no privileges", manual + "runtime-config-compatible.html"}, checkLargeObjectCompat, ""},
		{AuditRule{"TEN508", "marker", SeverityError, "what the canary looks for is missing", rowSecurity}, checkMarker, ""},
		{staleAllowance, func(*audit) {}, ""},
	}
}
