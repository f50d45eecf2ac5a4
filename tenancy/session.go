package tenancy

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// keptStatements is how many of the callers' statements stay prepared on a
// connection, as many as the driver itself would keep.
const keptStatements = 512

// session is what is known of a connection.
type session struct {
	// pooler is set for one that leads to a pooler, which may hand each
	// transaction to another server process.
	pooler bool

	// path is the search_path to set behind a pooler, for another of its clients
	// may have set one for the session.
	path string

	// named is set if statements stay prepared by a name, ours by their text in
	// ours and the callers' in kept.
	named bool
	ours  map[string]*pgconn.StatementDescription
	kept  lru[described]
	uses  map[described]int // in schemas
	count int               // of names so far

	// Names to be dropped with the next one that is prepared. What is stale may
	// be about to be sent once more.
	stale, retired []string
}

const sessionKey = "mcpsaas.session"

// prepared returns the statements of ours that a connection prepares when it is
// opened. Others are rare.
func (db *DB) prepared() []string {
	var always setting
	if db.signer != nil {
		always = setToken
	}
	return []string{
		enterTexts[always], enterTexts[always|setLimits], enterTexts[always|setPath|setRole], enterTexts[always|setLimits|setPath|setRole],
		leaveSQL, beginSQL, commitSQL,
	}
}

const (
	beginSQL  = "begin"
	commitSQL = "commit"
)

// session returns what is known of a connection. On its first use that takes a
// round trip or two.
func (db *DB) session(ctx context.Context, conn *pgx.Conn) (*session, error) {
	custom := conn.PgConn().CustomData()
	if s, ok := custom[sessionKey].(*session); ok {
		return s, nil
	}
	s := &session{}
	var err error
	if s.pooler, err = behindPooler(ctx, conn.PgConn()); err != nil {
		return nil, err
	}
	if s.pooler {
		if s.path, err = defaultPath(ctx, conn.PgConn()); err != nil {
			return nil, err
		}
	} else if db.mode == pgx.QueryExecModeCacheStatement {
		if err := s.prepare(ctx, conn.PgConn(), db.prepared()); err != nil {
			return nil, err
		}
	}
	custom[sessionKey] = s
	return s, nil
}

// prepare has the server keep our own statements, by a name: an unnamed one
// would be parsed again each time.
func (s *session) prepare(ctx context.Context, conn *pgconn.PgConn, texts []string) error {
	s.named = true
	s.kept.bound = keptStatements
	s.ours = make(map[string]*pgconn.StatementDescription, len(texts))
	pipeline := conn.StartPipeline(ctx)
	for i, sql := range texts {
		pipeline.SendPrepare(fmt.Sprintf("mcpsaas_own_%d", i), sql, nil)
	}
	if err := pipeline.Sync(); err != nil {
		return err
	}
	for i, sql := range texts {
		description, err := descriptionFrom(pipeline)
		if err != nil {
			pipeline.Close()
			return unfit(err)
		}
		description.Name, description.SQL = fmt.Sprintf("mcpsaas_own_%d", i), sql
		s.ours[sql] = description
	}
	return pipeline.Close()
}

// own returns a statement of ours, whose arguments are text.
func (s *session) own(sql string, values ...[]byte) statement {
	return statement{sql: sql, description: s.ours[sql], values: values}
}

// hotUses is how often a connection meets a statement in the same schema before it
// keeps it prepared: tenants come back to few connections, or there are few of
// them. coldUses is how many statements it counts that for.
const (
	hotUses  = 8
	coldUses = 4096
)

// hot reports whether a statement is to stay prepared by a name. In the shared
// tables each is. In the schemas of a thousand tenants the server would keep a
// thousand of it on each connection: there it is one that has been met often, as
// long as there is room, so that none is prepared time and again.
func (s *session) hot(key described) bool {
	if key.schema == "" {
		return true
	}
	if _, ok := s.kept.get(key); ok {
		return true
	}
	if s.kept.order.Len() >= s.kept.bound {
		return false
	}
	if len(s.uses) == coldUses {
		clear(s.uses)
	}
	if s.uses == nil {
		s.uses = make(map[described]int)
	}
	s.uses[key]++
	return s.uses[key] > hotUses
}

// nextName returns a name that the connection has no statement by yet.
func (s *session) nextName() string {
	s.count++
	return fmt.Sprintf("mcpsaas_%d", s.count)
}

// keep notes a statement that is prepared by a name. Another may have to go.
func (s *session) keep(key described, description *pgconn.StatementDescription) {
	if dropped := s.kept.put(key, description); dropped != nil {
		s.stale = append(s.stale, dropped.Name)
	}
}

// descriptionFrom reads the answer to one SendPrepare.
func descriptionFrom(pipeline *pgconn.Pipeline) (*pgconn.StatementDescription, error) {
	result, err := pipeline.GetResults()
	if err != nil {
		return nil, err
	}
	description, ok := result.(*pgconn.StatementDescription)
	if !ok {
		return nil, fmt.Errorf("tenancy: a statement was answered by %T instead of its description", result)
	}
	return description, nil
}
