package tenancy_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var policyHash = regexp.MustCompile(`(tenant_(guard|access)_)[1-9a-f][0-9a-f]{7}`)

// lines are the findings as the corpus writes them.
func lines(findings []tenancy.Finding) []string {
	var all []string
	for _, f := range findings {
		all = append(all, f.Rule+" "+policyHash.ReplaceAllString(f.Object, "$1*"))
	}
	return all
}

func audited(t *testing.T, db tenancy.AuditConn, opts *tenancy.AuditOptions) *tenancy.AuditReport {
	t.Helper()
	report, err := tenancy.Audit(t.Context(), db, opts)
	require.NoError(t, err)
	return report
}

// Each fault is found, as what it is and as nothing else, by an ordinary role
// and by a superuser; and the mends, run in their order, make an end of it.
// Mutations, each seen by the row in brackets: without any one rule its own rows
// fail, and there is no rule without one (TestAuditRules); the session's
// search_path kept (current_setting that isn't); privileges of the role alone
// (member of a bound role that may too much) or of all it can become, however
// (through a mighty one); views not followed into views (view within a view);
// no functions of policies (immutable helper); no grants on columns (shared table of
// one column); no functions of expressions (unique index); policies for one role
// taken for whole (policy for one role); every table taken for guarded
// (permissive without restrictive). The sentinel looked for without its context
// fails TestAuditOfGenerated, a transaction that is committed
// TestAuditInTransaction, allowances that are never stale TestAuditAllow.
func TestAuditFindsSeededFaults(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(seededFaults), 40)
	for _, fault := range seededFaults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			b := &bundle{Database: devtest.DB(t, shop)}
			var opts tenancy.AuditOptions
			role := tenancy.AppRole
			if fault.role != "" {
				role = b.role(t, fault.role)
				opts.Roles = []string{role}
			}
			schema, other := "", ""
			if strings.Contains(fault.spoil, "{schema}") {
				schema, other = tenancy.SchemaName(b.schema(t)), tenancy.SchemaName(b.schema(t))
			}
			fill := strings.NewReplacer("{role}", role, "{database}", b.Name, "{owner}", devstack.OwnerRole, "{schema}", schema, "{other}", other).Replace
			if fault.role == "" || fault.role == "nocreatedb" {
				require.Empty(t, audited(t, b.Conn(t, "postgres"), &opts).Findings, "it is the spoiling that matters")
			}
			b.superuser(t, fill(fault.spoil))
			var want []string
			for _, line := range fault.want {
				want = append(want, fill(line))
			}
			super := b.Conn(t, "postgres")
			report := audited(t, super, &opts)
			require.Equal(t, want, lines(report.Findings))
			require.Equal(t, report, audited(t, b.Conn(t, devstack.OwnerRole), &opts), "the owner sees the same")

			for _, f := range report.Findings {
				if f.Mend != "" {
					if fault.fresh {
						super = b.Conn(t, "postgres")
					}
					_, err := super.Exec(t.Context(), f.Mend)
					require.NoError(t, err, "%s %s: %s", f.Rule, f.Object, f.Mend)
				}
			}
			if fault.fresh {
				super = b.Conn(t, "postgres")
			}
			require.Equal(t, fault.left, lines(audited(t, super, &opts).Findings), "after the mends")
		})
	}
}

// Every rule has a fault in the corpus, or a test of its own below.
func TestAuditRules(t *testing.T) {
	t.Parallel()
	tested := []string{"TEN000", "TEN008", "TEN123", "TEN506", "TEN509"}
	for _, fault := range seededFaults {
		for _, line := range fault.want {
			tested = append(tested, line[:6])
		}
	}
	var ids []string
	for _, r := range tenancy.AuditRules() {
		require.Contains(t, tested, r.ID)
		require.NotEmpty(t, r.Name)
		require.NotEmpty(t, r.Summary)
		require.Contains(t, r.Source, "https://www.postgresql.org/docs/")
		ids = append(ids, r.ID)
	}
	require.True(t, slices.IsSorted(ids))
	require.Len(t, slices.Compact(slices.Clone(ids)), len(ids), "ids are unique")
}

// What this package makes has no faults: for whoever ran it, and whoever looks.
func TestAuditOfGenerated(t *testing.T) {
	t.Parallel()
	for _, owner := range []string{devstack.OwnerRole, "postgres"} {
		t.Run("migrated by "+owner, func(t *testing.T) {
			t.Parallel()
			d := devtest.DB(t, devtest.Template{Name: "empty"})
			conn := d.Conn(t, owner)
			require.NoError(t, shop.Migrate(t.Context(), conn))
			_, err := conn.Exec(t.Context(), `
create table events (tenant_id uuid, at int, primary key (tenant_id, at)) partition by range (at);
create table events_1 partition of events for values from (0) to (9);
create table "Odd ""Table" (id bigint generated always as identity, tenant_id uuid, total numeric, primary key (tenant_id, id));
create view looks with (security_invoker) as select * from products; grant select on looks to app_user;
create view hidden as select * from products;
create table internal (id int);
create function plain() returns int language sql as 'select 1'`)
			require.NoError(t, err)
			require.NoError(t, tenancy.Protect(t.Context(), conn, "events", `Odd "Table`))
			sql, err := tenancy.PolicySQL("products")
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), sql)
			require.NoError(t, err)
			_, err = (&bundle{Database: d}).schemaBy(t, owner)
			require.NoError(t, err)
			for _, role := range []string{devstack.OwnerRole, "postgres", tenancy.AppRole, tenancy.ControlRole} {
				config, err := pgx.ParseConfig(d.URL)
				require.NoError(t, err)
				config.User = role
				if role == tenancy.ControlRole {
					config.User, config.RuntimeParams["role"] = "postgres", role
				}
				if role == devstack.OwnerRole && owner != role {
					continue // a stranger there, see TestAuditUnseen
				}
				conn, err := pgx.ConnectConfig(t.Context(), config)
				require.NoError(t, err)
				report := audited(t, conn, nil)
				require.NoError(t, conn.Close(t.Context()))
				require.Empty(t, report.Findings, role)
				require.Equal(t, 11, report.Tables)
			}
		})
	}
}

// In a database that is signed, what isn't is found, also while the one is made of
// the other.
func TestAuditSigned(t *testing.T) {
	t.Parallel()
	b := &bundle{Database: devtest.DB(t, shop)}
	id := b.schema(t)
	b.signer(t, "k1")
	conn := b.Conn(t, devstack.OwnerRole)
	sql, err := tenancy.PolicySQL("products")
	require.NoError(t, err)
	for _, signed := range []bool{true, false, true} {
		require.NoError(t, tenancy.SignContext(t.Context(), conn, signed))
		require.NoError(t, tenancy.SignContext(t.Context(), conn, signed), "again")
		b.owner(t, sql)
		require.NoError(t, tenancy.Migrate(t.Context(), conn), "which leaves it as it is")
		require.Empty(t, audited(t, conn, nil).Findings)
	}
	app := audited(t, b.Conn(t, tenancy.AppRole), nil)
	require.Equal(t, []string{"TEN000 public.tenant_marker"}, lines(app.Findings), "it can't sign")

	const dropKeys = `do $$ declare p name; begin for p in select polname from pg_policy where polrelid = '%[1]s'::regclass and not polpermissive loop
execute format('drop policy %%I on %[1]s', p); end loop; end $$; create policy tenant_guard_%[2]s on %[1]s as restrictive using (%[3]s)`
	unsigned := map[string]string{
		"public.products":                tenancy.Guard(tenant.ID{}, true, false),
		tenancy.SchemaName(id) + ".bare": tenancy.Guard(id, false, false),
	}
	for table, policy := range unsigned {
		hash, expr, _ := strings.Cut(policy, " ")
		b.owner(t, fmt.Sprintf(dropKeys, table, hash, expr))
		report := audited(t, conn, nil)
		require.Equal(t, []string{"TEN123 " + table}, lines(report.Findings))
		require.Equal(t, tenancy.SeverityError, report.Findings[0].Severity)
		_, err := tenancy.Open(t.Context(), b.As(tenancy.AppRole), nil)
		require.ErrorContains(t, err, "unsigned: "+table)
		b.owner(t, report.Findings[0].Mend)
		require.Empty(t, audited(t, conn, nil).Findings)
	}
}

// Who may not see a fact isn't told that all is well.
func TestAuditUnseen(t *testing.T) {
	t.Parallel()
	b := &bundle{Database: devtest.DB(t, shop)}
	role := "stranger_" + b.Name
	b.superuser(t, `create role `+role+` login`)
	report := audited(t, b.Conn(t, role), nil)
	require.Equal(t, []string{"TEN000 public.tenant_marker"}, lines(report.Findings))
	require.Error(t, report.Err(tenancy.SeverityWarning))
	b.superuser(t, report.Findings[0].Mend)
	require.Empty(t, audited(t, b.Conn(t, role), nil).Findings)

	b.superuser(t, `revoke select on pg_policy from public`)
	_, err := tenancy.Audit(t.Context(), b.Conn(t, role), nil)
	require.ErrorContains(t, err, "permission denied for table pg_policy")
}

// A transaction can be judged before it is committed; nothing is left in it.
// The control role belongs to all tests, which therefore never see it spoiled.
func TestAuditInTransaction(t *testing.T) {
	t.Parallel()
	b := &bundle{Database: devtest.DB(t, shop)}
	tx, err := b.Conn(t, "postgres").Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	for _, attribute := range []string{"login", "superuser", "bypassrls", "createrole"} {
		_, err = tx.Exec(t.Context(), `alter role mcpsaas_control `+attribute)
		require.NoError(t, err)
		report := audited(t, tx, nil)
		require.Equal(t, []string{"TEN008 mcpsaas_control"}, lines(report.Findings), attribute)
		_, err = tx.Exec(t.Context(), report.Findings[0].Mend)
		require.NoError(t, err)
		require.Empty(t, audited(t, tx, nil).Findings)
	}
	var path, setting, readOnly string
	require.NoError(t, tx.QueryRow(t.Context(), `select current_setting('search_path'), coalesce(current_setting('app.current_tenant_id', true), ''), current_setting('transaction_read_only')`).
		Scan(&path, &setting, &readOnly))
	require.Equal(t, []string{`"$user", public`, "", "off"}, []string{path, setting, readOnly})
	require.Empty(t, audited(t, b.Pool(t), nil).Findings, "others see nothing of it")
}

// Whatever the number of tables: begin, the catalog, the sentinel, rollback, and
// two to prepare.
func TestAuditRoundTrips(t *testing.T) {
	t.Parallel()
	link := newProxy(t, devtest.DB(t, shop).URL, 0)
	conn, err := pgx.Connect(t.Context(), link.url())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	for _, want := range []int64{6, 4} {
		before := link.turns.Load()
		audited(t, conn, nil)
		require.Equal(t, want, link.turns.Load()-before)
	}
}

func TestAuditStrict(t *testing.T) {
	t.Parallel()
	b := &bundle{Database: devtest.DB(t, shop)}
	super := b.Conn(t, "postgres")
	strict := &tenancy.AuditOptions{Strict: true}
	report := audited(t, super, strict)
	require.Equal(t, []string{"TEN506 app_user"}, lines(report.Findings))
	_, err := super.Exec(t.Context(), report.Findings[0].Mend)
	require.NoError(t, err)
	require.Empty(t, audited(t, super, strict).Findings)
}

func TestAuditSeverity(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		spoil string
		want  tenancy.Severity
	}{
		{`create table notes (tenant_id uuid)`, tenancy.SeverityWarning},
		{`create table notes (tenant_id uuid); grant select on notes to app_user`, tenancy.SeverityError},
	} {
		b := &bundle{Database: devtest.DB(t, shop)}
		b.owner(t, test.spoil)
		for _, f := range audited(t, b.Pool(t), nil).Findings {
			if slices.Contains([]string{"TEN104", "TEN105", "TEN106"}, f.Rule) {
				require.Equal(t, test.want, f.Severity, f.Rule)
			}
		}
	}
}

func TestAuditAllow(t *testing.T) {
	t.Parallel()
	b := &bundle{Database: devtest.DB(t, shop)}
	b.owner(t, `create table countries (code text primary key); grant select on countries to app_user`)
	report := audited(t, b.Pool(t), &tenancy.AuditOptions{Allow: []tenancy.Allowance{
		{Rule: "TEN121", Object: "public.countries", Reason: "the same for all"},
		{Rule: "TEN121", Object: "public.gone", Reason: "was the same for all"},
	}})
	require.Equal(t, []string{"TEN509 public.gone"}, lines(report.Findings))
	require.Equal(t, tenancy.SeverityNote, report.Findings[0].Severity)
	require.Equal(t, []string{"TEN121 public.countries"}, lines(report.Allowed))
	require.Equal(t, "the same for all", report.Allowed[0].Reason)

	for _, bad := range []tenancy.Allowance{{Rule: "TEN999", Object: "x", Reason: "x"}, {Rule: "TEN121", Reason: "x"}, {Rule: "TEN121", Object: "x"}} {
		_, err := tenancy.Audit(t.Context(), b.Pool(t), &tenancy.AuditOptions{Allow: []tenancy.Allowance{bad}})
		require.ErrorContains(t, err, "AuditOptions.Allow")
	}
	_, err := tenancy.Audit(t.Context(), b.Pool(t), &tenancy.AuditOptions{Roles: []string{"nobody_at_all"}})
	require.ErrorContains(t, err, `no role "nobody_at_all"`)
}

func TestAuditCheck(t *testing.T) {
	t.Parallel()
	b := &bundle{Database: devtest.DB(t, shop)}
	check := tenancy.AuditCheck(b.Pool(t), nil)
	require.NoError(t, check(t.Context()))
	b.owner(t, `create publication p for table products`)
	require.NoError(t, check(t.Context()), "a note is no failure")
	b.owner(t, `alter table products no force row level security`)
	err := check(t.Context())
	var found *tenancy.AuditError
	require.ErrorAs(t, err, &found)
	require.EqualError(t, err, "tenancy: audit: 1 findings; TEN105 public.products")
}
