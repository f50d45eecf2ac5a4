package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// request is a statement as the caller wrote it.
type request struct {
	sql  string
	args []any

	mode    pgx.QueryExecMode // zero for the handle's
	formats pgx.QueryResultFormats
	byOID   pgx.QueryResultFormatsByOID
	fresh   bool // what is known of it is wrong
}

// options takes the driver's options from the arguments.
func (q *request) options() error {
	for len(q.args) > 0 {
		switch arg := q.args[0].(type) {
		case pgx.QueryExecMode:
			if arg == pgx.QueryExecModeSimpleProtocol {
				return errors.New("tenancy: the simple protocol would let one string carry several statements")
			}
			q.mode = arg
		case pgx.QueryResultFormats:
			q.formats = arg
		case pgx.QueryResultFormatsByOID:
			q.byOID = arg
		default:
			return nil
		}
		q.args = q.args[1:]
	}
	return nil
}

// statement is one that is fit to travel in a batch behind statements of ours:
// its arguments are encoded.
//
// The driver could prepare and encode as it sends the batch. But then an
// argument that can't be encoded, such as a number too large for its column,
// costs the connection, because part of the batch is on its way already; and
// an error of the server costs the statement, and a round trip to drop it.
type statement struct {
	sql         string
	description *pgconn.StatementDescription // nil: the server is to guess the types
	cached      bool                         // the description is not of this moment
	keep        bool                         // it is to stay prepared on the connection

	values                   [][]byte
	paramFormats, rowFormats []int16
}

// queue appends the statement to a batch.
func (s *statement) queue(batch *pgconn.Batch) {
	switch d := s.description; {
	case d == nil:
		batch.ExecParams(s.sql, s.values, nil, s.paramFormats, s.rowFormats)
	case d.Name == "":
		batch.ExecParams(s.sql, s.values, d.ParamOIDs, s.paramFormats, s.rowFormats)
	default:
		batch.ExecStatement(d, s.values, s.paramFormats, s.rowFormats)
	}
}

// described is what a description of a statement holds for: the same text is another
// statement in another schema, and types have other numbers in another database.
type described struct{ database, schema, sql string }

// keptDescriptions is how many descriptions are kept, of a kilobyte or so each:
// of 500 schemas with 32 statements.
const keptDescriptions = 16_384

// descriptions are those of statements that aren't prepared by a name.
type descriptions struct {
	mu   sync.Mutex
	kept lru[described]
}

func (d *descriptions) get(key described) (*pgconn.StatementDescription, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept.get(key)
}

func (d *descriptions) put(key described, description *pgconn.StatementDescription) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept.put(key, description)
}

func (d *descriptions) drop(key described) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept.drop(key)
}

// fit makes the callers' statements fit to be sent. begun says that the
// connection is in a transaction of the tenant's already. An error of the
// statements' own is returned as it is.
//
// On a direct connection to the shared tables a statement stays prepared by a
// name. In a schema it does so only where it is hot; behind a pooler never, for
// that hands the next transaction to another server process. Otherwise a statement
// is described once, in a round trip of its own, and parsed each time with the
// types that it was found to have, so that its arguments are encoded as everywhere
// else.
func (db *DB) fit(ctx context.Context, conn *pgx.Conn, s *session, r route, begun bool, requests []request) ([]statement, error) {
	fitted := make([]statement, len(requests))
	var unknown []int
	s.retired, s.stale = append(s.retired, s.stale...), nil
	for i := range requests {
		q, st := &requests[i], &fitted[i]
		if len(q.args) > 0 {
			if rewriter, ok := q.args[0].(pgx.QueryRewriter); ok {
				var err error
				if q.sql, q.args, err = rewriter.RewriteQuery(ctx, conn, q.sql, q.args[1:]); err != nil {
					return nil, fmt.Errorf("rewrite query failed: %w", err)
				}
			}
		}
		st.sql = q.sql
		if q.fresh {
			db.forget(s, r, q.sql)
		}
		mode := q.mode
		if mode == 0 {
			mode = db.mode
		}
		key := described{r.database, r.schema, q.sql}
		switch {
		case mode == pgx.QueryExecModeExec:
			continue
		case mode == pgx.QueryExecModeCacheStatement && s.named && s.hot(key):
			st.keep = true
			st.description, st.cached = s.kept.get(key)
		case mode != pgx.QueryExecModeDescribeExec:
			st.description, st.cached = db.described.get(key)
		}
		if st.description == nil {
			unknown = append(unknown, i)
		}
	}
	if len(unknown) > 0 {
		if err := db.describe(ctx, conn, s, r, begun, fitted, unknown); err != nil {
			return nil, err
		}
	}
	for i := range fitted {
		if err := fitted[i].encode(conn, &requests[i]); err != nil {
			return nil, err
		}
	}
	return fitted, nil
}

func (s *statement) encode(conn *pgx.Conn, q *request) error {
	if s.description != nil && len(s.description.ParamOIDs) != len(q.args) {
		return fmt.Errorf("expected %d arguments, got %d", len(s.description.ParamOIDs), len(q.args))
	}
	var builder pgx.ExtendedQueryBuilder
	if err := builder.Build(conn.TypeMap(), s.description, q.args); err != nil {
		return err
	}
	s.values, s.paramFormats, s.rowFormats = builder.ParamValues, builder.ParamFormats, builder.ResultFormats
	switch {
	case q.byOID != nil && s.description != nil:
		s.rowFormats = make([]int16, len(s.description.Fields))
		for i, field := range s.description.Fields {
			s.rowFormats[i] = q.byOID[field.DataTypeOID]
		}
	case q.formats != nil:
		s.rowFormats = q.formats
	}
	return nil
}

// describe asks the server for the types of some of the statements, as the
// tenant, and has it keep those that are to be kept.
func (db *DB) describe(ctx context.Context, conn *pgx.Conn, s *session, r route, begun bool, fitted []statement, unknown []int) error {
	pipeline := conn.PgConn().StartPipeline(ctx)
	for _, name := range s.retired {
		pipeline.SendDeallocate(name)
	}
	if !begun {
		enter := s.enter(db, r)
		if enter.description != nil {
			pipeline.SendQueryStatement(enter.description, enter.values, nil, nil)
		} else {
			pipeline.SendQueryParams(enter.sql, enter.values, nil, nil, nil)
		}
	}
	names := make([]string, len(unknown))
	for n, i := range unknown {
		if fitted[i].keep {
			names[n] = s.nextName()
		}
		pipeline.SendPrepare(names[n], fitted[i].sql, nil)
	}
	if err := pipeline.Sync(); err != nil {
		return err
	}
	for range s.retired {
		if _, err := pipeline.GetResults(); err != nil {
			pipeline.Close()
			return err
		}
	}
	s.retired = nil
	if !begun {
		if err := entered(pipeline); err != nil {
			pipeline.Close()
			return db.entering(conn, s, r, err)
		}
	}
	for n, i := range unknown {
		description, err := descriptionFrom(pipeline)
		if err != nil {
			pipeline.Close()
			return err
		}
		description.Name, description.SQL = names[n], fitted[i].sql
		fitted[i].description = description
		key := described{r.database, r.schema, description.SQL}
		if fitted[i].keep {
			s.keep(key, description)
		} else {
			db.described.put(key, description)
		}
	}
	return pipeline.Close()
}

func entered(pipeline *pgconn.Pipeline) error {
	result, err := pipeline.GetResults()
	if err != nil {
		return err
	}
	reader, ok := result.(*pgconn.ResultReader)
	if !ok {
		return fmt.Errorf("tenancy: the context was answered by %T instead of its result", result)
	}
	_, err = reader.Close()
	return err
}

// failed looks at an error of a statement, and forgets what was known of it if
// the cause may be that a table has changed since. What a tenant can bring about
// at will, such as a violated constraint or policy, is not among them. It
// reports whether the statement may do better when it is described anew.
func (db *DB) failed(s *session, r route, st *statement, err error) bool {
	if st.description == nil {
		return false
	}
	code := sqlState(err)
	changed := code == "0A000" || code == "08P01" // feature_not_supported, protocol_violation
	if !changed && !(strings.HasPrefix(code, "42") && code != stateDenied) {
		return false
	}
	db.forget(s, r, st.sql)
	return changed && st.cached
}

func (db *DB) forget(s *session, r route, sql string) {
	key := described{r.database, r.schema, sql}
	db.described.drop(key)
	if d := s.kept.drop(key); d != nil {
		s.stale = append(s.stale, d.Name)
	}
}
