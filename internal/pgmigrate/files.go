package pgmigrate

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// File is one migration as it stands in the file system.
type File struct {
	Version  int64
	Name     string // base name, such as 0001_tenants.sql
	Checksum string // of what is run, in hex

	sql        string
	statements []string // of a file that runs outside of a transaction, else none
}

// The number may be a count of any width or a time, as the tools name their
// files by default.
var fileName = regexp.MustCompile(`^([0-9]{1,18})_.+\.(sql|go)$`)

// Load reads the files, in order of version, from the directory "migrations"
// of files, or else from its root. It accepts what goose, tern and
// golang-migrate take: NNN_name.sql, YYYYMMDDhhmmss_name.sql, NNN_name.up.sql.
// Of a file that also says how to go back, only the part forward is read.
//
// A name that doesn't fit, a version that occurs twice and an empty set are
// errors: each of them would silently leave something unapplied.
func Load(files fs.FS) ([]File, error) {
	dir := "."
	if info, err := fs.Stat(files, "migrations"); err == nil && info.IsDir() {
		dir = "migrations"
	}
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return nil, fmt.Errorf("read directory: %w", err)
	}
	var all []File
	for _, entry := range entries {
		base := entry.Name()
		match := fileName.FindStringSubmatch(base)
		switch {
		case strings.HasSuffix(base, ".down.sql"):
			continue
		case match == nil && path.Ext(base) != ".sql":
			continue
		case match == nil:
			return nil, fmt.Errorf("file %q: want a name like 0001_name.sql", base)
		case match[2] == "go":
			return nil, fmt.Errorf("file %q: migrations in Go can't be run, only .sql", base)
		}
		version, _ := strconv.ParseInt(match[1], 10, 64) // eighteen digits always fit
		if version == 0 {
			return nil, fmt.Errorf("file %q: versions start at 1", base)
		}
		text, err := fs.ReadFile(files, path.Join(dir, base))
		if err != nil {
			return nil, fmt.Errorf("read file: %w", err)
		}
		f, err := parse(base, version, text)
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", base, err)
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no .sql files found")
	}
	slices.SortStableFunc(all, func(a, b File) int { return cmp.Compare(a.Version, b.Version) })
	for i, f := range all[1:] {
		if f.Version == all[i].Version {
			return nil, fmt.Errorf("files %q and %q have the same version", all[i].Name, f.Name)
		}
	}
	return all, nil
}

// What other tools write into their files.
var (
	ternSeparator = regexp.MustCompile(`(?m)^---- create above / drop below ----[ \t]*$`)
	gooseUp       = regexp.MustCompile(`(?mi)^--[ \t]*\+goose[ \t]+up[ \t]*$`)
	gooseDown     = regexp.MustCompile(`(?mi)^--[ \t]*\+goose[ \t]+down[ \t]*$`)
	gooseEnv      = regexp.MustCompile(`(?mi)^--[ \t]*\+goose[ \t]+envsub[ \t]+on[ \t]*$`)
	noTransaction = regexp.MustCompile(`(?mi)^(--[ \t]*no-transaction|--[ \t]*\+goose[ \t]+no[ \t]+transaction|----[ \t]*tern:[ \t]*disable-tx[ \t]*----)[ \t]*$`)
)

func parse(name string, version int64, text []byte) (File, error) {
	// A checkout with CRLF line ends is the same migration.
	sql := string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	loose := noTransaction.MatchString(sql)
	if gooseEnv.MatchString(sql) {
		return File{}, fmt.Errorf("environment variables are not substituted")
	}
	if at := gooseUp.FindStringIndex(sql); at != nil {
		sql = sql[at[1]:]
	} else if gooseDown.MatchString(sql) {
		return File{}, fmt.Errorf("a section +goose Down without one +goose Up")
	}
	if at := gooseDown.FindStringIndex(sql); at != nil {
		sql = sql[:at[0]]
	}
	if at := ternSeparator.FindStringIndex(sql); at != nil {
		sql = sql[:at[0]]
	}
	sum := sha256.Sum256([]byte(sql))
	f := File{Version: version, Name: name, Checksum: hex.EncodeToString(sum[:]), sql: sql}
	if !loose {
		return f, nil
	}
	f.statements = split(sql)
	if len(f.statements) == 0 {
		return File{}, fmt.Errorf("no statement")
	}
	for _, s := range f.statements {
		if err := checkLoose(s); err != nil {
			return File{}, err
		}
	}
	return f, nil
}
