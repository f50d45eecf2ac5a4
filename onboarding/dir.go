package onboarding

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Dir is an [Archive] in a directory: files are readable by their owner alone,
// and complete and on disk once Put returns. The directory is made if it is
// missing.
type Dir string

var _ Archive = Dir("")

// Put implements [Archive].
func (d Dir) Put(ctx context.Context, name string, write func(io.Writer) error) (err error) {
	root, dir, base, err := d.open(name)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("onboarding: archive: %w", err)
	}
	partial := path.Join(dir, base+".partial")
	f, err := root.OpenFile(partial, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("onboarding: archive: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			root.Remove(partial)
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	if err := write(w); err != nil {
		return err
	}
	if err := errors.Join(ctx.Err(), w.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("onboarding: archive: %w", err)
	}
	if err := root.Rename(partial, path.Join(dir, base)); err != nil {
		return fmt.Errorf("onboarding: archive: %w", err)
	}
	// The new names must survive a crash as well: theirs, and those of the
	// directories that lead to them.
	for at := dir; ; at = path.Dir(at) {
		if err := syncDir(root, at); err != nil {
			return fmt.Errorf("onboarding: archive: %w", err)
		}
		if at == "." {
			return nil
		}
	}
}

// Open implements [Archive].
func (d Dir) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	root, dir, base, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(path.Join(dir, base))
	if err != nil {
		return nil, fmt.Errorf("onboarding: archive: %w", err)
	}
	return f, nil
}

// open returns the directory as a root that no name leads out of.
func (d Dir) open(name string) (root *os.Root, dir, base string, err error) {
	for part := range strings.SplitSeq(name, "/") {
		if !validName(part) {
			return nil, "", "", fmt.Errorf("onboarding: archive name %.80q is not plain", name)
		}
	}
	if d == "" {
		return nil, "", "", errors.New("onboarding: archive directory is not named")
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, "", "", fmt.Errorf("onboarding: archive: %w", err)
	}
	root, err = os.OpenRoot(filepath.Clean(string(d)))
	if err != nil {
		return nil, "", "", fmt.Errorf("onboarding: archive: %w", err)
	}
	return root, path.Dir(name), path.Base(name), nil
}

// syncDir flushes a directory's entries to disk. Systems that can't (Windows)
// answer with an error of their own, which says nothing about the files.
func syncDir(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrInvalid) {
		return err
	}
	return nil
}
