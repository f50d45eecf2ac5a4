package tenancy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcpsaas/mcpsaas/internal/pgmove"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// moveRow is a row of mcpsaas.moves.
type moveRow struct {
	ID        int64
	Source    string
	Target    string
	Epoch     int64
	State     MoveState
	Rows      int64
	Changes   int64
	Pause     *time.Duration
	Error     string
	Created   time.Time
	Updated   time.Time
	KeepUntil *time.Time
}

// moveDB is a pool or a transaction.
type moveDB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

const (
	moveColumns = `id, source, target, epoch, state, rows, changes, pause, error, created_at, updated_at, keep_until`

	runningMoveSQL = `select ` + moveColumns + ` from mcpsaas.moves where tenant_id = $1 and state not in ('kept', 'purged', 'aborted')`
	lastMoveSQL    = `select ` + moveColumns + ` from mcpsaas.moves where tenant_id = $1 order by id desc limit 1`
	keptMovesSQL   = `select ` + moveColumns + ` from mcpsaas.moves where tenant_id = $1 and state = 'kept' order by id`
	dueMovesSQL    = `select distinct tenant_id from mcpsaas.moves where state = 'kept' and keep_until <= $1`

	insertMoveSQL = `
insert into mcpsaas.moves (tenant_id, source, target, epoch, state, owner)
values ($1, $2, $3, $4, 'planned', $5) returning ` + moveColumns

	claimMoveSQL = `update mcpsaas.moves set owner = $2, updated_at = clock_timestamp() where id = $1 returning state`

	// setMoveSQL changes only a move that is still its own and as it is taken
	// to be.
	setMoveSQL = `
update mcpsaas.moves set state = $4, rows = $5, changes = $6, pause = coalesce($7, pause), error = $8,
	switched_at = case when $4 = 'switched' then clock_timestamp() else switched_at end,
	keep_until = case when $4 = 'kept' then $9 else keep_until end, updated_at = clock_timestamp()
where id = $1 and owner = $2 and state = $3`

	// flipSQL is the only statement that changes where a tenant is.
	flipSQL = `
update mcpsaas.tenants set placement = $3, schema_name = $4, database_ref = $5, epoch = epoch + 1,
	version = version + 1, changed = pg_current_xact_id(), updated_at = now()
where id = $1 and epoch = $2`
)

func readMove(ctx context.Context, db moveDB, sql string, id tenant.ID) (*moveRow, error) {
	rows, err := db.Query(ctx, sql, id)
	if err != nil {
		return nil, err
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[moveRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNoMove
	}
	return row, err
}

// moving is a move that this process works on.
type moving struct {
	*Mover
	id     tenant.ID
	row    *moveRow
	from   place
	to     place
	engine *pgmove.Move
	start  time.Time
	total  int64
	owner  string
}

// token is nobody else's.
func token() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// set records a state, in a transaction of its own.
func (r *moving) set(ctx context.Context, state MoveState) error {
	return r.setIn(ctx, r.data.control, state)
}

// setIn records a state by db.
func (r *moving) setIn(ctx context.Context, db moveDB, state MoveState) error {
	keep := r.opts.Now().Add(max(0, r.opts.Keep))
	tag, err := db.Exec(ctx, setMoveSQL, r.row.ID, r.owner, r.row.State, state, r.row.Rows, r.row.Changes, r.row.Pause, r.row.Error, keep)
	switch {
	case err != nil:
		return err
	case tag.RowsAffected() == 0:
		return pgmove.ErrLost
	}
	if state == MoveKept {
		r.row.KeepUntil = &keep
	}
	r.row.State = state
	return nil
}

// flip changes the placement and the state of the move in one transaction,
// and has the replicas told.
func (r *moving) flip(ctx context.Context, tx pgx.Tx) error {
	tier, schema, database := r.to.at.columns(r.id)
	tag, err := tx.Exec(ctx, flipSQL, r.id, r.row.Epoch, tier, schema, database)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("the table of tenants has another epoch")
	}
	if err == nil {
		before := *r.row
		err = r.setIn(ctx, tx, MoveSwitched)
		r.row = &before // it isn't so before the commit
	}
	if err == nil {
		_, err = tx.Exec(ctx, notifySQL)
	}
	return err
}
