package tenancy

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SendBatch sends b, and with the first statement the transaction begins.
func (t *lazyTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := t.ready(); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	// Only a batch that begins a transaction has one to show.
	if pgx.FailedBatchResults(b, pgx.ErrTxClosed).Tx() != nil {
		return pgx.FailedBatchResults(b, errors.New("tenancy: Batch.BeginTx can't be used within a transaction"))
	}
	requests := make([]request, len(b.QueuedQueries))
	for i, q := range b.QueuedQueries {
		requests[i] = request{sql: q.SQL, args: q.Arguments}
	}
	x, err := t.send(ctx, requests...)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return &batchResults{exchange: x, batch: b}
}

// batchResults are what the driver's own are for a batch that was sent by it.
type batchResults struct {
	*exchange
	batch  *pgx.Batch
	read   int // answers so far
	last   pgx.Rows
	err    error
	closed bool
}

var _ pgx.BatchResults = (*batchResults)(nil)

// answer returns the next answer. Rows that are open still are closed for it.
func (b *batchResults) answer() (*pgconn.ResultReader, error) {
	if b.last != nil {
		b.last.Close()
		if err := b.last.Err(); err != nil && b.err == nil {
			b.err = err
		}
		b.last = nil
	}
	switch {
	case b.err != nil:
		return nil, b.err
	case b.closed:
		return nil, errors.New("tenancy: the batch is closed")
	case b.read == len(b.batch.QueuedQueries):
		return nil, errors.New("tenancy: no more results in the batch")
	}
	b.read++
	var reader *pgconn.ResultReader
	reader, b.err = b.reader()
	return reader, b.err
}

// Exec reads the next answer.
func (b *batchResults) Exec() (pgconn.CommandTag, error) {
	reader, err := b.answer()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := reader.Close()
	if err != nil {
		b.err = err
		return pgconn.CommandTag{}, err
	}
	return tag, nil
}

// Query reads the next answer's rows.
func (b *batchResults) Query() (pgx.Rows, error) {
	reader, err := b.answer()
	if err != nil {
		return failed(err), err
	}
	conn := b.tx.conn()
	rows := &rows{Rows: pgx.RowsFromResultReader(conn.TypeMap(), reader), conn: conn, done: func() error { return nil }}
	b.last = rows
	return rows, nil
}

// QueryRow reads the next answer's first row.
func (b *batchResults) QueryRow() pgx.Row {
	rows, _ := b.Query()
	return row{rows}
}

// Close reads what is left, and calls the functions that wait for it. It is safe
// to call again, and returns the same then.
func (b *batchResults) Close() error {
	if b.closed {
		return b.err
	}
	for b.err == nil && b.read < len(b.batch.QueuedQueries) {
		fn := b.batch.QueuedQueries[b.read].Fn
		if fn == nil {
			b.Exec()
		} else if err := fn(b); err != nil && b.err == nil {
			b.err = err
		}
	}
	if b.last != nil {
		b.last.Close()
	}
	b.closed = true
	if err := b.exchange.close(); b.err == nil {
		b.err = err
	}
	if tampered := b.tx.guard(pgconn.CommandTag{}); tampered != nil {
		b.err = tampered
	}
	return b.err
}

// Tx returns nil: the batch began no transaction.
func (b *batchResults) Tx() pgx.Tx { return nil }
