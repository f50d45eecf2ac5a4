package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// offlineTenant is a tenant without a server: in the shared tables, with rows.
func (w *world) offlineTenant(t *testing.T, products int) tenant.ID {
	t.Helper()
	_, err := w.command("migrate")
	require.NoError(t, err)
	id := tenant.NewID()
	env := &environment{config: new(config), stderr: os.Stderr}
	_, err = env.config.parse("test", nil, func(name string) string { return w.env[name] }, os.Stderr)
	require.NoError(t, err)
	o, err := openOffice(t.Context(), env.config, env.logger())
	require.NoError(t, err)
	defer o.close()
	require.NoError(t, o.provisioner.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
	_, err = o.state.Update(t.Context(), id, false, func(r *onboarding.Record) ([]onboarding.Entry, error) {
		r.State = tenant.Suspended
		return nil, nil
	})
	require.NoError(t, err)
	_, err = o.prepare(t.Context(), id)
	require.NoError(t, err)
	_, err = w.superPool(t).Exec(t.Context(), `insert into products (tenant_id, name, price_cents) select $1, 'p' || i, i from generate_series(1, $2) i`, id, products)
	require.NoError(t, err)
	return id
}

// TestMoveCommand plans, refuses, moves, purges.
func TestMoveCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.offlineTenant(t, 300)
	own := databaseRef(id)
	databases := func() int { return w.number(t, `select count(*) from pg_database where datname like '%' || $1`, own) }

	text, err := w.command("tenant", "move", id.String(), "-to", "database", "-dry-run")
	require.NoError(t, err)
	require.Contains(t, text, "from shared to database:"+own)
	require.Regexp(t, `products +300 rows`, text)
	require.Contains(t, text, "doesn't exist yet")
	require.Zero(t, databases(), "a dry run makes nothing")
	_, err = w.command("tenant", "move", id.String(), "-to", "shared", "-dry-run")
	var refused *tenancy.MoveRefusedError
	require.ErrorAs(t, err, &refused)
	require.NotErrorIs(t, err, errUsage, "exit code 1")
	_, err = w.command("tenant", "move", id.String(), "-abort")
	require.ErrorIs(t, err, tenancy.ErrNoMove)

	text, err = w.command("tenant", "move", id.String(), "-to", "database")
	require.NoError(t, err, text)
	require.Contains(t, text, "copying")
	require.Contains(t, text, "is in database:"+own+", epoch 2")
	require.Equal(t, 1, databases())
	at, epoch := w.placement(t, id)
	require.Equal(t, "database:"+own, at)
	require.EqualValues(t, 2, epoch)

	text, err = w.command("tenant", "move", id.String(), "-to", "schema", "-json")
	require.NoError(t, err, text)
	var result tenancy.MoveResult
	require.NoError(t, json.Unmarshal([]byte(text), &result), text)
	require.Equal(t, "schema", result.To)
	require.GreaterOrEqual(t, result.Rows, int64(300))
	require.Equal(t, 1, databases(), "the old copy stays")
	_, err = w.command("tenant", "move", id.String(), "-purge")
	require.NoError(t, err)
	require.Zero(t, databases(), "the server drops what it made")
	require.Equal(t, 300, w.number(t, `select count(*) from `+tenancy.SchemaName(id)+`.products`))
	require.Zero(t, w.number(t, `select count(*) from public.products where tenant_id = $1`, id))

	text, err = w.command("tenant", "show", id.String())
	require.NoError(t, err)
	require.Contains(t, text, "placement schema, epoch 3\n")
	require.Contains(t, text, "to database:"+own, "the log has it")
}

// TestDataCommandsBadInput: what was typed wrong is named, by exit code 2, and
// nothing is changed.
func TestDataCommandsBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.offlineTenant(t, 3).String()
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "x"), nil, 0o600))
	for _, c := range []struct{ args, want string }{
		{"tenant move", "server tenant move ID"},
		{"tenant move ID", "want one of -to"},
		{"tenant move ID -to schema -abort", "want one of -to"},
		{"tenant move ID -purge -dry-run", "want one of -to"},
		{"tenant move ID -to nowhere", `-to "nowhere"`},
		{"tenant move ID -to database:postgres://o:hunter2@h/d", `-to "database"`},
		{"tenant move x -to schema", `"x"`},
		{"tenant export ID", "-dir is not set"},
		{"tenant export ID -dir " + full, "not empty"},
		{"tenant export ID -dir " + full + "/x", "-dir"},
		{"tenant export", "server tenant export ID"},
		{"tenant import ID", `-dir ""`},
		{"tenant import ID -dir /nowhere", "/nowhere"},
		{"tenant import ID -dir " + full + " -from y", `"y"`},
		{"tenant erase", "server tenant erase ID"},
		{"tenant erase ID more", "server tenant erase ID"},
		{"tenant list -tenant-databases postgres://o:hunter2@h/d", "TENANT_DATABASES"},
	} {
		args := strings.Fields(strings.ReplaceAll(c.args, "ID", id))
		_, err := w.command(args...)
		require.ErrorIs(t, err, errUsage, c.args)
		require.ErrorContains(t, err, c.want, c.args)
		require.NotContains(t, err.Error(), "hunter2")
	}
	unknown := tenant.NewID().String()
	for _, c := range []string{"tenant move ID -to schema", "tenant move ID -abort", "tenant move ID -purge", "tenant move ID -to schema -dry-run",
		"tenant export ID -dir " + filepath.Join(full, "new"), "tenant import ID -dir " + full, "tenant erase ID", "tenant retry ID"} {
		_, err := w.command(strings.Fields(strings.ReplaceAll(c, "ID", unknown))...)
		require.ErrorIs(t, err, onboarding.ErrUnknownTenant, c)
		require.NotErrorIs(t, err, errUsage, c)
	}
	_, err := w.command("tenant", "import", id, "-dir", full)
	require.Error(t, err, "that is no export")
	require.Equal(t, 3, w.number(t, `select count(*) from products`))
	delete(w.env, "TENANT_DATABASES")
	_, err = w.command("tenant", "move", id, "-to", "database")
	require.ErrorIs(t, err, errUsage)
	require.ErrorContains(t, err, "TENANT_DATABASES is not set")
}

// TestImportRefusesWhatIsNotIts: a foreign export, one that was changed, and a tenant
// that has rows.
func TestImportRefusesWhatIsNotIts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, dir := w.offlineTenant(t, 5), filepath.Join(t.TempDir(), "export")
	text, err := w.command("tenant", "export", one.String(), "-dir", dir)
	require.NoError(t, err)
	require.Regexp(t, `public.products.jsonl +5 rows`, text)

	other := w.offlineTenant(t, 0)
	_, err = w.command("tenant", "import", other.String(), "-dir", dir)
	require.ErrorIs(t, err, tenancy.ErrForeignRows)
	_, err = w.command("tenant", "import", one.String(), "-dir", dir)
	require.ErrorIs(t, err, tenancy.ErrNotEmpty)
	products := func(id tenant.ID) int {
		return w.number(t, `select count(*) from products where tenant_id = $1`, id)
	}
	file := filepath.Join(dir, "public.products.jsonl")
	rows, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(rows), `"p1"`, `"p9"`, 1)), 0o600))
	_, err = w.command("tenant", "import", other.String(), "-dir", dir, "-from", one.String())
	require.ErrorIs(t, err, tenancy.ErrCorrupt)
	require.Zero(t, products(other))
	require.NoError(t, os.WriteFile(file, rows, 0o600))
	_, err = w.command("tenant", "import", other.String(), "-dir", dir, "-from", one.String())
	require.NoError(t, err)
	require.Equal(t, 5, products(other))
	require.Equal(t, 5, products(one))
}
