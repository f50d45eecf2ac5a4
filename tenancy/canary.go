package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// CanaryError says what a canary found. Its text names no tenant but the one
// that was asked for, and no row's content.
type CanaryError struct {
	Class CanaryClass
}

// CanaryClass is what went wrong.
type CanaryClass string

// The classes, the worst first.
const (
	CanaryOpen     CanaryClass = "open_without_context" // rows are visible although no tenant is set
	CanarySentinel CanaryClass = "sentinel_visible"     // the row that no tenant may see is visible
	CanaryForeign  CanaryClass = "foreign_rows"         // rows of other tenants are visible
	CanaryInactive CanaryClass = "policies_inactive"    // row level security is not active for the role
	CanaryBlind    CanaryClass = "own_row_missing"      // the tenant's own marker is not visible, or was never written
	CanaryUnarmed  CanaryClass = "sentinel_missing"     // there is no sentinel row, so that not seeing it proves nothing
)

// Error implements error.
func (e *CanaryError) Error() string { return "tenancy: canary: " + string(e.Class) }

// A canary must not filter: a WHERE clause would hide what the policies let
// through. The limits keep it cheap where they let everything through.
const (
	countSQL = `select count(*) from (select from public.tenant_marker limit 3) m`

	insideSQL = `
select row_security_active('{marker}')::int, count(*), count(*) filter (where tenant_id = $1::uuid),
	exists (select from {marker} where tenant_id = $2::uuid)::int
from (select tenant_id from {marker} limit 3) m`

	// setSQL sets a context over another one, which no statement of a tenant goes
	// by; setBothSQL sets its token, too.
	setSQL     = `select set_config('` + Setting + `', $1, true)`
	setBothSQL = `select set_config('` + Setting + `', $1, true), set_config('` + tokenSetting + `', $2, true)`

	// reachSQL counts the rows of a table that should be out of reach, with what
	// context there is and with the sentinel's. Being refused is what it hopes for.
	reachSQL = `do $$
declare
	seen pg_catalog.int8 := 0;
	n pg_catalog.int8;
	own pg_catalog.text := pg_catalog.current_setting('` + Setting + `', true);
	own_token pg_catalog.text := pg_catalog.current_setting('` + tokenSetting + `', true);
begin
	begin
		select pg_catalog.count(*) into n from (select from {table} limit 3) m;
		seen := n;
	exception when insufficient_privilege then null;
	end;
	perform pg_catalog.set_config('` + Setting + `', '{sentinel}', true), pg_catalog.set_config('` + tokenSetting + `', '{token}', true);
	begin
		select pg_catalog.count(*) into n from (select from {table} limit 3) m;
		seen := seen operator(pg_catalog.+) n;
	exception when insufficient_privilege then null;
	end;
	perform pg_catalog.set_config('` + Setting + `', coalesce(own, ''), true), pg_catalog.set_config('` + tokenSetting + `', coalesce(own_token, ''), true);
	perform pg_catalog.set_config('mcpsaas.reach', seen::pg_catalog.text, true);
end $$`

	reachedSQL = `select current_setting('mcpsaas.reach')`
)

// Canary proves, in one round trip as the application's role, that the tenant
// sees its own marker and nothing else: not the sentinel's, and without a
// context none at all. If the tenant has a schema of its own, the shared tables
// are out of its reach whatever the context, and so is its schema without its
// role. It returns a [*CanaryError] for what it finds, and any other error when
// it could find out nothing. It is what package health runs for one tenant.
func (db *DB) Canary(ctx context.Context, tenantID string) error {
	id, err := tenant.ParseID(tenantID)
	if err != nil {
		return fmt.Errorf("tenancy: canary: %w", err)
	}
	ctx = tenant.NewContext(ctx, tenant.Tenant{ID: id})
	r, err := db.find(ctx, route{})
	for err == nil {
		if err = db.canary(ctx, r); err == nil {
			return nil
		}
		r, err = db.instead(ctx, r, err)
	}
	if found, ok := errors.AsType[*CanaryError](err); ok {
		return found
	}
	return fmt.Errorf("tenancy: canary: %w", err)
}

// canary is Canary by one route.
func (db *DB) canary(ctx context.Context, r route) error {
	l, s, err := db.acquire(ctx, r)
	if err != nil {
		return err
	}
	defer l.Release()
	const shared = "public.tenant_marker"
	marker, id, sentinel, token := shared, []byte(r.id), []byte(Sentinel.String()), []byte{}
	if db.signer != nil {
		token = []byte(db.signer.token(Sentinel))
	}
	// Seeing no sentinel means something only if there is one to see.
	before := []statement{{sql: countSQL}, {sql: setBothSQL, values: [][]byte{sentinel, token}}, {sql: countSQL}, {sql: setBothSQL, values: [][]byte{{}, {}}}}
	var after []statement
	if r.schema != "" {
		marker = "tenant_marker" // as the tenant's statements name it
		before = append(before, reach(pgx.Identifier{r.schema, marker}.Sanitize(), token)...)
		after = reach(shared, token)
	}
	inside := statement{sql: strings.ReplaceAll(insideSQL, "{marker}", marker), values: [][]byte{id, sentinel}}

	var batch pgconn.Batch
	steps := slices.Concat(before, []statement{s.enter(db, r), inside}, after)
	for i := range steps {
		steps[i].queue(&batch)
	}
	conn := l.Conn()
	results := conn.PgConn().ExecBatch(ctx, &batch)
	numbers := make([][]int, len(steps))
	for i := range steps {
		if numbers[i], err = numbersOf(results); err != nil {
			results.Close()
			if i == len(before) {
				return db.entering(conn, s, r, err)
			}
			return err
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	outside, sentinels, in := numbers[0][0], numbers[2][0], numbers[len(before)+1]
	active, visible, mine, foreign := in[0], in[1], in[2], in[3]
	if r.schema != "" {
		outside += numbers[len(before)-1][0]
		foreign += numbers[len(steps)-1][0]
	}
	switch {
	case outside > 0:
		return &CanaryError{CanaryOpen}
	case foreign > 0:
		return &CanaryError{CanarySentinel}
	case visible > mine:
		return &CanaryError{CanaryForeign}
	case active == 0:
		return &CanaryError{CanaryInactive}
	case mine != 1:
		return &CanaryError{CanaryBlind}
	case sentinels != 1:
		return &CanaryError{CanaryUnarmed}
	}
	return nil
}

// reach returns the statements that count what can be seen of a table that should
// be out of reach.
func reach(table string, token []byte) []statement {
	sql := strings.NewReplacer("{table}", table, "{sentinel}", Sentinel.String(), "{token}", string(token)).Replace(reachSQL)
	return []statement{{sql: sql}, {sql: reachedSQL}}
}

// numbersOf reads the next answer of a batch: one row of numbers, or none.
// What is no number is zero.
func numbersOf(results *pgconn.MultiResultReader) ([]int, error) {
	if !results.NextResult() {
		return nil, cmp.Or(results.Close(), errNoAnswer)
	}
	answer := results.ResultReader().Read()
	numbers := make([]int, len(answer.FieldDescriptions))
	for _, row := range answer.Rows {
		for i, value := range row {
			numbers[i], _ = strconv.Atoi(string(value))
		}
	}
	return numbers, answer.Err
}

// markerSQL finds the table as the tenant's own statements would.
const markerSQL = `
select count(*), coalesce(min(marker::text) filter (where tenant_id = $1), '')
from (select tenant_id, marker from tenant_marker limit 100) m`

// Marker returns the marker of the tenant in ctx, and how many markers it can
// see at all, which must be one (counted to a hundred at most). It is for a tool
// by which a probe from outside asks what [DB.Canary] asks from inside.
func (db *DB) Marker(ctx context.Context) (marker string, visible int, err error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return "", 0, tenant.ErrNone
	}
	if err := db.QueryRow(ctx, markerSQL, t.ID).Scan(&visible, &marker); err != nil {
		return "", 0, fmt.Errorf("tenancy: marker: %w", err)
	}
	if marker == "" {
		return "", visible, &CanaryError{CanaryBlind}
	}
	return marker, visible, nil
}
