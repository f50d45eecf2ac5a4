package tenancy_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestBulkInsert(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.owner(t, `create type colour as enum ('red', 'green');
create domain percent as int check (value between 0 and 100);
create table things (tenant_id uuid not null, n int, code varchar(3), flag char(2), at timestamptz, ref uuid, tags text[], matrix int[], hue colour, share percent, doc jsonb, price numeric(8,2), "odd "" name" text)`)
	require.NoError(t, tenancy.Protect(t.Context(), b.Conn(t, "mcpsaas_owner"), "things"))
	id := tenant.NewID()
	ctx := as(t.Context(), id)
	table := pgx.Identifier{"things"}
	columns := []string{"n", "code", "flag", "at", "ref", "tags", "matrix", "hue", "share", "doc", "price", `odd " name`}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	row := func(n int) []any {
		if n%3 == 0 {
			return []any{n, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
		}
		return []any{n, "abc", "de", at, id, []string{"x", `y,"z`}, []int{1, 2}, "green", 50, map[string]int{"k": n}, "12.34", "v"}
	}
	const many = 12_000
	next := 0
	source := pgx.CopyFromFunc(func() ([]any, error) {
		if next == many {
			return nil, nil
		}
		next++
		return row(next), nil
	})
	err := tenancy.TenantTx(ctx, b.db, func(ctx context.Context, tx pgx.Tx) error {
		n, err := tenancy.BulkInsert(ctx, tx, table, columns, source)
		require.NoError(t, err)
		require.EqualValues(t, many, n)
		return nil
	})
	require.NoError(t, err)
	var count, full int
	err = b.db.QueryRow(ctx, `
select count(*), count(*) filter (where code = 'abc' and flag = 'de' and at = $1 and ref = $2
	and tags = array['x', 'y,"z'] and matrix = array[1, 2] and hue = 'green' and share = 50
	and doc = jsonb_build_object('k', n) and price = 12.34 and "odd "" name" = 'v' and tenant_id = $2)
from things`, at, id).Scan(&count, &full)
	require.NoError(t, err)
	require.Equal(t, many, count)
	require.Equal(t, many-many/3, full)

	for _, test := range []struct {
		name    string
		table   pgx.Identifier
		columns []string
		row     []any
		want    string
	}{
		{"no table", pgx.Identifier{"nothing"}, []string{"n"}, []any{1}, "no such table"},
		{"no column", table, []string{"m"}, []any{1}, `no column "m"`},
		{"no columns", table, nil, nil, "no columns"},
		{"too few values", table, []string{"n", "code"}, []any{1}, "1 values for 2 columns"},
		{"too long", table, []string{"code"}, []any{"abcd"}, "too long"},
		{"out of its domain", table, []string{"share"}, []any{101}, "violates check"},
		{"wrong type", table, []string{"n"}, []any{"x"}, "invalid input syntax"},
		{"another tenant", table, []string{"tenant_id"}, []any{tenant.NewID()}, "row-level security"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := tenancy.TenantTx(ctx, b.db, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tenancy.BulkInsert(ctx, tx, test.table, test.columns, pgx.CopyFromRows([][]any{test.row}))
				return err
			})
			require.ErrorContains(t, err, test.want)
		})
	}
}
