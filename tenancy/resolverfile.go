package tenancy

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxURLFile is more than any URL takes.
const maxURLFile = 64 << 10

// FileResolver finds URLs in the files of a directory, as Kubernetes and Docker
// mount secrets: that of database "acme" in the file acme. A file is read each
// time, so that one that was replaced counts at once. White space around the URL
// is ignored. A reference can't lead out of the directory, and nor can a
// symbolic link in it; one within it, as Kubernetes has them, can be followed.
func FileResolver(dir string) ResolverFunc {
	return func(_ context.Context, ref string) (string, error) {
		if ref == "" || ref[0] == '.' || strings.ContainsAny(ref, "/\\:\x00") {
			return "", &ResolveError{Ref: ref, Reason: "the reference is no name of a file"}
		}
		url, err := readURLFile(dir, ref)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", &ResolveError{Ref: ref, Reason: "there is no such file", Err: err}
		case errors.Is(err, fs.ErrPermission):
			return "", &ResolveError{Ref: ref, Reason: "the file can't be read: permission denied", Err: err}
		case err != nil:
			return "", &ResolveError{Ref: ref, Reason: "the file can't be read", Err: err}
		case url == "":
			return "", &ResolveError{Ref: ref, Reason: "the file is empty"}
		}
		return url, nil
	}
}

func readURLFile(dir, name string) (string, error) {
	// Each time anew: what is mounted there may be another directory by now.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	file, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxURLFile+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxURLFile {
		return "", errors.New("the file is too long")
	}
	return strings.TrimSpace(string(content)), nil
}
