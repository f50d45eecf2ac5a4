package tenancy

import (
	"cmp"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// rows calls done as soon as the rows are closed, however that happens, and
// reports its error as theirs.
type rows struct {
	pgx.Rows
	conn   *pgx.Conn // nil in one shot
	done   func() error
	fields []pgconn.FieldDescription // once closed
	closed bool
	err    error
}

func (r *rows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	// They are the connection's, which has them overwritten by its next user.
	r.fields = slices.Clone(r.Rows.FieldDescriptions())
	r.Rows.Close()
	r.err = r.done()
}

func (r *rows) FieldDescriptions() []pgconn.FieldDescription {
	if r.closed {
		return r.fields
	}
	return r.Rows.FieldDescriptions()
}

// Conn returns the transaction's connection. A one-shot statement has none to
// show.
func (r *rows) Conn() *pgx.Conn { return r.conn }

func (r *rows) Err() error {
	// done's verdict first: it knows of tampering, and of what the statement's
	// own answer can't tell.
	if r.err != nil {
		return r.err
	}
	return r.Rows.Err()
}

func (r *rows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *rows) Scan(dest ...any) error {
	if r.closed {
		return cmp.Or(r.Err(), errClosed)
	}
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

var errClosed = errors.New("tenancy: the rows are closed")

func (r *rows) Values() ([]any, error) {
	if r.closed {
		return nil, cmp.Or(r.Err(), errClosed)
	}
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// row is the first row of its rows.
type row struct {
	rows pgx.Rows
}

func (r row) Scan(dest ...any) error {
	defer r.rows.Close() // a Scanner may panic
	if err := r.rows.Err(); err != nil {
		return err
	}
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// failed returns rows that have nothing but an error.
func failed(err error) pgx.Rows { return failedRows{err} }

type failedRows struct{ err error }

func (failedRows) Close()                                       {}
func (r failedRows) Err() error                                 { return r.err }
func (failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (failedRows) Next() bool                                   { return false }
func (r failedRows) Scan(...any) error                          { return r.err }
func (r failedRows) Values() ([]any, error)                     { return nil, r.err }
func (failedRows) RawValues() [][]byte                          { return nil }
func (failedRows) Conn() *pgx.Conn                              { return nil }
func (failedRows) TypeMap() *pgtype.Map                         { return nil }
