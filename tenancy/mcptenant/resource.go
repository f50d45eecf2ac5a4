package mcptenant

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// ResourceMetadataPath is where a client looks for the metadata of a protected
// resource (RFC 9728 section 3.1); a resource whose URL has a path is also
// looked for under this path followed by its own.
const ResourceMetadataPath = "/.well-known/oauth-protected-resource"

// ProtectedResource serves the OAuth 2.0 metadata of the MCP endpoint (RFC
// 9728). metadata.Resource is the endpoint's public URL. Mount the handler at
// [ResourceMetadataPath] and below it:
//
//	mux.Handle(mcptenant.ResourceMetadataPath, h)
//	mux.Handle(mcptenant.ResourceMetadataPath+"/", h)
//
// It answers at the path itself and at the path followed by that of the
// resource, and nowhere else. It panics if metadata.Resource is not an absolute
// http or https URL without query and fragment.
func ProtectedResource(metadata *oauthex.ProtectedResourceMetadata) http.Handler {
	m := *metadata
	u, err := url.Parse(m.Resource)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" {
		panic(fmt.Sprintf("mcptenant: ProtectedResource: Resource %q: want an absolute URL without query and fragment", m.Resource))
	}
	if m.BearerMethodsSupported == nil {
		m.BearerMethodsSupported = []string{"header"}
	}
	paths := []string{ResourceMetadataPath, ResourceMetadataPath + u.Path}
	answer := auth.ProtectedResourceMetadataHandler(&m)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(paths, r.URL.Path) {
			http.NotFound(w, r)
			return
		}
		answer.ServeHTTP(w, r)
	})
}
