package tenancy

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// load reads the files and inserts the rows, in the owner's transaction.
func (l *loader) load(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, canonicalSQL); err != nil {
		return err
	}
	if err := l.checkEmpty(ctx, tx); err != nil {
		return err
	}
	var tables []dataTable
	byOID := make(map[uint32]loading, len(l.tables))
	for _, t := range l.tables {
		if err := l.read(ctx, tx, t); err != nil {
			return fmt.Errorf("table %s: %w", t.entry.Table, err)
		}
		tables = append(tables, t.dataTable)
		byOID[t.oid] = t
	}
	groups := deletionOrder(tables)
	slices.Reverse(groups)
	for _, group := range groups {
		var names, steps []string
		for i, t := range group {
			names = append(names, byOID[t.oid].entry.Table)
			steps = append(steps, fmt.Sprintf("i%d as (%s)", i, t.insertFrom("(select line from "+byOID[t.oid].stage+" where not known)", l.tenant)))
		}
		// One statement for tables that refer to each other: foreign keys are
		// checked when it ends.
		if _, err := tx.Exec(ctx, "with "+strings.Join(steps, ", ")+" select"); err != nil {
			return fmt.Errorf("table %s: %w", strings.Join(names, ", "), err)
		}
	}
	for _, t := range l.tables {
		if err := l.compare(ctx, tx, t); err != nil {
			return fmt.Errorf("table %s: %w", t.entry.Table, err)
		}
	}
	return l.raiseSequences(ctx, tx)
}

// checkEmpty fails if the tenant has rows, but for its settings, which go.
// Tables without tenant_id are looked at when the export's rows are known.
func (l *loader) checkEmpty(ctx context.Context, tx pgx.Tx) error {
	var full []string
	for _, t := range l.tables {
		if !t.tenants {
			continue
		}
		if t.entry.Table == "public.tenant_config" {
			if _, err := tx.Exec(ctx, "delete from "+t.from()+" where tenant_id = $1", l.tenant); err != nil {
				return err
			}
			continue
		}
		var some bool
		if err := tx.QueryRow(ctx, fmt.Sprintf(`select exists (select from %s where tenant_id = $1)`, t.from()), l.tenant).Scan(&some); err != nil {
			return err
		}
		if some {
			full = append(full, t.entry.Table)
		}
	}
	if len(full) > 0 {
		return fmt.Errorf("%w in %s", ErrNotEmpty, strings.Join(full, ", "))
	}
	return nil
}

// read takes the lines of one file into a table that is gone when the
// transaction ends, and refuses them if they aren't what was written, or are
// another tenant's. Rows can't be copied into a table with policies.
func (l *loader) read(ctx context.Context, tx pgx.Tx, t loading) error {
	f, err := l.files.Open(t.entry.File)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := tx.Exec(ctx, "create temporary table "+strings.TrimPrefix(t.stage, "pg_temp.")+" (line text, known boolean not null default false) on commit drop"); err != nil {
		return err
	}
	sum := newTally()
	// One byte more tells that there is more.
	lines := io.TeeReader(io.LimitReader(f, t.entry.Bytes+1), sum)
	tag, copyErr := tx.Conn().PgConn().CopyFrom(ctx, lines, "copy "+t.stage+" (line) from stdin"+rawCSV)
	if copyErr != nil && ctx.Err() == nil {
		// That it can't be read may be for its being corrupt.
		if _, err := io.Copy(io.Discard, lines); err != nil {
			return err
		}
	}
	if ctx.Err() == nil && (sum.bytes != t.entry.Bytes || sum.digest() != t.entry.SHA256) {
		return fmt.Errorf("%s: %w", t.entry.File, ErrCorrupt)
	}
	if copyErr != nil {
		return copyErr
	}
	if tag.RowsAffected() != t.entry.Rows {
		return fmt.Errorf("%s: %w: it has %d rows, the manifest %d", t.entry.File, ErrCorrupt, tag.RowsAffected(), t.entry.Rows)
	}
	if !t.tenants {
		return l.skipKnown(ctx, tx, t)
	}
	var foreign int64
	err = tx.QueryRow(ctx, fmt.Sprintf(`select count(*) from %s s cross join lateral json_to_record(s.line::json) x (tenant_id text)
		where x.tenant_id::uuid is distinct from $1`, t.stage), l.from).Scan(&foreign)
	if err == nil && foreign > 0 {
		err = fmt.Errorf("%w: %d of them", ErrForeignRows, foreign)
	}
	return err
}

// skipKnown leaves out the rows that a migration has put into the tenant's table
// before. A row there that the export hasn't is refused.
func (l *loader) skipKnown(ctx context.Context, tx pgx.Tx, t loading) error {
	own := t.lines(l.tenant, l.tenant)
	var more bool
	err := tx.QueryRow(ctx, fmt.Sprintf(`select exists (select line from (%s) l except all select line from %s)`, own, t.stage)).Scan(&more)
	if err == nil && more {
		err = ErrNotEmpty
	}
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, fmt.Sprintf(`with own as (
			select line, row_number() over (partition by line) as n from (%s) l
		), staged as (select ctid as at, line, row_number() over (partition by line) as n from %[2]s)
		update %[2]s s set known = true from staged, own
		where s.ctid = staged.at and staged.line = own.line and staged.n = own.n`, own, t.stage))
	return err
}

// compare has the database say what the table holds now. A trigger may have
// changed it, or a column be too short for it.
func (l *loader) compare(ctx context.Context, tx pgx.Tx, t loading) error {
	const sumSQL = `select count(*), coalesce(sum(hashtextextended(line, 0)::numeric), 0)::text from (%s) l`
	var rows int64
	var is, want string
	if err := tx.QueryRow(ctx, fmt.Sprintf(sumSQL, t.lines(l.tenant, l.from))).Scan(&rows, &is); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, fmt.Sprintf(sumSQL, "select line from "+t.stage)).Scan(nil, &want); err != nil {
		return err
	}
	switch {
	case rows != t.entry.Rows:
		return fmt.Errorf("it has %d rows after the import, the export %d: a trigger or somebody else is at work", rows, t.entry.Rows)
	case is != want:
		return fmt.Errorf("%w: its rows are not those of the export after the import: a trigger changes them, or they are no rows of such a table", ErrIncompatible)
	}
	return nil
}

// raiseSequences has the sequences go on after the numbers that were imported.
// It isn't undone by a rollback, and does no harm then.
func (l *loader) raiseSequences(ctx context.Context, tx pgx.Tx) error {
	const raiseSQL = `
select setval($1::regclass, v.last) from (%s) v (last), (select last_value, is_called from %s) s
where v.last > s.last_value or v.last = s.last_value and not s.is_called`
	raise := func(id pgx.Identifier, last string, args ...any) error {
		_, err := tx.Exec(ctx, fmt.Sprintf(raiseSQL, last, id.Sanitize()), append([]any{id.Sanitize()}, args...)...)
		if err != nil {
			return fmt.Errorf("sequence %s: %w", strings.Join(id, "."), err)
		}
		return nil
	}
	for _, t := range l.tables {
		for _, s := range t.sequences {
			last := fmt.Sprintf(`select max(%s)::bigint from %s t%s`, pgx.Identifier{s.column}.Sanitize(), t.from(), t.of(l.tenant))
			if err := raise(s.id, last); err != nil {
				return err
			}
		}
	}
	if l.at.Tier != TierSchema {
		return nil // the sequences are everybody's
	}
	for _, s := range l.manifest.Sequences {
		name, _ := strings.CutPrefix(s.Sequence, "public.")
		var exists bool
		if err := tx.QueryRow(ctx, `select to_regclass($1) is not null`, pgx.Identifier{l.schema, name}.Sanitize()).Scan(&exists); err != nil {
			return err
		}
		if exists {
			if err := raise(pgx.Identifier{l.schema, name}, `select $2::bigint`, s.Last); err != nil {
				return err
			}
		}
	}
	return nil
}
