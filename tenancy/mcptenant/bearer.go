package mcptenant

import (
	"net/http"
	"strconv"
	"strings"
)

// maxToken is the longest token that is looked at. The longest that are in use
// are JWTs of a few kilobytes.
const maxToken = 8 << 10

// bearer returns the token of a request. presented says that the request
// carries a credential of some kind, ok that it is a well-formed bearer token,
// sent once and in the header (RFC 6750 section 2).
func bearer(r *http.Request) (token string, presented, ok bool) {
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return "", false, false
	}
	if len(values) > 1 || r.URL.RawQuery != "" && r.URL.Query().Has("access_token") {
		return "", true, false
	}
	scheme, token, found := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	if !found || !strings.EqualFold(scheme, "bearer") || token == "" || len(token) > maxToken {
		return "", true, false
	}
	for i := range len(token) {
		if !tokenByte(token[i]) {
			return "", true, false
		}
	}
	return token, true, true
}

// tokenByte reports whether c may stand in a bearer token (RFC 6750 section 2.1).
func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~' || c == '+' || c == '/' || c == '='
}

// challenge is the WWW-Authenticate header of a refusal. It is never bare: a
// client starts its discovery at resource_metadata (RFC 9728 section 5.1).
func (g *guard) challenge(r *http.Request, presented bool) string {
	var b strings.Builder
	b.WriteString(`Bearer realm="mcp"`)
	if u := g.metadataURL(r); u != "" {
		b.WriteString(`, resource_metadata=`)
		b.WriteString(strconv.Quote(u))
	}
	if len(g.opts.Scopes) > 0 {
		b.WriteString(`, scope=`)
		b.WriteString(strconv.Quote(strings.Join(g.opts.Scopes, " ")))
	}
	if presented {
		b.WriteString(`, error="invalid_token"`)
	}
	return b.String()
}

func (g *guard) metadataURL(r *http.Request) string {
	if g.opts.ResourceMetadataURL != "" {
		return g.opts.ResourceMetadataURL
	}
	if !plainHost(r.Host) {
		return ""
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	path := strings.TrimSuffix(r.URL.EscapedPath(), "/")
	return scheme + r.Host + ResourceMetadataPath + path
}

// plainHost reports whether a Host header is a host and perhaps a port, and so
// may be repeated to who sent it.
func plainHost(host string) bool {
	if host == "" || len(host) > 255 {
		return false
	}
	for _, c := range []byte(host) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '-', c == ':', c == '[', c == ']', c == '_':
		default:
			return false
		}
	}
	return true
}

// foreign reports whether a request was sent by a page of an origin that is not
// trusted. Unlike [http.CrossOriginProtection] alone, which lets every GET pass,
// it also covers the GET that opens a stream: the MCP transport asks for the
// check on all connections.
func foreign(p *http.CrossOriginProtection, r *http.Request) bool {
	if r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == "" {
		return false
	}
	post := *r
	post.Method = http.MethodPost
	return p.Check(&post) != nil
}
