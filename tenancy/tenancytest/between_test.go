package tenancytest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenancytest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// settled are two tenants where their placements say.
type settled struct {
	home       *devtest.Database
	away       map[string]*devtest.Database
	db         *tenancy.DB
	anna, bert tenant.ID
}

func (s *settled) Resolve(_ context.Context, ref string) (string, error) { return s.away[ref].URL, nil }

// settle makes the tenants as an onboarding does. Only a schema of one's own has a
// table without tenant_id that the tenant reaches.
func settle(t *testing.T, signer *tenancy.Signer, key tenancy.SigningKey, anna, bert tenancy.Placement) *settled {
	t.Helper()
	ctx := t.Context()
	s := &settled{home: devtest.DB(t, template), away: make(map[string]*devtest.Database)}
	for _, at := range []tenancy.Placement{anna, bert} {
		if at.Database != "" && s.away[at.Database] == nil {
			s.away[at.Database] = devtest.DB(t, devtest.Template{Name: "empty"})
		}
	}
	config, err := tenancy.ControlConfig(s.home.URL)
	require.NoError(t, err)
	control, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(control.Close)
	if signer != nil {
		owner := s.home.Conn(t, devstack.OwnerRole)
		require.NoError(t, tenancy.AddSigningKey(ctx, owner, key))
		require.NoError(t, tenancy.SignContext(ctx, owner, true))
	}
	data, err := tenancy.NewData(control, &tenancy.DataOptions{Databases: s, Files: fstest.MapFS{
		"0001_shop.sql": {Data: []byte(tablesSQL + `create table tags (name text primary key, at timestamptz not null default now());`)}}})
	require.NoError(t, err)
	t.Cleanup(data.Close)
	directory, err := tenancy.NewDirectory(control, &tenancy.DirectoryOptions{PollOnly: true})
	require.NoError(t, err)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- directory.Run(running) }()
	t.Cleanup(func() { stop(); <-ended })
	s.db, err = tenancy.Open(ctx, s.home.As(tenancy.AppRole), &tenancy.Options{Directory: directory, Signer: signer,
		Databases: &tenancy.DatabasesOptions{Resolver: tenancy.ResolverFunc(func(_ context.Context, ref string) (string, error) {
			return s.away[ref].As(tenancy.AppRole), nil
		})}})
	require.NoError(t, err)
	t.Cleanup(s.db.Close)
	for at, id := range map[*tenancy.Placement]*tenant.ID{&anna: &s.anna, &bert: &s.bert} {
		*id = tenant.NewID()
		require.NoError(t, pgx.BeginFunc(ctx, control, func(tx pgx.Tx) error {
			_, err := tenancy.PutTenant(ctx, tx, tenancy.Record{ID: *id, Plan: tenant.Pro, Status: tenant.Active, Placement: *at})
			return err
		}))
		_, err := data.Prepare(ctx, *id)
		require.NoError(t, err)
	}
	return s
}

var (
	inShared = tenancy.Placement{}
	inSchema = tenancy.Placement{Tier: tenancy.TierSchema}
	inOne    = tenancy.Placement{Tier: tenancy.TierDatabase, Database: "one"}
	inTwo    = tenancy.Placement{Tier: tenancy.TierDatabase, Database: "two"}

	ownTables    = []tenancytest.Table{tables[0], {Name: "orders", Row: tables[1].Row}, {Name: "tags"}}
	sharedTables = ownTables[:2]
)

// Wherever the two live, they are found apart; and what they had before, they
// have afterwards. Mutation that it saw: usage on tenants' schemas granted to public.
func TestIsolationBetweenPasses(t *testing.T) {
	t.Parallel()
	key, err := tenancy.NewSigningKey("k1")
	require.NoError(t, err)
	signer, err := tenancy.NewSigner(key, nil)
	require.NoError(t, err)
	for _, test := range []struct {
		name       string
		anna, bert tenancy.Placement
		tables     []tenancytest.Table
		signer     *tenancy.Signer
	}{
		{"two schemas", inSchema, inSchema, ownTables, nil},
		{"two schemas, signed", inSchema, inSchema, ownTables, signer},
		{"the shared tables", inShared, inShared, sharedTables, nil},
		{"the shared tables, signed", inShared, inShared, sharedTables, signer},
		{"a schema from the shared tables", inSchema, inShared, sharedTables, nil},
		{"the shared tables from a schema", inShared, inSchema, sharedTables, nil},
		{"two databases", inOne, inTwo, sharedTables, nil},
		{"one database", inOne, inOne, sharedTables, nil},
		{"a database from a schema", inOne, inSchema, sharedTables, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := settle(t, test.signer, key, test.anna, test.bert)
			ctx := tenant.NewContext(t.Context(), tenant.Tenant{ID: s.anna, Status: tenant.Active})
			_, err := s.db.Exec(ctx, `insert into products (name, price, hue, tags, extra, added, live) values ('mine', 1, 'red', '{}', '{}', now(), true)`)
			require.NoError(t, err)
			tenancytest.IsolationBetween(t, s.db, s.anna, s.bert, test.tables...)
			tenancytest.IsolationBetween(t, s.db, s.bert, s.anna, test.tables...)
			for _, id := range []tenant.ID{s.anna, s.bert} {
				var n int
				ctx := tenant.NewContext(t.Context(), tenant.Tenant{ID: id, Status: tenant.Active})
				require.NoError(t, s.db.QueryRow(ctx, `select (select count(*) from products) + (select count(*) from orders)`).Scan(&n))
				require.Equal(t, map[bool]int{true: 1}[id == s.anna], n, "it takes away what it wrote, and no more")
			}
		})
	}
}

// Each row breaks down what stands between two tenants, and names the class of
// finding that must tell of it.
func TestIsolationBetweenCatches(t *testing.T) {
	t.Parallel()
	// each changes all policies of a table.
	each := func(table, change string) string {
		return fmt.Sprintf(`do $$ declare p name; begin
for p in select polname from pg_policy where polrelid = '%s'::regclass loop execute format('%s', p); end loop; end $$;`, table, strings.ReplaceAll(change, "'", "''"))
	}
	for _, test := range []struct {
		name  string
		at    tenancy.Placement // of both
		spoil string            // with the schemas, which are the roles, for {anna} and {bert}
		want  []string
	}{
		{"no policies on a table with tenant_id", inSchema, `alter table {anna}.orders disable row level security`, []string{"read", "update", "delete", "insert", "role"}},
		{"no policies on a table without", inSchema, `alter table {anna}.tags disable row level security`, []string{"read", "update", "delete", "insert", "role"}},
		{"no filter", inSchema, each(`{anna}.tags`, `alter policy %I on {anna}.tags using (true)`), []string{"read", "update", "delete", "insert", "role"}},
		{"the schema open to another's role", inSchema, `grant usage on schema {anna} to {bert}; grant select on {anna}.tags to {bert}`, []string{"schema", "role"}},
		{"the schema open to the role that logs in", inSchema, `grant usage on schema {anna} to app_user; grant select on {anna}.tags to app_user`, []string{"schema", "role"}},
		{"truncate", inSchema, `grant truncate on {anna}.tags to {anna}`, []string{"truncate", "role"}},
		{"truncate of one's own", inSchema, `grant truncate on {bert}.tags to {bert}`, []string{"truncate", "role"}},
		{"no check of tenant_id", inSchema, each(`{bert}.orders`, `alter policy %I on {bert}.orders with check (true)`), []string{"insert", "move", "role"}},
		{"no context needed", inSchema, each(`{bert}.tags`, `alter policy %I on {bert}.tags using (true)`), []string{"no_context", "role"}},
		{"a table that can't be read", inSchema, `revoke select on {bert}.tags from {bert}`, []string{"unproved"}},
		{"no such table", inSchema, `drop table {anna}.tags`, []string{"unproved"}},
		{"no policies in a database", inOne, each(`orders`, `alter policy %I on orders using (true)`), []string{"role"}},
		{"a table without tenant_id in a database of two", inOne, ``, []string{"unproved"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := settle(t, nil, tenancy.SigningKey{}, test.at, test.at)
			db := s.home
			if test.at.Database != "" {
				db = s.away[test.at.Database]
			}
			sql := strings.NewReplacer("{anna}", tenancy.SchemaName(s.anna), "{bert}", tenancy.SchemaName(s.bert)).Replace(test.spoil)
			_, err := db.Conn(t, "postgres").Exec(t.Context(), sql)
			require.NoError(t, err)
			r := &recorder{ctx: t.Context()}
			tenancytest.IsolationBetween(r, s.db, s.anna, s.bert, ownTables...)
			for _, class := range test.want {
				require.Contains(t, r.classes(), class, "%s", strings.Join(r.findings, "\n"))
			}
		})
	}
	t.Run("no two tenants", func(t *testing.T) {
		t.Parallel()
		_, db, _ := open(t)
		r := &recorder{ctx: t.Context()}
		id := tenant.NewID()
		tenancytest.IsolationBetween(r, db, id, id, tables...)
		tenancytest.IsolationBetween(r, db, id, tenancy.Sentinel, tables...)
		require.Equal(t, []string{"unproved", "unproved"}, r.classes())
	})
}
