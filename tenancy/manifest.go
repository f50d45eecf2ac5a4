package tenancy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ManifestFile is the name of the file of an export that lists the others. It has
// two lines: a [Manifest], and an object with the SHA-256 of that line.
const ManifestFile = "tenancy.jsonl"

// manifestFormat is the version of what is written. Another one isn't read.
const manifestFormat = 1

// Manifest says what an export holds: [Data.Export] writes it, [Data.Import] goes
// by it. A name in it means the same wherever the tenant is placed: a schema of
// the tenant's own is called public.
type Manifest struct {
	Format    int                 `json:"format"` // 1
	Tenant    tenant.ID           `json:"tenant"`
	Exported  time.Time           `json:"exported"`  // the moment that the rows are of
	Placement string              `json:"placement"` // as [ParsePlacement] reads it
	Files     []ManifestMigration `json:"migrations"`
	Tables    []ManifestTable     `json:"tables"`
	Sequences []ManifestSequence  `json:"sequences"` // of a schema of the tenant's own
}

// ManifestMigration is one of the application's files that the tables were made
// by, as [Migrator] has recorded it.
type ManifestMigration struct {
	Version  int64  `json:"version"`
	Name     string `json:"name"`
	Checksum string `json:"checksum"`
}

// ManifestTable is a table and the file with its rows: a line of JSON for each,
// in the order of the primary key, or else of the lines.
type ManifestTable struct {
	Table   string           `json:"table"` // schema and name
	File    string           `json:"file"`
	Columns []ManifestColumn `json:"columns"` // without those that are computed from others
	Rows    int64            `json:"rows"`
	Bytes   int64            `json:"bytes"`
	SHA256  string           `json:"sha256"` // in hex
}

// ManifestColumn is a column, and its type as PostgreSQL writes it.
type ManifestColumn struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// ManifestSequence is a sequence, and the last value that was taken from it.
type ManifestSequence struct {
	Sequence string `json:"sequence"` // schema and name
	Last     int64  `json:"last"`
}

// Errors of an import to branch on.
var (
	// ErrCorrupt means that a file of an export isn't what was written. The error
	// names it.
	ErrCorrupt = errors.New("the export is corrupt")

	// ErrIncompatible means that an export is of another format, or of other
	// tables, columns or migrations than the tenant's place has. The error names
	// them.
	ErrIncompatible = errors.New("the export doesn't fit the tenant's tables")

	// ErrForeignRows means that an export is another tenant's, or has rows that
	// are.
	ErrForeignRows = errors.New("the export has another tenant's rows")

	// ErrNotEmpty means that a tenant has rows already. The error names the tables.
	ErrNotEmpty = errors.New("the tenant has rows")
)

// seal is the second line of the file.
type seal struct {
	SHA256 string `json:"sha256"`
}

// encode returns the file.
func (m *Manifest) encode() ([]byte, error) {
	line, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(line)
	last, err := json.Marshal(seal{hex.EncodeToString(sum[:])})
	if err != nil {
		return nil, err
	}
	return append(append(append(line, '\n'), last...), '\n'), nil
}

// manifestMost is far above the size of any.
const manifestMost = 64 << 20

// ReadManifest reads the manifest of an export. It looks at no other file.
func ReadManifest(files fs.FS) (*Manifest, error) {
	m, _, err := readManifest(files)
	if err != nil {
		return nil, fmt.Errorf("tenancy: read manifest: %w", err)
	}
	return m, nil
}

func readManifest(files fs.FS) (m *Manifest, digest string, err error) {
	f, err := files.Open(ManifestFile)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, manifestMost+1))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", ManifestFile, err)
	}
	line, last, ok := bytes.Cut(raw, []byte{'\n'})
	var s seal
	var version struct{ Format int }
	sum := sha256.Sum256(line)
	switch {
	case !ok || len(raw) > manifestMost || !bytes.HasSuffix(last, []byte("}\n")),
		json.Unmarshal(last, &s) != nil || s.SHA256 != hex.EncodeToString(sum[:]):
		return nil, "", fmt.Errorf("%s: %w", ManifestFile, ErrCorrupt)
	}
	if err := json.Unmarshal(line, &version); err != nil || version.Format != manifestFormat {
		return nil, "", fmt.Errorf("%w: %s: format %d, this program reads %d", ErrIncompatible, ManifestFile, version.Format, manifestFormat)
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, "", fmt.Errorf("%s: %w: %w", ManifestFile, ErrCorrupt, err)
	}
	sum = sha256.Sum256(raw)
	return m, hex.EncodeToString(sum[:]), nil
}

// tally counts and hashes what passes through it.
type tally struct {
	bytes int64
	hash  hash.Hash
}

func newTally() *tally { return &tally{hash: sha256.New()} }

func (t *tally) Write(p []byte) (int, error) {
	t.bytes += int64(len(p))
	return t.hash.Write(p)
}

func (t *tally) digest() string { return hex.EncodeToString(t.hash.Sum(nil)) }
