package pgmigrate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
)

// file is one migration as it stands in the file system.
type file struct {
	version  int
	name     string // base name, such as 0001_tenants.sql
	sql      string
	checksum string
}

var fileName = regexp.MustCompile(`^([0-9]{4})_[a-z0-9_]+\.sql$`)

// load reads the files in order of version. A name that doesn't fit, a version
// that occurs twice and an empty set are errors: each of them would silently
// leave something unapplied.
func load(files fs.FS) ([]file, error) {
	dir := "."
	if info, err := fs.Stat(files, "migrations"); err == nil && info.IsDir() {
		dir = "migrations"
	}
	entries, err := fs.ReadDir(files, dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read directory: %w", err)
	}
	var all []file
	for _, entry := range entries {
		base := entry.Name()
		if path.Ext(base) != ".sql" {
			continue
		}
		match := fileName.FindStringSubmatch(base)
		if match == nil {
			return nil, fmt.Errorf("file %q: want a name like 0001_name.sql", base)
		}
		version, _ := strconv.Atoi(match[1]) // four digits always fit
		if version == 0 {
			return nil, fmt.Errorf("file %q: versions start at 0001", base)
		}
		if n := len(all); n > 0 && all[n-1].version == version {
			return nil, fmt.Errorf("files %q and %q have the same version", all[n-1].name, base)
		}
		text, err := fs.ReadFile(files, path.Join(dir, base))
		if err != nil {
			return nil, fmt.Errorf("read file: %w", err)
		}
		// A checkout with CRLF line ends is the same migration.
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		sum := sha256.Sum256(text)
		all = append(all, file{version: version, name: base, sql: string(text), checksum: hex.EncodeToString(sum[:])})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no .sql files found")
	}
	return all, nil
}
