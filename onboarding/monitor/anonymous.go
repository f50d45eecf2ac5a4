package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// What a client sends first, in each era.
var greetings = []struct{ revision, method, body string }{
	{revisionSessions, "initialize", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"mcpsaas-probe","version":"v1"}}}`},
	{revisionStateless, "server/discover", `{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"mcpsaas-probe","version":"v1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`},
}

var metadataURL = regexp.MustCompile(`resource_metadata="([^"]+)"`)

// anonymous knocks without a credential. The answer must be 401 with a
// challenge that says where to learn how to get one (RFC 6750 section 3,
// RFC 9728 section 5.1), and what is there must be about this endpoint.
func (p *probe) anonymous(ctx context.Context) {
	var metadata string
	for _, g := range greetings {
		p.check("refused without a key", g.revision, func() (string, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, strings.NewReader(g.body))
			if err != nil {
				return "", err
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Accept", "application/json, text/event-stream")
			if g.revision == revisionStateless {
				req.Header.Set("Mcp-Protocol-Version", g.revision)
				req.Header.Set("Mcp-Method", g.method)
			}
			res, err := p.Client.Do(req)
			if err != nil {
				return "", err
			}
			defer res.Body.Close()
			io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
			if res.StatusCode != http.StatusUnauthorized {
				return "", fmt.Errorf("answered %d, want 401", res.StatusCode)
			}
			challenge := res.Header.Get("WWW-Authenticate")
			if !strings.HasPrefix(strings.ToLower(challenge), "bearer ") {
				return "", errors.New("the 401 is bare: WWW-Authenticate has no Bearer challenge with parameters")
			}
			m := metadataURL.FindStringSubmatch(challenge)
			if m == nil {
				return "", errors.New("the challenge doesn't say where the resource metadata is")
			}
			metadata = m[1]
			return "", nil
		})
	}
	if metadata == "" {
		return
	}
	p.check("resource metadata", "", func() (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, metadata, nil)
		if err != nil {
			return "", err
		}
		res, err := p.Client.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return "", fmt.Errorf("answered %d, want 200", res.StatusCode)
		}
		var about struct {
			Resource string `json:"resource"`
		}
		if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&about); err != nil {
			return "", errors.New("the answer isn't JSON")
		}
		if strings.TrimSuffix(about.Resource, "/") != strings.TrimSuffix(p.URL, "/") {
			return "", fmt.Errorf("it is about %.200q", about.Resource)
		}
		return about.Resource, nil
	})
}
