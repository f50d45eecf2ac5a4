package tenancy_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var shopNames = []string{"products", "stock", "tenant_marker"}

// newShop is an estate with one tenant that has a full shop, in the shared
// tables.
func newShop(t testing.TB) (*estate, tenant.ID) {
	t.Helper()
	e := newEstate(t, shopFiles())
	e.database("away")
	id := e.tenant(sharedPlace)
	e.must(id, fillShop)
	return e, id
}

// rows counts what the tenant has in a place where it isn't.
func (e *estate) rows(t testing.TB, id tenant.ID, at tenancy.Placement) int64 {
	db, schema := e.home, "public"
	switch at {
	case schemaPlace:
		schema = tenancy.SchemaName(id)
	case awayPlace:
		db = e.databases["away"]
	}
	if super[bool](t, db, `select to_regclass($1) is null`, schema+".products") {
		return 0
	}
	return super[int64](t, db, `select (select count(*) from `+schema+`.products where tenant_id = $1) + (select count(*) from `+schema+`.tenant_marker where tenant_id = $1)`, id)
}

// at runs f when the mover is at the step for the first time.
func atStep(m *tenancy.Mover, step string, f func()) {
	done := false
	m.SetStep(func(at string) {
		if at == step && !done {
			done = true
			f()
		}
	})
}

// TestMoveDiffers changes a row of the copy behind the mover's back: it names the
// table, the tenant stays and the copy goes. Mutation: without the comparison
// the move succeeds.
func TestMoveDiffers(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]tenancy.Placement{"schema": schemaPlace, "database": awayPlace} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, id := newShop(t)
			before := e.fingerprint(t, id, shopNames...)
			m := e.mover(t, nil)
			atStep(m, "now copied", func() {
				db, schema := e.home, tenancy.SchemaName(id)
				if to == awayPlace {
					db, schema = e.databases["away"], "public"
				}
				_, err := db.Conn(t, "postgres").Exec(t.Context(), `update `+schema+`.stock set amount = 2 where product_id = (select max(product_id) from `+schema+`.stock)`)
				require.NoError(t, err)
			})
			_, err := m.Move(t.Context(), id, to)
			require.ErrorIs(t, err, tenancy.ErrMoveDiffers)
			require.ErrorContains(t, err, "table stock")
			require.Equal(t, before, e.fingerprint(t, id, shopNames...))
			require.Zero(t, e.rows(t, id, to))
			status, err := m.Status(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, tenancy.MoveAborted, status.State)
			e.must(id, `insert into products (name) values ('goes on')`)
			m.SetStep(nil)
			_, err = m.Move(t.Context(), id, to)
			require.NoError(t, err)
		})
	}
}

// TestMoveMigrated adds a column while the tenant is moved. Mutation: without
// the look at the tables in the switch, what is in the column is lost.
func TestMoveMigrated(t *testing.T) {
	t.Parallel()
	e, id := newShop(t)
	m := e.mover(t, nil)
	atStep(m, "compared", func() {
		_, err := e.home.Conn(t, devstack.OwnerRole).Exec(t.Context(), `alter table products add color text default 'red'`)
		require.NoError(t, err)
		e.must(id, `update products set color = 'blue'`)
	})
	_, err := m.Move(t.Context(), id, schemaPlace)
	require.ErrorContains(t, err, "the tables have changed")
	require.NoError(t, m.Abort(t.Context(), id))
	require.Zero(t, e.rows(t, id, schemaPlace))
	plan, err := m.Plan(t.Context(), id, schemaPlace)
	require.NoError(t, err)
	require.Contains(t, plan.Problems[0].String(), "table products: the target has no column color: migrate the target first")
}

// TestMoveCancelled stops a move, and looks at what can be done then.
func TestMoveCancelled(t *testing.T) {
	t.Parallel()
	e, id := newShop(t)
	m := e.mover(t, nil)
	_, err := m.Status(t.Context(), id)
	require.ErrorIs(t, err, tenancy.ErrNoMove)
	require.ErrorIs(t, m.Abort(t.Context(), id), tenancy.ErrNoMove)

	ctx, cancel := context.WithCancel(t.Context())
	atStep(m, "now copied", cancel)
	_, err = m.Move(ctx, id, awayPlace)
	require.ErrorIs(t, err, context.Canceled)
	status, err := m.Status(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, tenancy.MoveCopied, status.State)
	require.NotEmpty(t, status.Error)
	e.must(id, `insert into products (name) values ('meanwhile')`)

	_, err = m.Move(t.Context(), id, schemaPlace)
	require.ErrorIs(t, err, tenancy.ErrMoving)
	plan, err := m.Plan(t.Context(), id, schemaPlace)
	require.NoError(t, err)
	require.Contains(t, plan.Problems[0].String(), "a move to database:away has begun")
	_, err = e.data.Erase(t.Context(), id)
	require.ErrorIs(t, err, tenancy.ErrTenantBusy)

	require.NoError(t, m.Abort(t.Context(), id))
	require.Zero(t, e.rows(t, id, awayPlace))
	before := e.fingerprint(t, id, shopNames...)
	r, err := m.Move(t.Context(), id, awayPlace)
	require.NoError(t, err)
	require.False(t, r.Resumed)
	require.EqualValues(t, 2, r.Epoch)
	require.Equal(t, before, e.fingerprint(t, id, shopNames...))
	again, err := m.Move(t.Context(), id, awayPlace)
	require.NoError(t, err)
	require.Equal(t, r.KeepTill.Unix(), again.KeepTill.Unix())
}

// TestMoveTakenOver has a mover that lost its connection, and with it the tenant,
// wake up after another one has done the work: it can do no harm. Mutation:
// without the lock of move_ends it goes on and overwrites what was written
// since.
func TestMoveTakenOver(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"fenced", "now copied", "compared", "now caught_up"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			e, id := newShop(t)
			slow, quick := e.mover(t, nil), e.mover(t, nil)
			reached, wake, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			atStep(slow, step, func() { close(reached); <-wake })
			go func() {
				_, err := slow.Move(t.Context(), id, schemaPlace)
				result <- err
			}()
			<-reached
			super[int64](t, e.home, `select count(pg_terminate_backend(pid)) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`)
			require.Eventually(t, func() bool {
				_, err := quick.Move(t.Context(), id, schemaPlace)
				return err == nil
			}, time.Minute, time.Millisecond)
			e.must(id, `insert into products (name) values ('after')`, `update stock set amount = 9`)
			before := e.fingerprint(t, id, shopNames...)
			close(wake)
			require.Error(t, <-result)
			require.Equal(t, before, e.fingerprint(t, id, shopNames...))
			status, err := quick.Status(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, tenancy.MoveKept, status.State)
		})
	}
}

// TestMoveOlderSnapshot has a transaction whose snapshot is older than the
// tenant's fence and that enters only after the move: it would write where nobody
// looks any more. Mutation: without the wait for older transactions it enters.
func TestMoveOlderSnapshot(t *testing.T) {
	t.Parallel()
	e, id := newShop(t)
	old, err := e.home.Conn(t, tenancy.AppRole).BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	_, err = old.Exec(t.Context(), `select 1`) // takes the snapshot
	require.NoError(t, err)
	m := e.mover(t, nil)
	raised, result := make(chan struct{}), make(chan error, 1)
	atStep(m, "compared", func() { close(raised) })
	go func() {
		_, err := m.Move(t.Context(), id, schemaPlace)
		result <- err
	}()
	<-raised
	// It waits: were it to go on, it would be done soon.
	select {
	case err := <-result:
		t.Fatalf("moved past a transaction that can't see the fence: %v", err)
	case <-time.After(time.Second):
	}
	_, err = old.Exec(t.Context(), `select mcpsaas_app.enter($1, 1, true, true)`, id.String())
	require.NoError(t, err)
	_, err = old.Exec(t.Context(), `insert into products (name) values ('late')`)
	require.NoError(t, err)
	require.NoError(t, old.Commit(t.Context()))
	require.NoError(t, <-result)
	require.EqualValues(t, 31+1, e.rows(t, id, schemaPlace))
}

// TestMoveOldCopy: nobody reaches it, it goes when its time is over, and a way
// back begins with an empty place.
func TestMoveOldCopy(t *testing.T) {
	t.Parallel()
	e, id := newShop(t)
	now := time.Now()
	m := e.mover(t, &tenancy.MoverOptions{Keep: time.Hour, Now: func() time.Time { return now }})
	for _, to := range []tenancy.Placement{schemaPlace, awayPlace} {
		_, err := m.Move(t.Context(), id, to)
		require.NoError(t, err)
	}
	require.EqualValues(t, 31, e.rows(t, id, sharedPlace))
	status, err := m.Status(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []string{"shared", "schema"}, status.Kept)
	for _, epoch := range []int{0, 1, 2, 3} {
		_, err := e.home.Conn(t, tenancy.AppRole).Exec(t.Context(), `select mcpsaas_app.enter($1, $2, true, false)`, id.String(), epoch)
		pg, ok := err.(*pgconn.PgError)
		require.True(t, ok, "epoch %d is let in", epoch)
		require.Equal(t, "TN001", pg.Code)
	}

	n, err := m.PurgeDue(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = m.Move(t.Context(), id, schemaPlace) // onto its own old copy
	require.NoError(t, err)
	now = now.Add(2 * time.Hour)
	n, err = m.PurgeDue(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Zero(t, e.rows(t, id, sharedPlace))
	require.Zero(t, e.rows(t, id, awayPlace))
	require.EqualValues(t, 31, e.rows(t, id, schemaPlace))

	_, err = m.Move(t.Context(), id, sharedPlace)
	require.NoError(t, err)
	require.NoError(t, m.Purge(t.Context(), id))
	require.Zero(t, e.rows(t, id, schemaPlace))
	require.EqualValues(t, 31, e.rows(t, id, sharedPlace))
	never := e.mover(t, &tenancy.MoverOptions{Keep: -1})
	_, err = never.Move(t.Context(), id, awayPlace)
	require.NoError(t, err)
	require.Zero(t, e.rows(t, id, sharedPlace))
}

// TestMoveKeepsCallsWaiting calls while the tenant is in neither of two
// databases: the call waits and is served by the new one. Mutation: with the lock
// let go when the source is closed, the call fails.
func TestMoveKeepsCallsWaiting(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 0, nil)
	c.away("away", devtest.DB(t, devtest.Template{Name: "empty"}))
	m := c.mover(t, &tenancy.MoverOptions{MaxPause: time.Minute})
	called := make(chan error, 1)
	atStep(m, "target filled", func() {
		go func() {
			_, err := c.db.Exec(as(t.Context(), c.id), `insert into events (owner, n) values (1, 1)`)
			called <- err
		}()
		require.Eventually(t, func() bool {
			return len(called) > 0 ||
				super[bool](t, c.home, `select exists (select from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database()))`)
		}, 30*time.Second, time.Millisecond)
	})
	_, err := m.Move(t.Context(), c.id, awayPlace)
	require.NoError(t, err)
	require.NoError(t, <-called)
	db, _ := c.estate.at(c.id)
	require.EqualValues(t, 1, super[int64](t, db, `select count(*) from events`))
}
