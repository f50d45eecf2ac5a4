package pgmove

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// DB lends connections to one database, whose role is the owner of the tables
// or may become it with "set role none".
type DB interface {
	// Lend returns a connection and a function that gives it back.
	Lend(ctx context.Context) (*pgx.Conn, func(), error)

	// Close closes what was lent and is back. More may be lent after it.
	Close()
}

// Place is where a tenant's rows are, or shall be.
type Place struct {
	DB     DB
	Schema string

	// Own says that the schema is the tenant's alone. In another, the tenant's
	// rows are those with its tenant_id.
	Own bool

	// Enter sets the context of the tenant for the transaction: the policies
	// bind the owner too.
	Enter func(ctx context.Context, tx pgx.Tx) error
}

// ErrLost means that another process has taken the move over.
var ErrLost = errors.New("another process has taken the move over")

// settingsSQL makes a transaction the owner's, and the text of values the same
// wherever it runs. It says to the triggers of the application's own that a
// row is only carried over. A delta is a few rows of large tables that were read
// a moment ago: to compile a plan, or to read a table for them, takes longer than
// all the rest.
const settingsSQL = `
select set_config('role', 'none', true),
	set_config('` + Moving + `', 'on', true),
	set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true),
	set_config('idle_in_transaction_session_timeout', '0', true),
	set_config('datestyle', 'ISO, MDY', true), set_config('intervalstyle', 'postgres', true),
	set_config('timezone', 'UTC', true), set_config('extra_float_digits', '1', true),
	set_config('bytea_output', 'hex', true), set_config('xmloption', 'content', true),
	set_config('lc_monetary', 'C', true), set_config('row_security', 'on', true),
	set_config('jit', 'off', true), set_config('random_page_cost', '1.1', true),
	set_config('enable_mergejoin', 'off', true)`

// Moving is the configuration parameter that is "on" in the transactions which
// write to the target.
const Moving = "mcpsaas.moving"

const holdSQL = `select true from mcpsaas.move_ends where tenant_id = $1 and owner = $2 for share`

// tx is a transaction at a place, on a connection of its own.
type tx struct {
	pgx.Tx
	release func()
}

// begin begins a transaction as the owner under the tenant's context.
func (m *Move) begin(ctx context.Context, p *Place, iso pgx.TxIsoLevel) (*tx, error) {
	t, err := open(ctx, p, iso)
	if err != nil {
		return nil, err
	}
	var held bool
	err = t.QueryRow(ctx, holdSQL, m.Tenant, m.Owner).Scan(&held)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrLost
	}
	if err != nil {
		t.end(ctx)
		return nil, err
	}
	return t, nil
}

// open begins a transaction as the owner, without a look at who is moving.
func open(ctx context.Context, p *Place, iso pgx.TxIsoLevel) (*tx, error) {
	conn, release, err := p.DB.Lend(ctx)
	if err != nil {
		return nil, err
	}
	inner, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: iso})
	if err != nil {
		release()
		return nil, err
	}
	t := &tx{Tx: inner, release: release}
	if _, err = t.Exec(ctx, settingsSQL); err == nil {
		err = p.Enter(ctx, t)
	}
	if err != nil {
		t.end(ctx)
		return nil, err
	}
	return t, nil
}

// commit ends the transaction well, and gives the connection back.
func (t *tx) commit(ctx context.Context) error {
	err := t.Commit(ctx)
	t.end(ctx)
	return err
}

// end rolls back what wasn't committed, and gives the connection back. The
// caller's context may be done: what it began must end all the same.
func (t *tx) end(ctx context.Context) {
	if t.release == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := t.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		t.Conn().Close(ctx)
	}
	t.release()
	t.release = nil
}

// within runs fn in a transaction at p.
func (m *Move) within(ctx context.Context, p *Place, iso pgx.TxIsoLevel, fn func(t *tx) error) error {
	t, err := m.begin(ctx, p, iso)
	if err != nil {
		return err
	}
	defer t.end(ctx)
	if err := fn(t); err != nil {
		return err
	}
	return t.commit(ctx)
}

// Done gives back what the move has borrowed. Another step borrows again.
func (m *Move) Done() {
	m.From.DB.Close()
	m.To.DB.Close()
}

func (p *Place) table(name string) string { return pgx.Identifier{p.Schema, name}.Sanitize() }

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal quotes a string constant.
func literal(s string) string {
	if strings.Contains(s, `\`) {
		return ` E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
	}
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}

func list[T any](items []T, f func(T) string) string {
	parts := make([]string, len(items))
	for i, item := range items {
		parts[i] = f(item)
	}
	return strings.Join(parts, ", ")
}

func lockTimeout(d time.Duration) string {
	return fmt.Sprintf("set local lock_timeout = '%dms'", max(1, d.Milliseconds()))
}
