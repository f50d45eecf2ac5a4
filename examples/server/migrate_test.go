package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestMigrateCommand migrates the shared schema and a tenant's own, of which
// one is in the way at first.
func TestMigrateCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, err := w.command("migrate")
	require.NoError(t, err)
	require.Contains(t, text, "1 of 1 schemas\n")
	require.Contains(t, text, "the schema is up to date")

	// What Prepare leaves where it is cut short before the shop's tables.
	super := w.superPool(t)
	id := tenant.NewID()
	schema := tenancy.SchemaName(id)
	_, err = super.Exec(t.Context(), `insert into mcpsaas.tenants (id, plan, status, placement, schema_name) values ($1, 'pro', 'active', 'schema', $2)`, id, schema)
	require.NoError(t, err)
	control, err := tenancy.ControlConfig(w.db.Config().ConnString())
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), control)
	require.NoError(t, err)
	defer pool.Close()
	data, err := tenancy.NewData(pool, nil)
	require.NoError(t, err)
	defer data.Close()
	_, err = data.Prepare(t.Context(), id)
	require.NoError(t, err)
	_, err = w.db.Exec(t.Context(), `create table `+schema+`.products ()`)
	require.NoError(t, err)

	text, err = w.command("migrate", "-json")
	var report migrateReport
	require.ErrorContains(t, err, "apply 0001_products.sql")
	require.NoError(t, json.Unmarshal([]byte(text), &report), text)
	require.False(t, report.Migrated)
	require.Equal(t, map[tenancy.MigrationState]int{tenancy.MigrationCurrent: 1, tenancy.MigrationFailed: 1}, report.Schemas)
	require.Equal(t, schema, report.Failed[0].Schema)

	_, err = w.db.Exec(t.Context(), `drop table `+schema+`.products`)
	require.NoError(t, err)
	text, err = w.command("migrate", "-json")
	require.NoError(t, err)
	report = migrateReport{}
	require.NoError(t, json.Unmarshal([]byte(text), &report), text)
	require.True(t, report.Migrated)
	require.Equal(t, map[tenancy.MigrationState]int{tenancy.MigrationCurrent: 1, tenancy.MigrationApplied: 1}, report.Schemas)
	var forced bool
	require.NoError(t, super.QueryRow(t.Context(), `select relforcerowsecurity from pg_class where oid = '`+schema+`.products'::regclass`).Scan(&forced))
	require.True(t, forced, "protected as the shared table is")
}

func TestProgressLine(t *testing.T) {
	t.Parallel()
	steps := []tenancy.MigrationProgress{
		{Total: 3, Canary: true},
		{Total: 3, Done: 1, Canary: true, Last: &tenancy.MigrationOutcome{State: tenancy.MigrationApplied}},
		{Total: 3, Done: 1, Failed: 1, Elapsed: 2e9, Last: &tenancy.MigrationOutcome{State: tenancy.MigrationFailed, Err: errors.New("schema x: no")}},
		{Total: 3, Done: 2, Failed: 1, Elapsed: 3e9, Last: &tenancy.MigrationOutcome{State: tenancy.MigrationApplied}},
	}
	for name, test := range map[string]struct {
		live bool
		want string
	}{
		"terminal": {true, "\r\x1b[K0 of 3 schemas (canaries)\r\x1b[K1 of 3 schemas (canaries)\nschema x: no\n" +
			"\r\x1b[K2 of 3 schemas, 1 failed, 2s\r\x1b[K3 of 3 schemas, 1 failed, 3s\n"},
		"file": {false, "schema x: no\n2 of 3 schemas, 1 failed, 2s\n3 of 3 schemas, 1 failed, 3s\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			line := &progressLine{w: &out, live: test.live}
			for _, p := range steps {
				line.show(p)
			}
			line.end()
			require.Equal(t, test.want, out.String())
		})
	}
}
