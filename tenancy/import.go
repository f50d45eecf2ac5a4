package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ImportOptions configure [Data.Import]. The zero value is the default.
type ImportOptions struct {
	// From is the tenant whose export it is, if that is not the one who gets
	// the rows: its id in the column tenant_id of each row is replaced, and
	// nowhere else.
	// Defaults to the tenant who gets them.
	From tenant.ID

	// Digest is the SHA-256 of [ManifestFile] in hex, from where it was kept apart
	// from the files: without it, who can change the files can change them all.
	// Defaults to none: the files are checked against the manifest alone.
	Digest string
}

// Import gives a tenant what [Data.Export] has written, whatever place either was
// or is in. The tenant must exist, have been prepared and have no rows but
// settings, which are replaced; and in tables without tenant_id of its own
// schema, which migrations may have filled, none that the export hasn't.
//
// It is all or nothing: each file is hashed while it is read, and the rows are
// committed together when all of them have proved to be what was written, and
// what the database then says of them to be the same as the files say. What doesn't
// fit is refused before: [ErrIncompatible], [ErrForeignRows], [ErrNotEmpty],
// [ErrCorrupt].
//
// Foreign keys don't matter to the order. The numbers of identity columns are kept,
// and their sequences raised so that none is given again. Triggers run; one that
// changes rows makes the import fail.
//
// files is a directory, such as [os.DirFS] returns; files that the manifest
// doesn't list are ignored. The counts are the rows by table.
func (d *Data) Import(ctx context.Context, id tenant.ID, files fs.FS, opts *ImportOptions) (Counts, error) {
	if opts == nil {
		opts = &ImportOptions{}
	}
	counts, err := d.importFiles(ctx, id, files, opts)
	if err != nil {
		return nil, fmt.Errorf("tenancy: import tenant: %w", err)
	}
	return counts, nil
}

func (d *Data) importFiles(ctx context.Context, id tenant.ID, files fs.FS, opts *ImportOptions) (Counts, error) {
	if files == nil {
		return nil, errors.New("files is nil")
	}
	m, digest, err := readManifest(files)
	from := opts.From
	if from.IsZero() {
		from = id
	}
	switch {
	case err != nil:
		return nil, err
	case opts.Digest != "" && opts.Digest != digest:
		return nil, fmt.Errorf("%s: %w: it has another digest", ManifestFile, ErrCorrupt)
	case m.Tenant != from:
		return nil, fmt.Errorf("%w: it is of tenant %s", ErrForeignRows, m.Tenant)
	}
	var counts Counts
	err = d.hold(ctx, id, holdExclusive, func(_ pgx.Tx, h home, p place) error {
		switch {
		case !h.known:
			return ErrUnknownTenant
		case h.status == tenant.Deleted:
			return ErrDeleted
		}
		l := &loader{place: p, from: from, manifest: m, files: files}
		// As the control role, to which the policies apply whoever the owner is.
		err := p.within(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error { return l.match(ctx, tx) })
		if err != nil {
			return err
		}
		if err := p.asOwner(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error { return l.load(ctx, tx) }); err != nil {
			return err
		}
		counts = make(Counts)
		for _, t := range m.Tables {
			counts[t.Table] = t.Rows
		}
		return nil
	})
	return counts, err
}

// loader is one import.
type loader struct {
	place
	from     tenant.ID
	manifest *Manifest
	files    fs.FS
	tables   []loading
}

// loading is a table of the place and what the manifest says of it.
type loading struct {
	dataTable
	entry ManifestTable
	stage string // the temporary table with the lines
}

// match finds the tables of the manifest, and refuses what isn't the same.
func (l *loader) match(ctx context.Context, tx pgx.Tx) error {
	tables, err := l.archived(ctx, tx)
	if err != nil {
		return err
	}
	applied, err := l.migrations(ctx, tx)
	if err != nil {
		return err
	}
	if why := differ(applied, l.manifest.Files); why != "" {
		return fmt.Errorf("%w: %s", ErrIncompatible, why)
	}
	byName := make(map[string]dataTable, len(tables))
	for _, t := range tables {
		byName[strings.Join(t.logical(), ".")] = t
	}
	var wrong []string
	for i, entry := range l.manifest.Tables {
		t, ok := byName[entry.Table]
		delete(byName, entry.Table) // so that none is there twice
		have := t.manifestColumns()
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("there is no table %s", entry.Table))
		case !sameColumns(have, entry.Columns):
			wrong = append(wrong, fmt.Sprintf("table %s has other columns", entry.Table))
		}
		l.tables = append(l.tables, loading{t, entry, fmt.Sprintf("pg_temp.mcpsaas_import_%d", i)})
	}
	for name := range byName {
		wrong = append(wrong, fmt.Sprintf("it has no table %s", name))
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return fmt.Errorf("%w: %s", ErrIncompatible, strings.Join(wrong, ", "))
	}
	return nil
}

// differ says which migration only one side has.
func differ(place, export []ManifestMigration) string {
	for i := range max(len(place), len(export)) {
		switch {
		case i >= len(place) || i < len(export) && export[i].Version < place[i].Version:
			return fmt.Sprintf("migration %s was not applied to the tenant's tables", export[i].Name)
		case i >= len(export) || place[i].Version < export[i].Version:
			return fmt.Sprintf("migration %s is newer than the export", place[i].Name)
		case place[i].Checksum != export[i].Checksum:
			return fmt.Sprintf("migration %s is not the same", place[i].Name)
		}
	}
	return ""
}

// sameColumns takes no notice of the order.
func sameColumns(a, b []ManifestColumn) bool {
	compare := func(a, b ManifestColumn) int { return strings.Compare(a.Name, b.Name) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), compare), slices.SortedFunc(slices.Values(b), compare))
}
