package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// The server's own schema has nothing to find, and the command's exit code
// says when it has.
func TestAuditCommand(t *testing.T) {
	t.Parallel()
	d := devtest.DB(t, devtest.Template{Name: "audited", Migrate: func(ctx context.Context, conn *pgx.Conn) error {
		_, err := migrate(ctx, &config{databaseURL: conn.Config().ConnString()}, nil)
		return err
	}})
	env := map[string]string{"DATABASE_URL": d.URL, "APP_DATABASE_URL": d.As(tenancy.AppRole), "API_KEY_PEPPER": strings.Repeat("p", 32)}
	command := func(args ...string) (string, error) {
		w := &world{t: t, env: env}
		return w.command(append([]string{"audit"}, args...)...)
	}
	text, err := command("-severity", "note")
	require.NoError(t, err, text)
	require.Contains(t, text, "3 tables of tenants")

	owner := d.Pool(t)
	spoil := func(sql string) {
		t.Helper()
		_, err := owner.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	spoil(`create table countries (code text primary key); grant select on countries to app_user`)
	_, err = command("-severity", "error")
	require.NoError(t, err, "a warning is none")
	text, err = command()
	var found *tenancy.AuditError
	require.ErrorAs(t, err, &found)
	require.False(t, errors.Is(err, errUsage), "exit code 1")
	require.Contains(t, text, `mend: revoke all on "public"."countries"`)

	allow, sarif := filepath.Join(t.TempDir(), "allow.json"), filepath.Join(t.TempDir(), "audit.sarif")
	require.NoError(t, os.WriteFile(allow, []byte(`[{"rule": "TEN121", "object": "public.countries", "reason": "the same for all"}]`), 0o600))
	text, err = command("-allow", allow, "-sarif", sarif, "-json")
	require.NoError(t, err)
	var report tenancy.AuditReport
	require.NoError(t, json.Unmarshal([]byte(text), &report))
	require.Empty(t, report.Findings)
	require.Len(t, report.Allowed, 1)
	log, err := os.ReadFile(sarif)
	require.NoError(t, err)
	require.Contains(t, string(log), `"justification": "the same for all"`)

	spoil(`alter table products no force row level security`)
	_, err = command("-severity", "error", "-allow", allow)
	require.ErrorAs(t, err, &found)

	for _, bad := range [][]string{{"-severity", "fatal"}, {"extra"}, {"-allow", "/nowhere"}, {"-allow", sarif}, {"-nonsense"}} {
		_, err := command(bad...)
		require.ErrorIs(t, err, errUsage, "%v: exit code 2", bad)
	}
	delete(env, "DATABASE_URL")
	_, err = command()
	require.ErrorIs(t, err, errUsage)
	require.NotErrorIs(t, err, flag.ErrHelp)
}
