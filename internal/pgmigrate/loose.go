package pgmigrate

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A file that runs outside of a transaction can be cut short with a part of it
// done. What makes it safe to resume:
//
//   - One connection holds the schema's lock in a transaction that does nothing
//     else, and takes no snapshot that a concurrent build would wait for, while
//     a second one works. Both work through a transaction pooler, and the lock
//     is gone when the runner is.
//   - The row of the file counts the statements that are done, and says when
//     one was begun whose end nobody has recorded.
//   - Each statement begins with a comment that names its schema, so that one
//     that goes on in the server after its runner was killed is seen.
//   - A build that was cut short leaves an invalid index, which "if not exists"
//     would take for the index. It is dropped first.

// looseLock lets one such file run in a database at a time: each needs two
// connections, and two runners that have one each would wait for ever. The
// number is the ASCII of "mcploose".
const looseLock = 0x6d63706c6f6f7365

// secondConn is how long the second connection may take.
const secondConn = 30 * time.Second

const tryLockSQL = `select pg_try_advisory_xact_lock($1)`

// Only sessions of the same role show what they run.
const orphanSQL = `
select from pg_stat_activity
where datname = current_database() and state = 'active' and pid <> pg_backend_pid() and starts_with(query, $1)`

const startSQL = `
insert into mcpsaas.tenant_migrations as m (schema_name, version, name, checksum, tenant_id)
values ($1, $2, $3, $4, nullif($5, '')::uuid)
on conflict (schema_name, version) do update set
	name = excluded.name, checksum = excluded.checksum, tenant_id = excluded.tenant_id, attempted_at = clock_timestamp()
where m.applied_at is null`

const markSQL = `
update mcpsaas.tenant_migrations set statements = $3, running = true
where schema_name = $1 and version = $2`

// stepLoose applies a file outside of a transaction. It reports false without
// an error if somebody else has done so.
func (s Schema) stepLoose(ctx context.Context, files []File, f *File) (ran bool, err error) {
	holder, err := s.DB.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer holder.Release()
	held := holder.Conn().PgConn()
	defer func() { err = errors.Join(err, rollback(ctx, held)) }()
	rows, err := send(ctx, held,
		query{sql: beginSQL},
		query{tryLockSQL, []string{strconv.Itoa(looseLock)}})
	if err != nil {
		return false, err
	}
	if string(rows[1][0][0]) != "t" {
		return false, fmt.Errorf("%w: it runs a file outside of a transaction", ErrBusy)
	}
	rows, err = send(ctx, held,
		query{`select set_config($1, $2, true)`, s.settings()},
		query{lockSQL, []string{strconv.FormatInt(s.lock(), 10)}},
		query{readSchemaSQL, []string{s.Name}},
		query{orphanSQL, []string{s.tag()}})
	if err != nil {
		return false, err
	}
	records, err := parseRecords(rows[2])
	if err != nil {
		return false, err
	}
	todo, err := plan(records, files)
	if err != nil {
		return false, err
	}
	if len(todo) == 0 || todo[0].Version != f.Version {
		return false, nil
	}
	if len(rows[3]) > 0 {
		return false, fmt.Errorf("%w: a statement of an earlier run goes on in the server", ErrBusy)
	}
	// The last statement of the extended protocol keeps its snapshot until the
	// next one, and a build waits for whoever has an older one than its own.
	if _, err := held.Exec(ctx, `set local idle_in_transaction_session_timeout = 0`).ReadAll(); err != nil {
		return false, err
	}
	var before *record
	for _, r := range records {
		if r.version == f.Version {
			before = &r
		}
	}
	return true, s.runLoose(ctx, f, before)
}

// tag is what each statement begins with. Names don't stand in it, because
// they could end the comment.
func (s Schema) tag() string { return fmt.Sprintf("/* mcpsaas migration %016x ", uint64(s.lock())) }

// runLoose runs what is left of the file's statements. before is what earlier
// attempts left behind, nil if there were none.
func (s Schema) runLoose(ctx context.Context, f *File, before *record) error {
	wait, cancel := context.WithTimeout(ctx, secondConn)
	defer cancel()
	conn, err := s.DB.Acquire(wait)
	if err != nil {
		return fmt.Errorf("a file outside of a transaction needs a second connection: %w", err)
	}
	defer conn.Release()
	pg := conn.Conn().PgConn()

	var done int
	var unknown bool
	if before != nil {
		if before.checksum != f.Checksum && before.statements > 0 {
			return fmt.Errorf("%s was edited after %d of its statements had run: %w", f.Name, before.statements, ErrChanged)
		}
		done, unknown = before.statements, before.running && before.checksum == f.Checksum
	}
	began := time.Now()
	key := []string{s.Name, strconv.FormatInt(f.Version, 10)}
	row := append(key, f.Name, f.Checksum, s.Tenant)
	if _, err := send(ctx, pg, query{startSQL, row}); err != nil {
		return err
	}
	for i := done; i < len(f.statements); i++ {
		if before != nil && i == done {
			if err := s.dropInvalid(ctx, pg, f.statements[i]); err != nil {
				return err
			}
		}
		if _, err := send(ctx, pg, query{markSQL, append(key[:2:2], strconv.Itoa(i))}); err != nil {
			return err
		}
		sql := fmt.Sprintf("%s%d.%d */ %s", s.tag(), f.Version, i+1, named(f.statements[i], s.Name))
		_, err := pg.Exec(ctx, sql).ReadAll()
		if unknown && i == done && exists(err) {
			err = nil // the attempt that was cut short had come to its end
		}
		if err != nil {
			err = fmt.Errorf("statement %d: %w", i+1, err)
			if ctx.Err() == nil && !pg.IsClosed() { // else nobody knows how it ended
				err = errors.Join(err, s.fail(ctx, pg, f, err))
			}
			return err
		}
	}
	_, err = send(ctx, pg, query{insertSchemaSQL, append(row, milliseconds(time.Since(began)))})
	return err
}

// exists reports whether a statement failed because what it makes is there.
func exists(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "42P07" || pg.Code == "42710") // duplicate_table (an index, too), duplicate_object
}

var (
	buildIndex = regexp.MustCompile(`(?i)^create\s+(?:unique\s+)?index\s+concurrently\s`)
	indexName  = regexp.MustCompile(`(?i)^create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?("(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)\s+on\s`)
)

// checkLoose refuses a statement of which it could not be told afterwards in
// which schema it ran, or what it left.
func checkLoose(statement string) error {
	if !strings.Contains(statement, schemaVariable) {
		return fmt.Errorf(`a statement outside of a transaction has no search_path to go by: write the schema as %s, as in %s.orders`, schemaVariable, schemaVariable)
	}
	if buildIndex.MatchString(statement) && indexName.FindStringSubmatch(statement) == nil {
		return errors.New("an index that is built concurrently needs a name: by it a build that was cut short is found")
	}
	return nil
}

const invalidSQL = `
select from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and c.relkind = 'i' and not i.indisvalid`

// dropInvalid drops what an attempt of the statement left that was cut short.
func (s Schema) dropInvalid(ctx context.Context, pg *pgconn.PgConn, statement string) error {
	match := indexName.FindStringSubmatch(statement)
	if match == nil {
		return nil
	}
	name := strings.ToLower(match[1])
	if match[1][0] == '"' {
		name = strings.ReplaceAll(match[1][1:len(match[1])-1], `""`, `"`)
	}
	rows, err := send(ctx, pg, query{invalidSQL, []string{s.Name, name}})
	if err != nil || len(rows[0]) == 0 {
		return err
	}
	if _, err := pg.Exec(ctx, "drop index concurrently if exists "+pgx.Identifier{s.Name, name}.Sanitize()).ReadAll(); err != nil {
		return fmt.Errorf("drop the index that an earlier attempt left: %w", err)
	}
	return nil
}
