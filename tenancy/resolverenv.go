package tenancy

import (
	"context"
	"os"
	"strings"
)

// EnvResolver finds URLs in environment variables: that of database "acme-eu"
// in DATABASE_URL_ACME_EU, if the prefix is "DATABASE_URL_". A reference
// consists of lower-case letters, digits and hyphens, so that no two of them
// mean the same variable.
func EnvResolver(prefix string) ResolverFunc {
	return func(_ context.Context, ref string) (string, error) {
		name, ok := envName(prefix, ref)
		if !ok {
			return "", &ResolveError{Ref: ref, Reason: "the reference must consist of lower-case letters, digits and hyphens"}
		}
		url := os.Getenv(name)
		if url == "" {
			return "", &ResolveError{Ref: ref, Reason: "the environment variable " + name + " is not set"}
		}
		return url, nil
	}
}

func envName(prefix, ref string) (string, bool) {
	for _, c := range []byte(ref) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return "", false
		}
	}
	return prefix + strings.ReplaceAll(strings.ToUpper(ref), "-", "_"), ref != ""
}
