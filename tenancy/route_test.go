package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// each runs a subtest for a tenant of each tier.
func (b *tiers) each(t *testing.T, fn func(t *testing.T, ctx context.Context, tier tenancy.Tier)) {
	t.Helper()
	for tier, id := range b.one {
		t.Run(string(tier), func(t *testing.T) { fn(t, as(t.Context(), id), tier) })
	}
}

// at runs a statement as a superuser in the database where the tenant lives, and
// with its schema first.
func (b *tiers) at(t testing.TB, tier tenancy.Tier, sql string, args ...any) {
	t.Helper()
	at := b.bundle
	if tier == tenancy.TierDatabase {
		at = b.other
	}
	conn := at.Conn(t, "postgres")
	if tier == tenancy.TierSchema {
		_, err := conn.Exec(t.Context(), "set search_path = "+tenancy.SchemaName(b.one[tier])+", pg_temp")
		require.NoError(t, err)
	}
	_, err := conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func code(err error) string {
	failure, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Sprint(err)
	}
	return failure.Code
}

// A handler can't tell where its tenant lives by how its arguments are encoded,
// nor by what it reads.
func TestArgumentsInAllTiers(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	b.each(t, func(t *testing.T, ctx context.Context, tier tenancy.Tier) {
		const tables = `create type {schema}mood as enum ('sad', 'happy');
create table {schema}things (tenant_id uuid not null, id int, doc jsonb, mood {schema}mood, tags text[], price numeric,
	moods {schema}mood[], at timestamptz, raw bytea, primary key (tenant_id, id))`
		at := b.bundle
		if tier == tenancy.TierDatabase {
			at = b.other
		}
		if tier != tenancy.TierSchema {
			at.owner(t, strings.ReplaceAll(tables, "{schema}", "public."))
			require.NoError(t, tenancy.Protect(ctx, at.Conn(t, devstack.OwnerRole), "things"))
			return
		}
		at.owner(t, strings.ReplaceAll(tables, "{schema}", tenancy.SchemaName(b.one[tier])+"."))
		require.NoError(t, pgx.BeginFunc(ctx, at.Conn(t, devstack.OwnerRole), func(tx pgx.Tx) error {
			return tenancy.ProtectSchema(ctx, tx, b.one[tier])
		}))
	})
	type thing struct {
		ID    int
		Doc   map[string]any
		Mood  *string
		Tags  []string
		Price *string
		Moods []string
		At    *time.Time
		Raw   []byte
	}
	const insert = `insert into things (id, doc, mood, tags, price, moods, at, raw) values ($1, $2, $3, $4, $5, $6, $7, $8)`
	const read = `select id, doc, mood, tags, price::text, moods::text[], at, raw from things where id = any($1) and (doc @> $2 or doc is null) order by id`
	at := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	rows := [][]any{
		{1, map[string]any{"a": []any{"b", 1.5}}, "happy", []string{"x", "y,z"}, "12.340", []string{"sad", "happy"}, at, []byte{0, 1}},
		{2, nil, nil, nil, nil, nil, nil, nil},
		{3, map[string]any{"a": []any{"b", 1.5}}, "sad", []string{}, 7, []string{}, at, []byte("a")},
	}
	var first []thing
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec"} {
		b.each(t, func(t *testing.T, ctx context.Context, tier tenancy.Tier) {
			b.at(t, tier, `truncate things`)
			db := b.dialBy(t, tier, withMode(b.appURL(tier), mode), nil)
			_, err := db.Exec(ctx, insert, rows[0]...)
			require.NoError(t, err)
			require.NoError(t, tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, insert, rows[1]...); err != nil {
					return err
				}
				batch := &pgx.Batch{}
				batch.Queue(insert, rows[2]...)
				batch.Queue(`select 1`)
				return tx.SendBatch(ctx, batch).Close()
			}))
			answer, err := db.Query(ctx, read, []int{1, 2, 3}, map[string]any{"a": []any{"b"}})
			require.NoError(t, err)
			got, err := pgx.CollectRows(answer, pgx.RowToStructByPos[thing])
			require.NoError(t, err)
			require.Len(t, got, 3)
			for i := range got {
				if got[i].At != nil {
					require.True(t, at.Equal(*got[i].At))
					got[i].At = &at
				}
			}
			if first == nil {
				first = got
			}
			require.Equal(t, first, got)
			_, err = db.Exec(ctx, insert, 4, nil, "unheard of", nil, nil, nil, nil, nil)
			require.Equal(t, "22P02", code(err))
			_, err = db.Exec(ctx, insert, 1<<40, nil, nil, nil, nil, nil, nil, nil)
			require.ErrorContains(t, err, "args[0]")
		})
	}
}

// Schemas are migrated one after the other. Mutations: descriptions kept by the
// text alone make the second schema's rows come out wrong; nothing kept prepared
// in schemas is counted.
func TestSchemasAtDifferentVersions(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	old, young := b.one[tenancy.TierSchema], b.settle(t, tenancy.TierSchema)
	b.owner(t, `alter table `+tenancy.SchemaName(young)+`.products add extra int default 7`)
	db := b.dial(t, &tenancy.Options{MaxConns: 1})
	columns := func(ctx context.Context) (names []string) {
		rows, err := db.Query(ctx, `select * from products`)
		require.NoError(t, err)
		for rows.Next() {
			_, err := rows.Values()
			require.NoError(t, err)
		}
		require.NoError(t, rows.Err())
		for _, field := range rows.FieldDescriptions() { // after the rows are closed
			names = append(names, field.Name)
		}
		return names
	}
	for _, id := range []tenant.ID{old, young, b.one[tenancy.TierShared]} {
		_, err := db.Exec(as(t.Context(), id), `insert into products (name) values ('x')`)
		require.NoError(t, err)
	}
	for range 12 { // it is kept prepared, on the only connection, in each schema
		require.Equal(t, []string{"tenant_id", "id", "name"}, columns(as(t.Context(), old)))
		require.Equal(t, []string{"tenant_id", "id", "name", "extra"}, columns(as(t.Context(), young)))
	}
	kept := func(id tenant.ID) (n int) {
		require.NoError(t, db.QueryRow(as(t.Context(), id), `select count(*) from pg_prepared_statements where statement = 'select * from products'`).Scan(&n))
		return n
	}
	require.Equal(t, 2, kept(old))
	// Nor does a call fail because its schema has just been migrated, although the
	// statement is known. Mutation: without the second attempt each of these does.
	b.owner(t, `alter table `+tenancy.SchemaName(old)+`.products add extra text default 'y'`)
	require.Equal(t, []string{"tenant_id", "id", "name", "extra"}, columns(as(t.Context(), old)))
	shared := as(t.Context(), b.one[tenancy.TierShared])
	require.Len(t, columns(shared), 3)
	b.owner(t, `alter table public.products add extra int`)
	require.Len(t, columns(shared), 4)
	require.Equal(t, 3, kept(old), "one for each, and what is out of date is gone")
}

// move has the tenant live in its own schema from now on, as a mover would, with
// what was made there. The router isn't told.
func (b *tiers) move(t testing.TB, id tenant.ID, names ...string) {
	t.Helper()
	b.schema(t, id)
	conn := b.Conn(t, devstack.OwnerRole)
	require.NoError(t, pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		ctx, schema := t.Context(), tenancy.SchemaName(id)
		if _, err := tx.Exec(ctx, `select set_config($1, $2, true)`, tenancy.Setting, id.String()); err != nil {
			return err
		}
		for _, name := range names {
			if _, err := tx.Exec(ctx, `insert into `+schema+`.products (name) values ($1)`, name); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 7310868735423373166))`, id.String()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into mcpsaas.fence values ($1, 2, true, $2)
			on conflict (tenant_id) do update set epoch = 2, open = true, schema_name = $2`, id, schema); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update mcpsaas.tenants set placement = 'schema', schema_name = $2, epoch = 2, changed = pg_current_xact_id() where id = $1`, id, schema)
		return err
	}))
}

// A call that comes by the old route finds the new one, by itself, and reads and
// writes there only. Mutations: without the fence's check in enter, each of these
// uses the rows that were left behind; without the retry, each fails.
func TestCallAfterMove(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, &tenancy.Options{MaxConns: 1})
	const read = `select string_agg(name, ' ' order by name) from products`
	for name, call := range map[string]func(ctx context.Context) (string, error){
		"one-shot": func(ctx context.Context) (got string, err error) {
			return got, db.QueryRow(ctx, read).Scan(&got)
		},
		"exec": func(ctx context.Context) (got string, err error) {
			if _, err = db.Exec(ctx, `update products set name = name || '!'`); err == nil {
				err = db.QueryRow(ctx, `select replace(name, '!', '') from products`).Scan(&got)
			}
			return got, err
		},
		"transaction": func(ctx context.Context) (got string, err error) {
			ran := 0
			err = tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
				ran++
				if err := tx.QueryRow(ctx, read).Scan(&got); err != nil {
					return err
				}
				return tx.QueryRow(ctx, read).Scan(&got)
			})
			require.Equal(t, 1, ran)
			return got, err
		},
		"batch": func(ctx context.Context) (got string, err error) {
			err = db.Tx(ctx, tenancy.TxOptions{IsoLevel: pgx.Serializable}, func(ctx context.Context, tx pgx.Tx) error {
				batch := &pgx.Batch{}
				batch.Queue(read).QueryRow(func(row pgx.Row) error { return row.Scan(&got) })
				return tx.SendBatch(ctx, batch).Close()
			})
			return got, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := b.settle(t, tenancy.TierShared)
			ctx := as(t.Context(), id)
			_, err := db.Exec(ctx, `insert into products (name) values ('old')`)
			require.NoError(t, err)
			got, err := call(ctx)
			require.NoError(t, err)
			require.Equal(t, "old", got)
			b.move(t, id, "new")
			opened := db.Stat().NewConnsCount()
			got, err = call(ctx)
			require.NoError(t, err)
			require.Equal(t, "new", got)
			require.Equal(t, opened, db.Stat().NewConnsCount(), "no connection was lost over it")
		})
	}
}

// While the rows are nowhere, nothing runs, and the caller is told.
func TestCallDuringMove(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, &tenancy.Options{MaxConns: 1})
	db.UsePatience(20 * time.Millisecond)
	b.each(t, func(t *testing.T, ctx context.Context, tier tenancy.Tier) {
		id, _ := tenant.FromContext(ctx)
		b.at(t, tier, `insert into mcpsaas.fence values ($1, 1, false, null)`, id.ID)
		opened := db.Stat().NewConnsCount()
		_, err := db.Exec(ctx, `insert into products (name) values ('x')`)
		require.ErrorIs(t, err, tenancy.ErrMoved)
		require.ErrorIs(t, inTx(ctx, db, `insert into products (name) values ('x')`), tenancy.ErrMoved)
		require.ErrorIs(t, db.Canary(ctx, id.ID.String()), tenancy.ErrMoved)
		require.Equal(t, opened, db.Stat().NewConnsCount())
		b.at(t, tier, `update mcpsaas.fence set open = true`)
		var n int
		require.NoError(t, db.QueryRow(ctx, `select count(*) from products`).Scan(&n))
		require.Zero(t, n)
	})
	// A handle that knows of no placements reads the shared tables, and notices
	// that a tenant's rows were taken from there.
	id := b.settle(t, tenancy.TierShared)
	b.move(t, id)
	_, err := b.db.Exec(as(t.Context(), id), `select 1`)
	require.ErrorIs(t, err, tenancy.ErrMoved)
}

// A call waits while the fence is being changed, no longer than its context
// allows, and then goes where the rows are, even if its snapshot is older than its
// wait. Mutation: without enter's "for share" the transaction in repeatable read
// reads what was left behind.
func TestCallWaitsForTheFence(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, nil)
	id := b.settle(t, tenancy.TierShared)
	ctx := as(t.Context(), id)
	_, err := db.Exec(ctx, `insert into products (name) values ('old')`)
	require.NoError(t, err)
	b.owner(t, `insert into mcpsaas.fence values ($1, 1, true, null)`, id)
	b.move(t, id, "new") // and back: what follows is the switch alone
	b.owner(t, `update mcpsaas.tenants set placement = 'shared', schema_name = null, epoch = 1, changed = pg_current_xact_id() where id = $1`, id)
	b.owner(t, `update mcpsaas.fence set epoch = 1, schema_name = null where tenant_id = $1`, id)
	require.NoError(t, b.directory.Sync(ctx))

	mover, err := b.Conn(t, devstack.OwnerRole).Begin(ctx)
	require.NoError(t, err)
	_, err = mover.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 7310868735423373166))`, id.String())
	require.NoError(t, err)

	impatient, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = db.Exec(impatient, `select 1`)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	const read = `select string_agg(name, ' ') from products`
	type answer struct {
		level pgx.TxIsoLevel
		name  string
		err   error
	}
	levels := []pgx.TxIsoLevel{"", pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}
	answers := make(chan answer)
	for _, level := range levels {
		go func() {
			a := answer{level: level}
			if level == "" {
				a.err = db.QueryRow(ctx, read).Scan(&a.name)
			} else {
				a.err = db.Tx(ctx, tenancy.TxOptions{IsoLevel: level}, func(ctx context.Context, tx pgx.Tx) error {
					return tx.QueryRow(ctx, read).Scan(&a.name)
				})
			}
			answers <- a
		}()
	}
	waiting := func() bool {
		var n int
		err := mover.QueryRow(ctx, `select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`).Scan(&n)
		return err == nil && n == len(levels)
	}
	require.Eventually(t, waiting, 10*time.Second, time.Millisecond)
	_, err = mover.Exec(ctx, `update mcpsaas.fence set epoch = 2, schema_name = $2 where tenant_id = $1`, id, tenancy.SchemaName(id))
	require.NoError(t, err)
	_, err = mover.Exec(ctx, `update mcpsaas.tenants set placement = 'schema', schema_name = $2, epoch = 2, changed = pg_current_xact_id() where id = $1`, id, tenancy.SchemaName(id))
	require.NoError(t, err)
	require.NoError(t, mover.Commit(ctx))
	for range levels {
		a := <-answers
		require.NoError(t, a.err, a.level)
		require.Equal(t, "new", a.name, a.level)
	}
}

// The role is what keeps a schema's tenant from the shared tables and from other
// schemas, whatever its statements name. Mutation: without the role set, or with
// leave not looking at it, these rows fail.
func TestSchemaRole(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, &tenancy.Options{MaxConns: 1})
	stranger := b.settle(t, tenancy.TierSchema)
	ctx := as(t.Context(), b.one[tenancy.TierSchema])
	for _, table := range []string{"public.products", "public.tenant_marker", tenancy.SchemaName(stranger) + ".products", "mcpsaas.tenants"} {
		_, err := db.Exec(ctx, `select from `+table)
		require.Equal(t, "42501", code(err), table)
		require.Equal(t, "42501", code(inTx(ctx, db, `select from `+table)), table)
	}
	shared := as(t.Context(), b.one[tenancy.TierShared])
	_, err := db.Exec(shared, `select from `+tenancy.SchemaName(stranger)+`.products`)
	require.Equal(t, "42501", code(err))
	for _, sql := range []string{`reset role`, `set local role none`, `set role ` + tenancy.SchemaName(stranger)} {
		require.ErrorIs(t, inTx(ctx, db, sql), tenancy.ErrTampered, sql)
	}
	// What is set for the session is seen by the next call, of another tier.
	_, err = db.Exec(ctx, `select set_config('role', $1, false)`, tenancy.SchemaName(stranger))
	require.NoError(t, err)
	_, err = db.Exec(shared, `select 1`)
	require.ErrorIs(t, err, tenancy.ErrTampered)
	_, err = db.Exec(shared, `select 1`)
	require.NoError(t, err)
}

// Limits travel with the context, by tenant, and end with the transaction.
func TestLimits(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	b.each(t, func(t *testing.T, ctx context.Context, tier tenancy.Tier) {
		db := b.dial(t, &tenancy.Options{MaxConns: 6, Limits: func(x tenant.Tenant) tenancy.Limits {
			if x.ID != b.one[tier] {
				return tenancy.Limits{}
			}
			require.Equal(t, tenant.Pro, x.Plan)
			return tenancy.Limits{StatementTimeout: time.Second, LockTimeout: 20 * time.Millisecond}
		}})
		_, err := db.Exec(ctx, `insert into products (name) values ('x') on conflict do nothing`)
		require.NoError(t, err)
		_, err = db.Exec(ctx, `select pg_sleep(10)`)
		require.Equal(t, "57014", code(err))
		require.Equal(t, "57014", code(inTx(ctx, db, `select pg_sleep(10)`)))
		err = db.Tx(ctx, tenancy.TxOptions{StatementTimeout: time.Minute}, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `update products set name = name`); err != nil {
				return err
			}
			_, err := db.Exec(ctx, `update products set name = name`)
			require.Equal(t, "55P03", code(err))
			_, err = tx.Exec(ctx, `select pg_sleep(0.1)`)
			return err
		})
		require.NoError(t, err)
		for _, other := range b.one {
			if other != b.one[tier] {
				_, err := db.Exec(as(t.Context(), other), `select pg_sleep(0.1)`)
				require.NoError(t, err)
			}
		}
	})
}
