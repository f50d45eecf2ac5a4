package tenancy

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// rows calls done as soon as the rows are closed, however that happens, and
// reports its error as theirs.
type rows struct {
	pgx.Rows
	done   func() error
	closed bool
	err    error
}

func (r *rows) Close() {
	r.Rows.Close()
	if !r.closed {
		r.closed = true
		r.err = r.done()
	}
}

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
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *rows) Values() ([]any, error) {
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
