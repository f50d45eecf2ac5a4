package tenancy_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var (
	sharedPlace = tenancy.Placement{Tier: tenancy.TierShared}
	schemaPlace = tenancy.Placement{Tier: tenancy.TierSchema}
	awayPlace   = tenancy.Placement{Tier: tenancy.TierDatabase, Database: "away"}

	// everyWay goes each way once, and ends where it began.
	everyWay = []tenancy.Placement{schemaPlace, sharedPlace, awayPlace, schemaPlace, awayPlace, sharedPlace}
)

func (e *estate) mover(t testing.TB, opts *tenancy.MoverOptions) *tenancy.Mover {
	t.Helper()
	m, err := tenancy.NewMover(e.data, opts)
	require.NoError(t, err)
	return m
}

// fingerprint is what a tenant has, wherever: rows by table, and a hash of them.
func (e *estate) fingerprint(t testing.TB, id tenant.ID, tables ...string) []string {
	t.Helper()
	db, schema := e.at(id)
	var all []string
	for _, table := range tables {
		all = append(all, super[string](t, db, fmt.Sprintf(
			`select '%s ' || count(*) || ' ' || coalesce(md5(string_agg(t::text, ' ' order by t::text)), '') from %s t where tenant_id = $1`,
			table, pgx.Identifier{schema, table}.Sanitize()), id))
	}
	return all
}

var crewNames = []string{"items", "notes", "events", "tenant_config", "tenant_marker"}

// TestMoveUnderWriters moves a tenant each way while eight writers write, half of
// them in repeatable read, and looks at every row afterwards; another tenant's are
// as before.
//
// Mutations that it saw, as rows that are lost, stale or too many: enter without its
// check of the fence, or without "for share"; the placement changed before the last
// delta; the source left open between two databases; nothing captured, nor compared.
// As a move that fails: nothing captured; no exclusive lock at the switch; none shared
// in enter; the log read in another snapshot than the rows, compared or not.
func TestMoveUnderWriters(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 8, nil)
	c.away("away", devtest.DB(t, devtest.Template{Name: "empty"}))
	other := c.tenant(sharedPlace)
	c.must(other, `insert into items (id, owner, position, value) select gen_random_uuid(), 1, i, i from generate_series(1, 500) i`,
		`insert into notes (id, item, body) select gen_random_uuid(), id, 'x' from items`, `insert into events (owner, n) select 1, i from generate_series(1, 500) i`)
	before := c.fingerprint(t, other, crewNames...)
	m := c.mover(t, nil)
	c.start(t)
	c.until(t, 500)
	for _, to := range everyWay {
		r, err := m.Move(t.Context(), c.id, to)
		require.NoError(t, err)
		t.Logf("%s -> %s: %d rows, %d changes, pause %s, took %s; %d writes acknowledged", r.From, r.To, r.Rows, r.Changes, r.Pause, r.Took, c.acked.Load())
		c.until(t, 100)
	}
	c.verify(t)
	require.Zero(t, c.lost.Load(), "a call waits for the switch, and doesn't fail")
	require.Equal(t, before, c.fingerprint(t, other, crewNames...))
	require.EqualValues(t, 0, super[int64](t, c.home, `select count(*) from mcpsaas.move_log`))
	require.EqualValues(t, 0, super[int64](t, c.home, `select count(*) from pg_trigger where tgname like 'mcpsaas%'`))
}
