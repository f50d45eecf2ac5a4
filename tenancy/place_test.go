package tenancy_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// cutter ends the context at a statement, and with it the connection.
type cutter struct {
	left   atomic.Int64
	cancel context.CancelFunc
}

func (c *cutter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return ctx
}

func (c *cutter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestPrepareCutShort cuts the making of a schema short at each of its
// statements, as a crash would, and has it end the next time. Mutation seen:
// create returning early where the schema exists.
func TestPrepareCutShort(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	for n := int64(1); ; n++ {
		id := e.put(tenancy.Placement{Tier: tenancy.TierSchema})
		cut := &cutter{}
		config, err := tenancy.ControlConfig(e.home.URL)
		require.NoError(t, err)
		config.ConnConfig.Tracer = cut
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		data, err := tenancy.NewData(pool, &tenancy.DataOptions{Files: e.files})
		require.NoError(t, err)
		var ctx context.Context
		ctx, cut.cancel = context.WithCancel(t.Context())
		cut.left.Store(n)
		_, err = data.Prepare(ctx, id)
		data.Close()
		pool.Close()
		cut.cancel()
		if err == nil {
			require.Greater(t, n, int64(10), "few statements were cut")
			return
		}
		require.ErrorIs(t, err, context.Canceled)
		_, err = e.data.Prepare(t.Context(), id)
		require.NoError(t, err, "cut at statement %d", n)
		e.must(id, fillShop)
	}
}

// TestPrepareDatabaseCutShort begins with what a crash can leave of a database.
func TestPrepareDatabaseCutShort(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	ctx := t.Context()
	for i, leave := range []func(conn *pgx.Conn, pool *pgxpool.Pool) error{
		func(*pgx.Conn, *pgxpool.Pool) error { return nil },
		func(conn *pgx.Conn, _ *pgxpool.Pool) error { return tenancy.Migrate(ctx, conn) },
		func(conn *pgx.Conn, pool *pgxpool.Pool) error { // the tables without their policies
			if err := tenancy.Migrate(ctx, conn); err != nil {
				return err
			}
			m, err := tenancy.NewMigrator(e.files, tenancy.MigrationTargetsFunc(func(context.Context) ([]tenancy.MigrationTarget, error) {
				return []tenancy.MigrationTarget{{Schema: "public", DB: pool}}, nil
			}), nil)
			if err == nil {
				_, err = m.Migrate(ctx)
			}
			return err
		},
	} {
		ref := "cut" + string(rune('a'+i))
		db := e.database(ref)
		require.NoError(t, leave(db.Conn(t, devstack.OwnerRole), db.Pool(t)))
		id := e.tenant(tenancy.Placement{Tier: tenancy.TierDatabase, Database: ref})
		e.must(id, fillShop)
	}
}

// TestHold: one who exports keeps one who erases waiting, and a move that has begun
// keeps everybody out. Mutations seen: Erase holding shared, standsStill left
// out.
func TestHold(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	ctx := t.Context()
	id := e.tenant(tenancy.Placement{})
	e.must(id, fillShop)
	erased := make(chan error, 1)
	lines := 0
	err := e.data.Export(ctx, id, func(name string, write func(io.Writer) (int64, error)) error {
		if lines == 0 {
			go func() {
				_, err := e.data.Erase(ctx, id)
				erased <- err
			}()
			require.Eventually(t, func() bool {
				return super[int](t, e.home, `select count(*) from pg_locks where locktype = 'advisory' and not granted
					and database = (select oid from pg_database where datname = current_database())`) == 1
			}, 8*time.Second, 5*time.Millisecond)
		}
		n, err := write(io.Discard)
		lines += int(n)
		return err
	})
	require.NoError(t, err)
	require.Equal(t, 62, lines, "nothing was erased meanwhile")
	require.NoError(t, <-erased)

	_, err = e.home.Conn(t, devstack.OwnerRole).Exec(ctx, `insert into mcpsaas.moves (tenant_id, source, target, epoch, state, owner)
		values ($1, 'shared', 'schema', 1, 'copying', gen_random_uuid())`, id)
	require.NoError(t, err)
	_, err = e.data.Prepare(ctx, id)
	require.ErrorIs(t, err, tenancy.ErrTenantBusy)
	_, err = e.data.Erase(ctx, id)
	require.ErrorIs(t, err, tenancy.ErrTenantBusy)
	_, err = export(t, e.data, id)
	require.ErrorIs(t, err, tenancy.ErrTenantBusy)
}

// TestEraseEverywhere has a tenant with rows where it was before, too.
// Mutation seen: traces returning the tenant's own place alone.
func TestEraseEverywhere(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	ctx := t.Context()
	e.database("old")
	place := func(id tenant.ID, at string, ref any) {
		_, err := e.home.Conn(t, devstack.OwnerRole).Exec(ctx, `update mcpsaas.tenants set placement = $2, database_ref = $3,
			schema_name = case when $2 = 'schema' then 't_' || replace(id::text, '-', '') end where id = $1`, id, at, ref)
		require.NoError(t, err)
	}
	id := e.put(tenancy.Placement{})
	for _, at := range []string{"database", "shared", "schema"} { // as moves without a purge would
		var ref any
		if at == "database" {
			ref = "old"
		}
		place(id, at, ref)
		_, err := e.data.Prepare(ctx, id)
		require.NoError(t, err)
		e.must(id, fillShop)
	}
	_, err := e.home.Conn(t, devstack.OwnerRole).Exec(ctx, `insert into mcpsaas.moves (tenant_id, source, target, epoch, state, owner)
		values ($1, 'database:old', 'shared', 1, 'kept', gen_random_uuid()), ($1, 'shared', 'schema', 2, 'kept', gen_random_uuid())`, id)
	require.NoError(t, err)
	receipt, err := e.data.Erase(ctx, id)
	require.NoError(t, err)
	var places []string
	for _, p := range receipt.Places {
		places = append(places, p.Placement)
	}
	require.ElementsMatch(t, []string{"shared", "database:old", "schema"}, places)
	require.EqualValues(t, 60, receipt.Deleted()["public.products"])
	for _, db := range []string{e.home.Name, e.databases["old"].Name} {
		conn := e.home
		if db != e.home.Name {
			conn = e.databases["old"]
		}
		require.Zero(t, super[int](t, conn, `select count(*) from public.products where tenant_id = $1`, id))
	}
}

// TestEraseSeesAll: an erasure that can't see every row must not say that none is
// left. Mutations seen: the checks for hidden rows and for the policies left out of
// tables.
func TestEraseSeesAll(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]string{
		"rows that a policy hides": `create policy only_live on {schema}.products as restrictive using (name <> 'p7')`,
		"no policies":              `do $$ declare p name; begin for p in select polname from pg_policy where polrelid = '{schema}.products'::regclass loop execute format('drop policy %I on {schema}.products', p); end loop; end $$`,
		"row level security off":   `alter table {schema}.products disable row level security`,
		"no privilege":             `revoke select on {schema}.products from mcpsaas_control`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEstate(t, shopFiles())
			for _, at := range e.everywhere() {
				id := e.tenant(at)
				e.must(id, fillShop)
				db, schema := e.at(id)
				_, err := db.Conn(t, devstack.OwnerRole).Exec(t.Context(), strings.ReplaceAll(harm, "{schema}", schema))
				require.NoError(t, err)
				_, err = e.data.Erase(t.Context(), id)
				require.ErrorIs(t, err, tenancy.ErrUnprotected, at)
				require.Equal(t, 30, super[int](t, db, `select count(*) from `+schema+`.products where tenant_id = $1`, id))
				_, err = export(t, e.data, id)
				require.ErrorIs(t, err, tenancy.ErrUnprotected, at)
				if at.Tier == "" { // the other places' erasure looks here as well
					_, err = e.data.Migrate(t.Context(), nil)
					require.NoError(t, err)
					_, err = db.Conn(t, devstack.OwnerRole).Exec(t.Context(), `drop policy if exists only_live on products`)
					require.NoError(t, err)
					require.NoError(t, tenancy.Protect(t.Context(), db.Conn(t, devstack.OwnerRole), "products"))
				}
			}
		})
	}
}
