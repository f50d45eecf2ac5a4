package onboarding

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrCorrupt says that an archive isn't what was written. Nothing is dropped
// while it is so.
var ErrCorrupt = errors.New("onboarding: archive is corrupt")

// Archive keeps what is left of a tenant. [Dir] is one; an object store is
// another. It is safe for concurrent use.
type Archive interface {
	// Put stores what write writes under name, replacing what was there. Once
	// it returns nil the content survives a crash of the machine; after an
	// error no part of it is seen under name.
	Put(ctx context.Context, name string, write func(io.Writer) error) error

	// Open reads it back, from where it is kept and not from a cache.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// Exporter writes all that a part of the system knows of one tenant: one file
// for each table or the like, one line for each row.
type Exporter interface {
	// Export calls put once for each file, in one consistent view. The
	// function it hands over writes the rows and returns their number.
	Export(ctx context.Context, id tenant.ID, put func(name string, write func(io.Writer) (rows int64, err error)) error) error
}

// Manifest says what an archive holds. Its SHA-256 stands in the tombstone.
type Manifest struct {
	Tenant  tenant.ID `json:"tenant"`
	Created time.Time `json:"created"`
	Files   []File    `json:"files"`
}

// File is one file of an archive.
type File struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // in hex
}

// WriteArchive exports the tenant into a below prefix, and the manifest last
// of all. It returns the manifest's digest. It refuses an export whose lines
// aren't as many as its rows.
func WriteArchive(ctx context.Context, a Archive, prefix string, id tenant.ID, created time.Time, from ...Exporter) (digest string, err error) {
	m := Manifest{Tenant: id, Created: created.UTC(), Files: []File{}}
	seen := make(map[string]bool)
	for _, e := range from {
		err := e.Export(ctx, id, func(name string, write func(io.Writer) (int64, error)) error {
			if !validName(name) || seen[name] || name == manifestName {
				return fmt.Errorf("onboarding: archive file %.60q: name is taken or not plain", name)
			}
			seen[name] = true
			f := File{Name: name}
			err := a.Put(ctx, prefix+"/"+name, func(w io.Writer) error {
				sum := newTally()
				rows, err := write(io.MultiWriter(w, sum))
				if err != nil {
					return err
				}
				if sum.lines != rows {
					return fmt.Errorf("onboarding: archive file %s: %d rows in %d lines", name, rows, sum.lines)
				}
				f.Rows, f.Bytes, f.SHA256 = rows, sum.bytes, sum.digest()
				return nil
			})
			if err != nil {
				return err
			}
			m.Files = append(m.Files, f)
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("onboarding: export tenant %s: %w", id, err)
		}
	}
	raw, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return "", err
	}
	if err := a.Put(ctx, prefix+"/"+manifestName, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	}); err != nil {
		return "", fmt.Errorf("onboarding: write manifest of tenant %s: %w", id, err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// VerifyArchive reads every byte of an archive back and returns its manifest
// if all of it is what was written: the manifest has the digest, and each file
// the rows, bytes and digest that the manifest says. Any difference is an
// error that matches [ErrCorrupt].
func VerifyArchive(ctx context.Context, a Archive, prefix, digest string) (Manifest, error) {
	raw, err := readAll(ctx, a, prefix+"/"+manifestName)
	if err != nil {
		return Manifest{}, err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != digest {
		return Manifest{}, fmt.Errorf("%w: %s: digest differs", ErrCorrupt, manifestName)
	}
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %s: %w", ErrCorrupt, manifestName, err)
	}
	for _, f := range m.Files {
		if err := verifyFile(ctx, a, prefix, f); err != nil {
			return Manifest{}, err
		}
	}
	return m, nil
}

const manifestName = "manifest.json"

func verifyFile(ctx context.Context, a Archive, prefix string, f File) error {
	r, err := a.Open(ctx, prefix+"/"+f.Name)
	if err != nil {
		return fmt.Errorf("onboarding: read archive file %s: %w", f.Name, err)
	}
	defer r.Close()
	sum := newTally()
	if _, err := io.Copy(sum, contextReader{ctx, r}); err != nil {
		return fmt.Errorf("onboarding: read archive file %s: %w", f.Name, err)
	}
	if sum.bytes != f.Bytes || sum.lines != f.Rows || sum.digest() != f.SHA256 {
		return fmt.Errorf("%w: %s: %d rows in %d bytes, or their digest, differ from the manifest", ErrCorrupt, f.Name, sum.lines, sum.bytes)
	}
	return nil
}

func readAll(ctx context.Context, a Archive, name string) ([]byte, error) {
	r, err := a.Open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("onboarding: read archive: %w", err)
	}
	defer r.Close()
	raw, err := io.ReadAll(contextReader{ctx, r})
	if err != nil {
		return nil, fmt.Errorf("onboarding: read archive: %w", err)
	}
	return raw, nil
}

// validName allows what is a plain file name on every system.
func validName(s string) bool {
	if s == "" || len(s) > 200 || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// contextReader stops reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// tally counts and hashes what is written to it.
type tally struct {
	bytes, lines int64
	hash         interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func newTally() *tally { return &tally{hash: sha256.New()} }

func (t *tally) Write(p []byte) (int, error) {
	t.bytes += int64(len(p))
	t.lines += int64(bytes.Count(p, []byte{'\n'}))
	return t.hash.Write(p)
}

func (t *tally) digest() string { return hex.EncodeToString(t.hash.Sum(nil)) }
