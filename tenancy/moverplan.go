package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgmove"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// MovePlan is what a move would do, and what stands in its way.
type MovePlan struct {
	Tenant tenant.ID   `json:"tenant"`
	From   string      `json:"from"` // placements, as [ParsePlacement] reads them
	To     string      `json:"to"`
	Tables []MoveTable `json:"tables"`
	Rows   int64       `json:"rows"`  // of all tables
	Bytes  int64       `json:"bytes"` // of the rows, without indexes

	// Notes are what happens besides.
	Notes []string `json:"notes,omitempty"`

	// Problems are the reasons why the move is refused; none: it isn't.
	Problems []MoveProblem `json:"problems,omitempty"`
}

// MoveTable is a table that is carried over.
type MoveTable struct {
	Name  string `json:"name"`
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"`
}

// MoveProblem is a reason why a tenant can't be moved.
type MoveProblem struct {
	Table  string `json:"table,omitempty"` // empty: none in particular
	Reason string `json:"reason"`
}

// String is the problem for people.
func (p MoveProblem) String() string {
	if p.Table == "" {
		return p.Reason
	}
	return "table " + p.Table + ": " + p.Reason
}

func (p *MovePlan) refuse(format string, args ...any) {
	p.Problems = append(p.Problems, MoveProblem{Reason: fmt.Sprintf(format, args...)})
}

func (p *MovePlan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// Plan says what [Mover.Move] would do, and changes nothing. It counts the rows
// of the tenant, table by table.
//
// A place that doesn't exist yet can't be compared: the plan says that it will
// be made.
func (m *Mover) Plan(ctx context.Context, id tenant.ID, at Placement) (*MovePlan, error) {
	plan, err := m.plan(ctx, id, at)
	if err != nil {
		return nil, fmt.Errorf("tenancy: plan move: %w", redact(err))
	}
	return plan, nil
}

func (m *Mover) plan(ctx context.Context, id tenant.ID, at Placement) (*MovePlan, error) {
	to, err := m.data.placeAt(id, at)
	if err != nil {
		return nil, err
	}
	row, err := readMove(ctx, m.data.control, runningMoveSQL, id)
	if err == nil {
		plan := &MovePlan{Tenant: id, From: row.Source, To: to.at.String()}
		plan.refuse("a move to %s has begun, and is %s: end or abort it first", row.Target, row.State)
		return plan, nil
	}
	if !errors.Is(err, ErrNoMove) {
		return nil, err
	}
	var plan *MovePlan
	err = m.data.hold(ctx, id, holdShared, func(tx pgx.Tx, h home, from place) error {
		plan = &MovePlan{Tenant: id, From: from.at.String(), To: to.at.String()}
		plan.checkTenant(h)
		if from.at == to.at {
			plan.refuse("the tenant is there already")
		}
		if len(plan.Problems) > 0 {
			return nil
		}
		kept, err := keptCopies(ctx, tx, id)
		if err != nil {
			return err
		}
		old := slices.ContainsFunc(kept, func(p Placement) bool { return p.String() == plan.To })
		if old {
			plan.note("the copy that an earlier move has kept there is purged first")
		}
		exists, err := to.exists(ctx)
		switch {
		case sqlState(err) == "3D000": // invalid_catalog_name
			plan.note("the database doesn't exist yet")
			return m.measure(ctx, plan, m.ends(from, from, h.epoch))
		case err != nil:
			return err
		case !exists, old && at.Tier == TierSchema:
			plan.note("the place doesn't exist and is made first")
			return m.measure(ctx, plan, m.ends(from, from, h.epoch))
		}
		return m.fill(ctx, plan, from, to, h.epoch, old)
	})
	return plan, err
}

// checkTenant refuses a tenant that isn't one to be moved.
func (p *MovePlan) checkTenant(h home) {
	refused := []tenant.Status{tenant.Requested, tenant.Provisioning, tenant.Failed, tenant.Deprovisioning, tenant.DeprovisionFailed, tenant.Purging, tenant.Deleted}
	switch {
	case !h.known:
		p.refuse("there is no such tenant")
	case slices.Contains(refused, h.status):
		p.refuse("the tenant is %s", h.status)
	}
}

const placeExistsSQL = `select exists (select from pg_namespace where nspname = $1) and to_regclass('mcpsaas.move_ends') is not null`

// exists reports whether the place has been made.
func (p place) exists(ctx context.Context) (yes bool, err error) {
	conn, err := p.acquire(ctx, p.owner)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	err = conn.QueryRow(ctx, placeExistsSQL, p.schema).Scan(&yes)
	return yes, err
}

// fill compares the two places, which exist, and measures what there is to move.
// What an earlier move has left at the target goes, if it is old.
func (m *Mover) fill(ctx context.Context, plan *MovePlan, from, to place, epoch int64, old bool) error {
	if from.at.Database != to.at.Database {
		same, err := sameDatabase(ctx, from, to)
		if err != nil {
			return err
		}
		if same {
			plan.refuse("both places are the same database")
			return nil
		}
	}
	engine := m.ends(from, to, epoch)
	defer engine.Done()
	problems, err := engine.Prepare(ctx)
	if err != nil {
		return err
	}
	if err := m.compareFiles(ctx, plan, from, to); err != nil {
		return err
	}
	if !old {
		occupied, err := engine.Occupied(ctx)
		if err != nil {
			return err
		}
		problems = append(problems, occupied...)
	}
	for _, p := range problems {
		plan.Problems = append(plan.Problems, MoveProblem(p))
	}
	return m.size(ctx, plan, engine)
}

// measure reads what there is to move to a place that isn't there yet.
func (m *Mover) measure(ctx context.Context, plan *MovePlan, engine *pgmove.Move) error {
	defer engine.Done()
	if _, err := engine.Prepare(ctx); err != nil {
		return err
	}
	return m.size(ctx, plan, engine)
}

func (m *Mover) size(ctx context.Context, plan *MovePlan, engine *pgmove.Move) error {
	sizes, err := engine.Size(ctx)
	for _, s := range sizes {
		plan.Tables = append(plan.Tables, MoveTable(s))
		plan.Rows += s.Rows
		plan.Bytes += s.Bytes
	}
	return err
}

// sameDatabase finds out by a lock whether two references lead to one database.
func sameDatabase(ctx context.Context, a, b place) (same bool, err error) {
	err = a.asOwner(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, "move "+a.tenant.String()); err != nil {
			return err
		}
		return b.asOwner(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `select not pg_try_advisory_xact_lock(hashtextextended($1, 0))`, "move "+a.tenant.String()).Scan(&same)
		})
	})
	return same, err
}

const filesSQL = `
select coalesce(array_agg(version || ' ' || checksum order by version), '{}') from mcpsaas.tenant_migrations
where schema_name = $1 and applied_at is not null`

// compareFiles refuses places that have not got the same files of the
// application's, where both say which they have.
func (m *Mover) compareFiles(ctx context.Context, plan *MovePlan, from, to place) error {
	read := func(p place) (files []string, err error) {
		err = p.asOwner(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, filesSQL, p.schema).Scan(&files)
		})
		return files, err
	}
	a, err := read(from)
	if err != nil {
		return err
	}
	b, err := read(to)
	if err != nil || len(a) == 0 || len(b) == 0 || slices.Equal(a, b) {
		return err
	}
	plan.refuse("the places have not got the same migrations (%d at the source, %d at the target): migrate both first", len(a), len(b))
	return nil
}

// MoveStatus is the last move of a tenant.
type MoveStatus struct {
	Tenant  tenant.ID     `json:"tenant"`
	From    string        `json:"from"`
	To      string        `json:"to"`
	State   MoveState     `json:"state"`
	Rows    int64         `json:"rows"`
	Changes int64         `json:"changes"`
	Pause   time.Duration `json:"pause"`
	Error   string        `json:"error,omitempty"` // of the last attempt
	Begun   time.Time     `json:"begun"`
	Updated time.Time     `json:"updated"`
	Kept    []string      `json:"kept,omitempty"` // the places that have an old copy
}

// Status tells how the last move of the tenant stands. [ErrNoMove] means that
// there never was one.
func (m *Mover) Status(ctx context.Context, id tenant.ID) (*MoveStatus, error) {
	row, err := readMove(ctx, m.data.control, lastMoveSQL, id)
	if err != nil {
		return nil, fmt.Errorf("tenancy: move status: %w", redact(err))
	}
	s := &MoveStatus{Tenant: id, From: row.Source, To: row.Target, State: row.State, Rows: row.Rows, Changes: row.Changes,
		Error: row.Error, Begun: row.Created, Updated: row.Updated}
	if row.Pause != nil {
		s.Pause = *row.Pause
	}
	kept, err := m.keptRows(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("tenancy: move status: %w", redact(err))
	}
	for _, row := range kept {
		s.Kept = append(s.Kept, row.Source)
	}
	return s, nil
}
