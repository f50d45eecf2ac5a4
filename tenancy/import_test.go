package tenancy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// typesFile makes a table with a column of each type, and what else is hard to
// write down: circles, partitions, identities, computed columns, no key.
const typesFile = `
create type mood as enum ('glad', 'sad "quoted"');
create function shout(mood) returns text language sql immutable as 'select ''LOUD''::text';
create cast (mood as text) with function shout(mood);
create domain percent as int check (value between 0 and 100);
create type pair as (a int, b text);
create type floats as range (subtype = float8);
create table kinds (
	tenant_id uuid not null, id bigint generated always as identity, "odd ""name""" text, primary key (tenant_id, id),
	b boolean, i2 smallint, i4 int, i8 bigint, n numeric, n2 numeric(30, 10), f4 real, f8 double precision, m money,
	t text, v varchar(10), c char(10), name name, bytes bytea,
	at timestamp, atz timestamptz, d date, tm time, tmz timetz, iv interval,
	j json, jb jsonb, u uuid, ip inet, net cidr, mac macaddr, bits bit(5), vbits bit varying, pt point, pg polygon, x xml,
	ts tsvector, tq tsquery, ia int[], ta text[], ja jsonb[], ba bytea[], r int4range, rs tstzmultirange, fr floats, rt tstzrange,
	mo mood, moa mood[], pc percent, pr pair, pra pair[], lsn pg_lsn, jp jsonpath,
	up text generated always as (upper(t)) stored);
create table heap (tenant_id uuid not null, n int, note text);
create table a_tree (tenant_id uuid not null, id int, parent int, primary key (tenant_id, id),
	foreign key (tenant_id, parent) references a_tree (tenant_id, id));
create table a_one (tenant_id uuid not null, id int, other int, primary key (tenant_id, id));
create table b_two (tenant_id uuid not null, id int, other int, primary key (tenant_id, id),
	foreign key (tenant_id, other) references a_one (tenant_id, id));
alter table a_one add foreign key (tenant_id, other) references b_two (tenant_id, id);
create table c_child (tenant_id uuid not null, id serial, one int references_nothing, primary key (tenant_id, id),
	foreign key (tenant_id, one) references a_one (tenant_id, id));
create table events (tenant_id uuid not null, at int) partition by range (at);
create table events_1 partition of events for values from (0) to (10);
create table events_2 partition of events for values from (10) to (100);
create table wide (tenant_id uuid not null` // and 120 columns

func typesFiles() fs.FS {
	var b strings.Builder
	b.WriteString(strings.Replace(typesFile, " references_nothing", "", 1))
	for i := range 120 {
		fmt.Fprintf(&b, ", c%d int", i)
	}
	b.WriteString(")")
	return sqlFiles("0001_types.sql", b.String())
}

// typesRows are what JSON can't say, and what text is read wrongly easily.
var typesRows = []string{
	`insert into kinds (b, i2, i4, i8, n, n2, f4, f8, m) values
		(true, -32768, 2147483647, 9223372036854775807, 'NaN', 12345678901234567890.0123456789, 'NaN', '-0', '-1.50'),
		(false, 0, 0, -9223372036854775808, 'Infinity', 0.0000000001, '-Infinity', 'Infinity', '92233720368547758.07'),
		(null, null, null, null, '-0.000', null, 1e-45, 0.1, null),
		(null, null, null, null, 1e100, null, 3.4028235e38, 1.7976931348623157e308, null)`,
	`insert into kinds ("odd ""name""", t, v, c, name, bytes) values
		('', e'a\nb\r\n\t\\.\x01\x02\x7f', 'x  ', 'x  ', 'n', '\x000102ff5c6e22'),
		('null', '\.', '', '', '', ''), ('"', 'é 漢 🎈 "quo\te"', null, null, null, null), (null, 'null', 'NULL', 'NULL', null, null)`,
	`insert into kinds (at, atz, d, tm, tmz, iv) values
		('infinity', '-infinity', 'infinity', '24:00', '23:59:59.999999+15:59', '1 year -2 mons 3 days -04:05:06.789'),
		('0001-01-01 BC', '2020-02-29 23:59:59.999999+13', '5874897-12-31', '0:0:0.000001', '0:0-15:59', '-0.000001 s')`,
	`insert into kinds (j, jb, u, ip, net, mac, bits, vbits, pt, pg, x) values
		('{"a":1,  "a":2.0}', '{"b": [1.0, null, "\u00e9"]}', gen_random_uuid(), '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03',
			'10101', '', '(-0,NaN)', '((0,0),(1,1e-300))', '<a> b </a>'),
		('null', 'null', null, '::1', '::/0', null, null, '111', null, null, ''), ('"s"', '"s"', null, null, null, null, null, null, null, null, null)`,
	`insert into kinds (ts, tq, ia, ta, ja, ba, r, rs, fr, rt) values
		('a:1 ''b c'':2', '''a'' & !b', '[-1:1]={1,NULL,3}', array['', 'null', null, 'a"b\c{,}'], array['null', '{"a": 1}']::jsonb[], array['\x00'::bytea], '[1,5)',
			'{[2020-01-01 00:00+00,2020-02-01 00:00+00),(2021-01-01 00:00+00,)}', '(-Infinity,0.1]', 'empty'),
		('', '', '{{1,2},{3,4}}', '{}', '{}', '{}', 'empty', '{}', 'empty', '(,)')`,
	`insert into kinds (mo, moa, pc, pr, pra, lsn, jp) values
		('sad "quoted"', array['glad', null]::mood[], 100, row(null, null), array[row(1, 'a,b"')::pair, null], '16/B374D848', '$.a[*] ? (@ > 1)'),
		('glad', null, null, row(1, ''), null, null, null)`,
	`insert into heap (n, note) values (1, 'same'), (1, 'same'), (null, null), (2, null), (2, '')`,
	`insert into a_tree (id, parent) select i, nullif(i - 1, 0) from generate_series(1, 30) i`,
	`with one as (insert into a_one (id, other) select 1, 2 returning 1) insert into b_two (id, other) select 2, 1 from one`,
	`insert into c_child (id, one) values (41, 1)`,
	`insert into events (at) select generate_series(1, 60)`,
	`insert into wide (c0, c119) values (1, 2)`,
	`insert into tenant_config (key, value) values ('k', 'v')`,
}

// directory is an export as files.
func directory(t testing.TB, data *tenancy.Data, id tenant.ID) fstest.MapFS {
	t.Helper()
	files, err := export(t, data, id)
	require.NoError(t, err)
	dir := make(fstest.MapFS)
	for name, content := range files {
		dir[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return dir
}

// rowsOf are the files without the manifest, which tells the time.
func rowsOf(dir fstest.MapFS) map[string]string {
	rows := make(map[string]string)
	for name, f := range dir {
		if name != tenancy.ManifestFile {
			rows[name] = string(f.Data)
		}
	}
	return rows
}

// TestExportImport has a tenant go from each tier to each in another
// installation: what is exported there is what was imported, to the byte.
//
// Mutations seen: values taken by a cast to text (the type's own notation is another),
// NULL asked for by "is not null" (a row of NULLs is none), other habits not
// overruled, no overriding system value, the sequences left as they are.
func TestExportImport(t *testing.T) {
	t.Parallel()
	from := newEstate(t, typesFiles())
	for _, at := range from.everywhere() {
		id := from.tenant(at)
		from.must(id, typesRows...)
		if at.Tier == "" {
			from.must(from.tenant(at), typesRows...) // somebody else's
		}
		dir := directory(t, from.data, id)
		m, err := tenancy.ReadManifest(dir)
		require.NoError(t, err)
		require.Equal(t, id, m.Tenant)
		require.Len(t, m.Files, 1)
		for _, value := range []string{`"f8":"-0"`, `"f8":"1.7976931348623157e+308"`, `"i8":"9223372036854775807"`, `"i4":2147483647`, `"b":true`, `"n":"0.000"`,
			`"c":"x         "`, `"j":"{\"a\":1,  \"a\":2.0}"`, `"jb":"null"`, `"ia":"[-1:1]={1,NULL,3}"`, `"mo":"glad"`, `"pr":"(,)"`, `"atz":"-infinity"`} {
			require.Contains(t, string(dir["public.kinds.jsonl"].Data), value)
		}
		for target := range 3 {
			to := newEstate(t, typesFiles())
			there := to.everywhere()[target]
			to.habits()
			to.putAs(id, there)
			_, err = to.data.Prepare(t.Context(), id)
			require.NoError(t, err)
			counts, err := to.data.Import(t.Context(), id, dir, nil)
			require.NoError(t, err, "%s to %s", at, there)
			require.EqualValues(t, 17, counts["public.kinds"])
			require.Equal(t, rowsOf(dir), rowsOf(directory(t, to.data, id)), "%s to %s", at, there)

			// The sequences go on after what was imported.
			to.must(id, `insert into kinds (t) values ('next')`)
			db, schema := to.at(id)
			require.EqualValues(t, super[int64](t, db, `select max(id) from `+schema+`.kinds where tenant_id = $1 and t is distinct from 'next'`, id)+1,
				super[int64](t, db, `select id from `+schema+`.kinds where t = 'next'`))
			require.GreaterOrEqual(t, super[int64](t, db, `select last_value from `+schema+`.c_child_id_seq`), int64(41))

			_, err = to.data.Import(t.Context(), id, dir, nil)
			require.ErrorIs(t, err, tenancy.ErrNotEmpty)
			require.ErrorContains(t, err, "public.kinds")
		}
	}
}

// habits has the installation write values in other ways than the default.
func (e *estate) habits() {
	e.t.Helper()
	for _, db := range []*devtest.Database{e.home, e.databases["db1"]} {
		for _, set := range []string{`datestyle = 'SQL, DMY'`, `timezone = 'Asia/Kolkata'`, `extra_float_digits = -3`, `bytea_output = 'escape'`, `intervalstyle = 'iso_8601'`} {
			_, err := db.Conn(e.t, "postgres").Exec(e.t.Context(), `alter database `+db.Name+` set `+set)
			require.NoError(e.t, err)
		}
	}
	e.control.Reset()
	e.data = e.open(&tenancy.DataOptions{})
}

// TestImportRefuses breaks an export in each way.
//
// Mutations seen: the digest of a file not compared ("a bit", "swapped",
// "two lines"), the rows' tenant not compared ("a row of a third tenant", which the
// replacing would have made ours), the migrations not compared, the columns
// not compared, the seal of the manifest not compared.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	source := e.tenant(tenancy.Placement{})
	e.must(source, fillShop)
	dir := directory(t, e.data, source)
	const products, stock = "public.products.jsonl", "public.stock.jsonl"
	edit := func(name string, change func(string) string) func(fstest.MapFS) {
		return func(dir fstest.MapFS) {
			dir[name] = &fstest.MapFile{Data: []byte(change(string(dir[name].Data)))}
		}
	}
	// forge writes a manifest that fits.
	forge := func(change func(dir fstest.MapFS, m *tenancy.Manifest)) func(fstest.MapFS) {
		return func(dir fstest.MapFS) {
			m, err := tenancy.ReadManifest(dir)
			require.NoError(t, err)
			change(dir, m)
			for i := range m.Tables {
				if f := dir[m.Tables[i].File]; f != nil {
					sum := sha256.Sum256(f.Data)
					m.Tables[i].SHA256, m.Tables[i].Bytes = hex.EncodeToString(sum[:]), int64(len(f.Data))
					m.Tables[i].Rows = int64(strings.Count(string(f.Data), "\n"))
				}
			}
			line, err := json.Marshal(m)
			require.NoError(t, err)
			sum := sha256.Sum256(line)
			dir[tenancy.ManifestFile] = &fstest.MapFile{Data: fmt.Appendf(nil, "%s\n{\"sha256\":%q}\n", line, hex.EncodeToString(sum[:]))}
		}
	}
	third := tenant.NewID()
	firstLine := func(s string) string { line, _, _ := strings.Cut(s, "\n"); return line + "\n" }
	for name, test := range map[string]struct {
		harm func(fstest.MapFS)
		want error
		text string
	}{
		"a bit":         {edit(products, func(s string) string { return strings.Replace(s, `"p7"`, `"q7"`, 1) }), tenancy.ErrCorrupt, products},
		"not JSON":      {edit(products, func(s string) string { return "x" + s[1:] }), tenancy.ErrCorrupt, products},
		"not text":      {edit(products, func(s string) string { return "\xff" + s[1:] }), tenancy.ErrCorrupt, products},
		"a quote":       {edit(products, func(s string) string { return "\x01" + s[1:] }), tenancy.ErrCorrupt, products},
		"the end early": {edit(products, func(s string) string { return "\\.\n" + s[3:] }), tenancy.ErrCorrupt, products},
		"cut short":     {edit(stock, func(s string) string { return s[:len(s)-1] }), tenancy.ErrCorrupt, stock},
		"cut at a line": {edit(stock, func(s string) string { return s[:strings.LastIndex(s[:len(s)-1], "\n")+1] }), tenancy.ErrCorrupt, stock},
		"longer":        {edit(stock, func(s string) string { return s + firstLine(s) }), tenancy.ErrCorrupt, stock},
		"empty":         {edit(stock, func(string) string { return "" }), tenancy.ErrCorrupt, stock},
		"gone":          {func(d fstest.MapFS) { delete(d, stock) }, fs.ErrNotExist, "public.stock"},
		"swapped":       {func(d fstest.MapFS) { d[stock], d[products] = d[products], d[stock] }, tenancy.ErrCorrupt, products},
		"two lines":     {edit(products, func(s string) string { f := firstLine(s); return s[len(f):] + f }), tenancy.ErrCorrupt, products},
		"manifest": {edit(tenancy.ManifestFile, func(s string) string { return strings.Replace(s, `"rows":30`, `"rows":31`, 1) }),
			tenancy.ErrCorrupt, tenancy.ManifestFile},
		"manifest's seal": {edit(tenancy.ManifestFile, func(s string) string { return firstLine(s) }), tenancy.ErrCorrupt, tenancy.ManifestFile},
		"manifest's end":  {edit(tenancy.ManifestFile, func(s string) string { return s[:len(s)-1] }), tenancy.ErrCorrupt, tenancy.ManifestFile},
		"no manifest":     {func(d fstest.MapFS) { delete(d, tenancy.ManifestFile) }, fs.ErrNotExist, ""},

		"another format": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Format = 2 }), tenancy.ErrIncompatible, "format 2"},
		"a table more": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) {
			m.Tables = append(m.Tables, tenancy.ManifestTable{Table: "public.secrets", File: stock})
		}), tenancy.ErrIncompatible, "no table public.secrets"},
		"a table of ours": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Tables[0].Table = "mcpsaas.tenants" }), tenancy.ErrIncompatible, "mcpsaas.tenants"},
		"a table twice":   {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Tables = append(m.Tables, m.Tables[0]) }), tenancy.ErrIncompatible, "no table"},
		"a table less":    {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Tables = m.Tables[1:] }), tenancy.ErrIncompatible, "it has no table"},
		"a column more": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) {
			m.Tables[0].Columns = append(m.Tables[0].Columns, tenancy.ManifestColumn{Name: "x", Type: "text"})
		}), tenancy.ErrIncompatible, "other columns"},
		"a column of another type": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Tables[0].Columns[2].Type = "uuid" }),
			tenancy.ErrIncompatible, "other columns"},
		"a migration less": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Files = nil }), tenancy.ErrIncompatible, "0001_products.sql is newer"},
		"a migration more": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) {
			m.Files = append(m.Files, tenancy.ManifestMigration{Version: 2, Name: "0002_x.sql"})
		}), tenancy.ErrIncompatible, "0002_x.sql was not applied"},
		"a migration edited": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Files[0].Checksum = "x" }), tenancy.ErrIncompatible, "0001_products.sql is not the same"},
		"a row of a third tenant": {forge(func(d fstest.MapFS, _ *tenancy.Manifest) {
			edit(products, func(s string) string { return strings.Replace(s, source.String(), third.String(), 1) })(d)
		}), tenancy.ErrForeignRows, "public.products"},
		"a row of nobody": {forge(func(d fstest.MapFS, _ *tenancy.Manifest) {
			edit(products, func(s string) string { return strings.Replace(s, `"`+source.String()+`"`, "null", 1) })(d)
		}), tenancy.ErrForeignRows, "public.products"},
		"a member more": {forge(func(d fstest.MapFS, _ *tenancy.Manifest) {
			edit(products, func(s string) string { return strings.Replace(s, `"name":`, `"x":"y","name":`, 1) })(d)
		}), tenancy.ErrIncompatible, "public.products"},
		"another tenant's": {forge(func(_ fstest.MapFS, m *tenancy.Manifest) { m.Tenant = third }), tenancy.ErrForeignRows, third.String()},
		"a key that points nowhere": {forge(func(d fstest.MapFS, _ *tenancy.Manifest) {
			edit(products, func(s string) string { return s[len(firstLine(s)):] })(d)
		}), nil, "public.stock"},
	} {
		t.Run(name, func(t *testing.T) {
			id := e.tenant(tenancy.Placement{Tier: tenancy.TierSchema})
			broken := maps.Clone(dir)
			test.harm(broken)
			_, err := e.data.Import(t.Context(), id, broken, &tenancy.ImportOptions{From: source})
			require.Error(t, err)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
			}
			require.ErrorContains(t, err, test.text)
			require.Zero(t, super[int](t, e.home, `select count(*) from `+tenancy.SchemaName(id)+`.products`), "no row is seen")
		})
	}
	t.Run("unbroken", func(t *testing.T) {
		id := e.tenant(tenancy.Placement{Tier: tenancy.TierSchema})
		_, err := e.data.Import(t.Context(), id, dir, nil)
		require.ErrorIs(t, err, tenancy.ErrForeignRows, "its rows are not rewritten unless that is asked for")
		sum := sha256.Sum256(dir[tenancy.ManifestFile].Data)
		_, err = e.data.Import(t.Context(), id, dir, &tenancy.ImportOptions{From: source, Digest: hex.EncodeToString(sum[:])[1:] + "0"})
		require.ErrorIs(t, err, tenancy.ErrCorrupt)
		_, err = e.data.Import(t.Context(), id, dir, &tenancy.ImportOptions{From: source, Digest: hex.EncodeToString(sum[:])})
		require.NoError(t, err)
		require.Equal(t, strings.ReplaceAll(string(dir[products].Data), source.String(), id.String()), rowsOf(directory(t, e.data, id))[products])
	})
	t.Run("nobody", func(t *testing.T) {
		_, err := e.data.Import(t.Context(), tenant.NewID(), dir, &tenancy.ImportOptions{From: source})
		require.ErrorIs(t, err, tenancy.ErrUnknownTenant)
	})
	t.Run("a trigger that changes rows", func(t *testing.T) {
		id := e.tenant(tenancy.Placement{Tier: tenancy.TierSchema})
		schema := tenancy.SchemaName(id)
		_, err := e.home.Conn(t, devstack.OwnerRole).Exec(t.Context(), `create function `+schema+`.louder() returns trigger language plpgsql as 'begin new.name := upper(new.name); return new; end';
create trigger louder before insert on `+schema+`.products for each row execute function `+schema+`.louder()`)
		require.NoError(t, err)
		_, err = e.data.Import(t.Context(), id, dir, &tenancy.ImportOptions{From: source})
		require.ErrorContains(t, err, "a trigger changes them")
	})
}

// In a tenant's own schema there are tables without tenant_id, which a migration
// may have filled, and sequences of its own.
func TestImportIntoSeededSchema(t *testing.T) {
	t.Parallel()
	e := newEstate(t, sqlFiles("0001_x.sql", `create table words (word text primary key, n int);
insert into words values ('a', 1), ('b', 2); create table plainly (x int); insert into plainly values (1), (1); create sequence invoices`))
	at := tenancy.Placement{Tier: tenancy.TierSchema}
	source := e.tenant(at)
	e.must(source, `insert into words values ('c', 3)`, `insert into plainly values (1), (2)`)
	_, err := e.home.Conn(t, devstack.OwnerRole).Exec(t.Context(), `select setval('`+tenancy.SchemaName(source)+`.invoices', 77)`)
	require.NoError(t, err)
	dir := directory(t, e.data, source)
	id := e.tenant(at)
	_, err = e.data.Import(t.Context(), id, dir, &tenancy.ImportOptions{From: source})
	require.NoError(t, err)
	require.Equal(t, rowsOf(dir), rowsOf(directory(t, e.data, id)))
	require.Equal(t, 77, super[int](t, e.home, `select last_value from `+tenancy.SchemaName(id)+`.invoices`))

	other := e.tenant(at)
	e.must(other, `update words set n = 9 where word = 'a'`)
	_, err = e.data.Import(t.Context(), other, dir, &tenancy.ImportOptions{From: source})
	require.ErrorIs(t, err, tenancy.ErrNotEmpty)
	require.ErrorContains(t, err, "public.words")
}
