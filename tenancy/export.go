package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Export writes all that one tenant has, as of one moment: for each table put is
// called with a file name, and with a function that writes a line of JSON for
// each row and returns their number; last of all for [ManifestFile], which lists
// the others with their sizes and SHA-256. Nothing is held in memory but one
// row. put must call the function once; that tables stay locked against changes
// of their form meanwhile is the price of one moment.
//
// A line is an object whose members are the columns: of type boolean, smallint
// and integer as JSON has them, of any other a string in PostgreSQL's own
// notation, which loses nothing, or null. Computed columns are left out, and so is
// the tenant's marker, which belongs to the place and not to the tenant.
func (d *Data) Export(ctx context.Context, id tenant.ID, put func(name string, write func(io.Writer) (rows int64, err error)) error) error {
	err := d.hold(ctx, id, holdShared, func(_ pgx.Tx, _ home, p place) error {
		m := &Manifest{
			Format: manifestFormat, Tenant: id, Placement: p.at.String(),
			Files: []ManifestMigration{}, Tables: []ManifestTable{}, Sequences: []ManifestSequence{},
		}
		opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
		if err := p.within(ctx, opts, func(tx pgx.Tx) error { return p.export(ctx, tx, m, put) }); err != nil {
			return err
		}
		if p.at.Tier == TierSchema {
			// Later than the rows: a sequence only grows.
			if err := p.asOwner(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, m.readSequences(ctx, p)); err != nil {
				return err
			}
		}
		raw, err := m.encode()
		if err != nil {
			return err
		}
		return put(ManifestFile, func(w io.Writer) (int64, error) {
			_, err := w.Write(raw)
			return 2, err
		})
	})
	if err != nil {
		return fmt.Errorf("tenancy: export tenant: %w", err)
	}
	return nil
}

// migrationsSQL reads what was applied to a schema.
const migrationsSQL = `
select version, name, checksum from mcpsaas.tenant_migrations
where schema_name = $1 and applied_at is not null order by version`

func (p place) migrations(ctx context.Context, tx pgx.Tx) ([]ManifestMigration, error) {
	rows, err := tx.Query(ctx, migrationsSQL, p.schema)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ManifestMigration])
}

// archived are the tables that an export has.
func (p place) archived(ctx context.Context, tx pgx.Tx) ([]dataTable, error) {
	tables, err := p.tables(ctx, tx)
	return slices.DeleteFunc(tables, func(t dataTable) bool {
		return slices.Equal(t.logical(), pgx.Identifier{"public", "tenant_marker"})
	}), err
}

func (p place) export(ctx context.Context, tx pgx.Tx, m *Manifest, put func(string, func(io.Writer) (int64, error)) error) error {
	tables, err := p.archived(ctx, tx)
	if err != nil {
		return err
	}
	if m.Files, err = p.migrations(ctx, tx); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, `select now()`).Scan(&m.Exported); err != nil {
		return err
	}
	m.Exported = m.Exported.UTC()
	if _, err := tx.Exec(ctx, canonicalSQL); err != nil {
		return err
	}
	for _, t := range tables {
		id := t.logical()
		entry := ManifestTable{Table: strings.Join(id, "."), File: fileName(id), Columns: t.manifestColumns(), Rows: -1}
		err := put(entry.File, func(w io.Writer) (int64, error) {
			sum := newTally()
			tag, err := tx.Conn().PgConn().CopyTo(ctx, io.MultiWriter(w, sum), t.copyOut(p.tenant))
			entry.Rows, entry.Bytes, entry.SHA256 = tag.RowsAffected(), sum.bytes, sum.digest()
			return entry.Rows, err
		})
		if err == nil && entry.Rows < 0 {
			err = errors.New("the rows were not asked for")
		}
		if err != nil {
			return fmt.Errorf("table %s: %w", entry.Table, err)
		}
		m.Tables = append(m.Tables, entry)
	}
	return nil
}

const sequencesSQL = `
select 'public.' || sequencename, last_value from pg_sequences
where schemaname = $1 and last_value is not null order by 1`

func (m *Manifest) readSequences(ctx context.Context, p place) func(pgx.Tx) error {
	return func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sequencesSQL, p.schema)
		if err != nil {
			return err
		}
		m.Sequences, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ManifestSequence])
		return err
	}
}
