package tenancy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// export returns the files of an export, and checks that each has as many lines
// as rows.
func export(t testing.TB, data *tenancy.Data, id tenant.ID) (map[string]string, error) {
	t.Helper()
	files := make(map[string]string)
	err := data.Export(t.Context(), id, func(name string, write func(io.Writer) (int64, error)) error {
		var b bytes.Buffer
		rows, err := write(&b)
		require.EqualValues(t, rows, strings.Count(b.String(), "\n"))
		files[name] = b.String()
		return err
	})
	return files, err
}

func TestPrepareConfigureProve(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	data := b.data(t, nil)
	id := tenant.NewID()
	marker, err := data.Prepare(ctx, id)
	require.NoError(t, err)
	again, err := data.Prepare(ctx, id)
	require.NoError(t, err)
	require.Equal(t, marker, again)
	require.NoError(t, data.Prove(ctx, id, marker))
	require.Error(t, data.Prove(ctx, id, again+"x"))
	require.Error(t, data.Prove(ctx, tenant.NewID(), marker))

	require.NoError(t, data.Configure(ctx, id, map[string]string{"alert_threshold": "95", "other": "1"}))
	_, err = b.db.Exec(as(ctx, id), `update tenant_config set value = '80' where key = 'alert_threshold'`)
	require.NoError(t, err)
	require.NoError(t, data.Configure(ctx, id, map[string]string{"alert_threshold": "95"}))
	var value string
	require.NoError(t, b.db.QueryRow(as(ctx, id), `select value from tenant_config where key = 'alert_threshold'`).Scan(&value))
	require.Equal(t, "80", value, "what the tenant has set stays")
	require.NoError(t, data.SetConfig(ctx, id, map[string]string{"alert_threshold": "70", "other": "", "webhook_url": "https://a"}))
	config, err := data.Config(ctx, id)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"alert_threshold": "70", "webhook_url": "https://a"}, config)
	require.Error(t, data.SetConfig(ctx, id, map[string]string{"": "x"}))

	for _, id := range []tenant.ID{{}, tenancy.Sentinel} {
		_, err = data.Prepare(ctx, id)
		require.ErrorIs(t, err, tenancy.ErrUnknownTenant)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	b := setup(t)
	anna, bert := tenant.NewID(), tenant.NewID()
	names := []string{"plain", "a\nb\r\n", `quo"te\`, "\x01\x02", `\.`, ""}
	for _, name := range names {
		b.add(t, anna, name)
	}
	b.add(t, bert, "foreign")
	files, err := export(t, b.data(t, nil), anna)
	require.NoError(t, err)
	require.Len(t, files, 4)
	require.Empty(t, files["public.stock.jsonl"])
	var got []string
	for line := range strings.Lines(files["public.products.jsonl"]) {
		var row struct {
			TenantID tenant.ID `json:"tenant_id"`
			Name     string    `json:"name"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &row))
		require.Equal(t, anna, row.TenantID)
		got = append(got, row.Name)
	}
	require.ElementsMatch(t, names, got)
}

// The archive of a leaving tenant is all that is left of it. Mutation: with
// to_jsonb(t) the line is the column t and nothing else.
func TestExportNames(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.owner(t, `create table odd (tenant_id uuid, t text, "select" text)`)
	require.NoError(t, tenancy.Protect(t.Context(), b.Conn(t, "mcpsaas_owner"), "odd"))
	id := tenant.NewID()
	_, err := b.db.Exec(as(t.Context(), id), `insert into odd (t, "select") values ('a', 'b')`)
	require.NoError(t, err)
	files, err := export(t, b.data(t, nil), id)
	require.NoError(t, err)
	require.JSONEq(t, `{"tenant_id": "`+id.String()+`", "t": "a", "select": "b"}`, files["public.odd.jsonl"])
}

// web is what makes an erasure hard: tables that refer to each other in a
// circle and to themselves, parents before children in the alphabet, and
// partitions.
const web = `
create table a_parent (tenant_id uuid, id int, primary key (tenant_id, id));
create table b_child (tenant_id uuid, id int, parent int, primary key (tenant_id, id),
	foreign key (tenant_id, parent) references a_parent (tenant_id, id));
create table c_tree (tenant_id uuid, id int, parent int, primary key (tenant_id, id),
	foreign key (tenant_id, parent) references c_tree (tenant_id, id));
create table d_one (tenant_id uuid, id int, other int, primary key (tenant_id, id));
create table d_two (tenant_id uuid, id int, other int, primary key (tenant_id, id),
	foreign key (tenant_id, other) references d_one (tenant_id, id));
alter table d_one add foreign key (tenant_id, other) references d_two (tenant_id, id);
create table e_events (tenant_id uuid, at int) partition by range (at);
create table e_events_1 partition of e_events for values from (0) to (10);
create table e_events_2 partition of e_events for values from (10) to (100);
create table "f-Odd ""name""" (tenant_id uuid)`

var webTables = []string{"a_parent", "b_child", "c_tree", "d_one", "d_two", "e_events", `f-Odd "name"`}

func TestErase(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.owner(t, web)
	ctx := t.Context()
	require.NoError(t, tenancy.Protect(ctx, b.Conn(t, "mcpsaas_owner"), webTables...))
	data := b.data(t, &tenancy.DataOptions{BatchRows: 7})
	anna, bert := tenant.NewID(), tenant.NewID()
	for _, id := range []tenant.ID{anna, bert} {
		_, err := data.Prepare(ctx, id)
		require.NoError(t, err)
		require.NoError(t, data.Configure(ctx, id, map[string]string{"k": "v"}))
		for _, sql := range []string{
			`insert into a_parent (id) select generate_series(1, 30)`,
			`insert into b_child (id, parent) select i, i from generate_series(1, 30) i`,
			`insert into c_tree (id, parent) select i, nullif(i - 1, 0) from generate_series(1, 30) i`,
			`with one as (insert into d_one (id, other) select 1, 2 returning 1) insert into d_two (id, other) select 2, 1 from one`,
			`insert into e_events (at) select generate_series(1, 60)`,
			`insert into "f-Odd ""name""" default values`,
			`with p as (insert into products (name) values ('x') returning id) insert into stock (product_id, amount) select id, 1 from p`,
		} {
			_, err := b.db.Exec(as(ctx, id), sql)
			require.NoError(t, err, sql)
		}
	}
	before, err := export(t, data, bert)
	require.NoError(t, err)
	require.Len(t, before, 11)
	require.NotEmpty(t, before["public.f-2dOdd-20-22name-22.jsonl"])

	receipt, err := data.Erase(ctx, anna)
	require.NoError(t, err)
	require.Equal(t, tenancy.Counts{
		"public.a_parent": 30, "public.b_child": 30, "public.c_tree": 30, "public.d_one": 1, "public.d_two": 1,
		"public.e_events": 60, `public.f-Odd "name"`: 1, "public.products": 1, "public.stock": 1,
		"public.tenant_config": 1, "public.tenant_marker": 1,
	}, receipt.Deleted())
	files, err := export(t, data, anna)
	require.NoError(t, err)
	for name, content := range files {
		if name != tenancy.ManifestFile {
			require.Empty(t, content, name)
		}
	}
	after, err := export(t, data, bert)
	require.NoError(t, err)
	delete(before, tenancy.ManifestFile) // it tells the time
	delete(after, tenancy.ManifestFile)
	require.Equal(t, before, after, "another tenant's rows are as they were")

	receipt, err = data.Erase(ctx, anna)
	require.NoError(t, err)
	for table, n := range receipt.Deleted() {
		require.Zero(t, n, table)
	}
}

// An erasure must not claim what it didn't do. Mutation: without the last scan
// the first of these succeeds.
func TestEraseProves(t *testing.T) {
	t.Parallel()
	t.Run("a trigger keeps rows", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := tenant.NewID()
		b.add(t, id, "apple")
		b.owner(t, `create function keep() returns trigger language plpgsql as 'begin return null; end';
create trigger keep before delete on products for each row execute function keep()`)
		_, err := b.data(t, nil).Erase(t.Context(), id)
		require.ErrorContains(t, err, "rows are left in public.products")
	})
	t.Run("an unprotected table", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := tenant.NewID()
		b.add(t, id, "apple")
		b.owner(t, `create table bare (tenant_id uuid)`)
		data := b.data(t, nil)
		_, err := data.Erase(t.Context(), id)
		require.ErrorIs(t, err, tenancy.ErrUnprotected)
		require.ErrorContains(t, err, "public.bare")
		require.Equal(t, []string{"apple"}, b.names(t, id), "nothing was erased")
		_, err = export(t, data, id)
		require.ErrorIs(t, err, tenancy.ErrUnprotected)
	})
	t.Run("a failing writer", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		full := errors.New("disk full")
		err := b.data(t, nil).Export(t.Context(), tenant.NewID(), func(string, func(io.Writer) (int64, error)) error { return full })
		require.ErrorIs(t, err, full)
	})
}
