package pgmigrate

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// State is how far a schema is.
type State struct {
	Missing bool   // there is no such schema
	Version int64  // the newest that was applied; zero: none
	Pending int    // how many of the files were not applied as they are now
	Ahead   bool   // all files were applied, and newer ones that aren't among them
	Error   string // of the last attempt, if the next file has failed
}

// Current reports whether there is nothing to do.
func (s State) Current() bool { return !s.Missing && s.Pending == 0 && !s.Ahead }

// A schema that lacks one of the files, has one that was edited or one that is
// gone counts as pending: [Schema.Step] finds out which, under the lock.
const statesSQL = `
with wanted as (select * from unnest($2::bigint[], $3::text[]) as w (version, checksum))
select s.name, n.oid is null,
	coalesce(max(m.version) filter (where m.applied_at is not null), 0),
	cardinality($2::bigint[]) - count(*) filter (where m.applied_at is not null and m.checksum = w.checksum),
	count(*) filter (where m.applied_at is not null and w.version is null and m.version < $4),
	coalesce(max(m.version) filter (where m.applied_at is not null), 0) > $4,
	coalesce((array_agg(m.error order by m.version) filter (where m.applied_at is null))[1], '')
from unnest($1::text[]) as s (name)
left join pg_namespace n on n.nspname = s.name
left join mcpsaas.tenant_migrations m on m.schema_name = s.name
left join wanted w on w.version = m.version
group by 1, 2`

// States tells how far schemas of one database are, in one query whatever
// their number.
func States(ctx context.Context, db Acquirer, schemas []string, files []File) (map[string]State, error) {
	conn, err := db.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	versions, checksums := make([]int64, len(files)), make([]string, len(files))
	for i, f := range files {
		versions[i], checksums[i] = f.Version, f.Checksum
	}
	// In a mode that a transaction pooler can bear.
	rows, err := conn.Query(ctx, statesSQL, pgx.QueryExecModeExec, schemas, versions, checksums, files[len(files)-1].Version)
	if err != nil {
		return nil, ledgerMissing(err)
	}
	states := make(map[string]State, len(schemas))
	var name string
	var state State
	var gone int
	_, err = pgx.ForEachRow(rows, []any{&name, &state.Missing, &state.Version, &state.Pending, &gone, &state.Ahead, &state.Error}, func() error {
		state.Pending += gone
		state.Ahead = state.Ahead && state.Pending == 0
		states[name] = state
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the table of migrations: %w", ledgerMissing(err))
	}
	return states, nil
}
