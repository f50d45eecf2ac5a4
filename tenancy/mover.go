package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgmove"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Mover takes tenants from one place to another while they work: from the
// shared tables to a schema of their own, to a database on this server or
// another, and back. It is safe for concurrent use, and so are any number of
// them in any number of processes: a tenant is moved by one at a time.
//
// A move copies the rows as they are at one moment, carries over what the tenant
// writes meanwhile until it has caught up, compares all rows of both places, and
// then, while the tenant's transactions wait for a fraction of a second, carries
// over the rest and changes the placement. No write that was acknowledged is lost
// or done twice, at any isolation level, whenever a process dies.
//
// The old copy is kept for a while, where no statement of the tenant's reaches it.
//
// The tenant's writes are noted by triggers on the tables that it leaves, from
// the start of a move to its end; they cost other tenants one comparison per
// row. Two kinds of statement go past them or past the fence, and should not run on
// a tenant that is being moved: TRUNCATE, which tenants aren't granted, and writes
// of a role that row level security doesn't bind.
//
// # What can't be moved
//
// [Mover.Plan] says it, and nothing is copied: tables without a primary key, or
// with one that isn't of a plain type; a schema that differs between the places;
// tables of schema public that hold a tenant's rows and have no tenant_id to say
// so; references to tables that aren't the tenant's, unless those have the same
// rows at both places; foreign keys in a circle of which none is deferrable;
// columns of type oid, large objects among them; triggers at the target, unless they
// say "when (current_setting('mcpsaas.moving', true) is distinct from 'on')".
type Mover struct {
	data *Data
	opts MoverOptions
	step func(string) // of tests
}

// MoverOptions configure [NewMover]. The zero value is the default.
type MoverOptions struct {
	// Keep is how long the old copy is kept before [Mover.PurgeDue] takes it.
	// Negative: not at all.
	// Defaults to 7 days.
	Keep time.Duration

	// LockTimeout is how long a statement of the move may wait for a lock: those
	// who want the same then wait behind it.
	// Defaults to 100 ms.
	LockTimeout time.Duration

	// MaxPause is how long the tenant may be kept waiting at the switch. One that
	// would take longer is given up, and tried again after a pause.
	// Defaults to 1 s.
	MaxPause time.Duration

	// Progress is called whenever a move has made a step. The move waits for
	// it.
	// Defaults to none.
	Progress func(MoveProgress)

	// Logger gets a record when a move begins and one when it ends.
	// Defaults to none.
	Logger *slog.Logger

	// Now is the clock that Keep is measured by.
	// Defaults to [time.Now].
	Now func() time.Time
}

// MoveState is how far a move is.
type MoveState string

// The states, in their order. A move that was aborted left the tenant where it was.
const (
	MovePlanned   MoveState = "planned"   // nothing was done yet
	MoveCopying   MoveState = "copying"   // what the tenant writes is noted, and the rows are copied
	MoveCopied    MoveState = "copied"    // and what was written since is being carried over
	MoveCaughtUp  MoveState = "caught_up" // and all rows of both places were the same
	MoveSwitching MoveState = "switching" // the tenant is shut out, between two databases
	MoveSwitched  MoveState = "switched"  // the tenant is at its new place
	MoveKept      MoveState = "kept"      // and the old copy is out of reach
	MovePurged    MoveState = "purged"    // and gone
	MoveAborted   MoveState = "aborted"
)

// MoveProgress is how far a move is.
type MoveProgress struct {
	Tenant  tenant.ID
	State   MoveState
	Step    string // what was done last, for people
	Rows    int64  // copied
	Total   int64  // rows there were to copy when it began; zero if that isn't known
	Changes int64  // rows that were written meanwhile and carried over
	Elapsed time.Duration
}

// MoveResult is a move that has come to its end.
type MoveResult struct {
	Tenant   tenant.ID     `json:"tenant"`
	From     string        `json:"from"` // placements, as [ParsePlacement] reads them
	To       string        `json:"to"`
	Epoch    int64         `json:"epoch"`   // the tenant's, now
	Rows     int64         `json:"rows"`    // copied
	Changes  int64         `json:"changes"` // rows that were written meanwhile and carried over
	Pause    time.Duration `json:"pause"`   // how long the tenant's writers waited
	Took     time.Duration `json:"took"`    // this call
	Resumed  bool          `json:"resumed"` // another call had begun it
	KeepTill time.Time     `json:"keep_till"`
}

// Errors to branch on.
var (
	// ErrMoving means that another move of the tenant has begun, to another
	// place. It has to be ended or aborted first.
	ErrMoving = errors.New("tenancy: another move of the tenant has begun")

	// ErrMoveSwitched means that a move can't be aborted, because the tenant is at its
	// new place already: the way back is another move.
	ErrMoveSwitched = errors.New("tenancy: the tenant has been moved")

	// ErrNoMove means that there is no move of the tenant to speak of.
	ErrNoMove = errors.New("tenancy: the tenant is not being moved")

	// ErrMovePause means that the switch could not be made within
	// [MoverOptions.MaxPause], again and again. The tenant is where it was, and
	// another call goes on.
	ErrMovePause = errors.New("tenancy: the switch would keep the tenant waiting for too long")

	// ErrMoveDiffers means that the two places were not the same when they were
	// compared. The move was aborted; the error names the table.
	ErrMoveDiffers = errors.New("tenancy: the copy differs")
)

// MoveRefusedError says why a tenant can't be moved. Nothing was done.
type MoveRefusedError struct {
	Plan *MovePlan
}

// Error names the first reasons.
func (e *MoveRefusedError) Error() string {
	text := "tenancy: the tenant can't be moved"
	for i, reason := range e.Plan.Problems {
		if i == 3 {
			return text + fmt.Sprintf("; and %d more reasons", len(e.Plan.Problems)-i)
		}
		text += "; " + reason.String()
	}
	return text
}

// NewMover returns a mover of the tenants that data reaches. Its control pool
// must have three connections at least.
func NewMover(data *Data, opts *MoverOptions) (*Mover, error) {
	if data == nil {
		return nil, errors.New("tenancy: new mover: data is nil")
	}
	if opts == nil {
		opts = &MoverOptions{}
	}
	m := &Mover{data: data, opts: *opts}
	switch {
	case opts.LockTimeout < 0:
		return nil, errors.New("tenancy: new mover: MoverOptions.LockTimeout must not be negative")
	case opts.MaxPause < 0:
		return nil, errors.New("tenancy: new mover: MoverOptions.MaxPause must not be negative")
	}
	m.opts.Keep = orDefault(opts.Keep, 7*24*time.Hour)
	m.opts.LockTimeout = orDefault(opts.LockTimeout, 100*time.Millisecond)
	m.opts.MaxPause = orDefault(opts.MaxPause, time.Second)
	if m.opts.Logger == nil {
		m.opts.Logger = slog.New(slog.DiscardHandler)
	}
	if m.opts.Now == nil {
		m.opts.Now = time.Now
	}
	return m, nil
}

// ends returns the engine for a move between two places of the tenant.
func (m *Mover) ends(from, to place, epoch int64) *pgmove.Move {
	return &pgmove.Move{
		Tenant: from.tenant.String(), Epoch: epoch,
		From: from.moveEnd(), To: to.moveEnd(), Same: from.at.Database == to.at.Database,
		Own:         []string{"tenant_config", "tenant_marker"},
		LockTimeout: m.opts.LockTimeout,
	}
}

// moveEnd is the place as the engine reaches it.
func (p place) moveEnd() *pgmove.Place {
	return &pgmove.Place{
		DB: &lender{place: p}, Schema: p.schema, Own: p.at.Tier == TierSchema,
		Enter: func(ctx context.Context, tx pgx.Tx) error { return p.enter(ctx, tx) },
	}
}

// lender lends connections of the owner's, and keeps them until it is closed:
// to make one takes longer than what a switch does with it.
type lender struct {
	place

	mu   sync.Mutex
	idle []*pgxpool.Conn
}

// Lend implements [pgmove.DB].
func (l *lender) Lend(ctx context.Context) (*pgx.Conn, func(), error) {
	l.mu.Lock()
	if n := len(l.idle); n > 0 {
		conn := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		return conn.Conn(), func() { l.back(conn) }, nil
	}
	l.mu.Unlock()
	conn, err := l.acquire(ctx, l.owner)
	if err != nil {
		return nil, nil, err
	}
	return conn.Conn(), func() { l.back(conn) }, nil
}

func (l *lender) back(conn *pgxpool.Conn) {
	if conn.Conn().IsClosed() {
		conn.Release()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, conn)
}

// Close implements [pgmove.DB].
func (l *lender) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.idle {
		conn.Release()
	}
	l.idle = nil
}
