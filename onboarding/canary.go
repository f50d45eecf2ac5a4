package onboarding

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// CanaryOptions configure a [Canary]. One of Handler and URL is required.
type CanaryOptions struct {
	// Handler is the server's whole handler, with all its middleware. It is
	// called in process, at the path of URL.
	Handler http.Handler

	// URL is the MCP endpoint.
	// Defaults to http://localhost/mcp with a Handler.
	URL string

	// Client calls URL when there is no Handler.
	// Defaults to a client of the canary's own.
	Client *http.Client

	// Tool is the read-only tool to call; its structured output must be that
	// of [HealthCheckTool].
	// Defaults to "health_check".
	Tool string

	// Revisions are the protocol revisions to speak, each in a session of its
	// own; the server may answer with another that it shares with the client.
	// Defaults to the newest, which knows no sessions, and 2025-06-18, which
	// opens one.
	Revisions []string

	// Limit bounds one canary, all revisions together.
	// Defaults to 10 s.
	Limit time.Duration
}

// Canary calls the server as the tenant would, by a real MCP client and a key
// of the tenant's own, and judges what comes back. It is safe for concurrent
// use.
type Canary struct {
	opts CanaryOptions
}

// Expect is what an isolated tenant sees.
type Expect struct {
	Tenant tenant.ID
	Marker string // its own; exactly this one may be visible
}

// NewCanary returns a canary. It calls nothing yet.
func NewCanary(opts *CanaryOptions) (*Canary, error) {
	c := &Canary{}
	if opts != nil {
		c.opts = *opts
	}
	o := &c.opts
	if o.Handler == nil && o.URL == "" {
		return nil, errors.New("onboarding: CanaryOptions.Handler or URL is required")
	}
	if o.Limit < 0 {
		return nil, errors.New("onboarding: CanaryOptions.Limit is negative")
	}
	if o.URL == "" {
		o.URL = "http://localhost/mcp"
	}
	if o.Tool == "" {
		o.Tool = HealthTool
	}
	if o.Limit == 0 {
		o.Limit = 10 * time.Second
	}
	if len(o.Revisions) == 0 {
		o.Revisions = []string{"", "2025-06-18"}
	}
	o.Revisions = slices.Clone(o.Revisions)
	return c, nil
}

// CanaryError says what the canary saw that it mustn't, or didn't see.
type CanaryError struct {
	Tenant tenant.ID
	Reason string
}

func (e *CanaryError) Error() string {
	return fmt.Sprintf("onboarding: canary of tenant %s: %s", e.Tenant, e.Reason)
}

// Check calls the server with key and returns nil if it takes the caller for
// the expected tenant, lists the tool, and shows that tenant its own marker and
// no other. Anything it saw that an isolated tenant wouldn't is a
// [*CanaryError].
//
// A key that the server doesn't know yet is tried again until the limit: the
// replicas learn of a key within a second.
func (c *Canary) Check(ctx context.Context, key string, want Expect) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Limit)
	defer cancel()
	client, stop := c.client(ctx, key)
	defer stop()
	for _, revision := range c.opts.Revisions {
		for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			err := c.session(ctx, client, revision, want)
			if err == nil {
				break
			}
			if !client.refused() || pause(ctx, wait, nil) != nil {
				return err
			}
		}
	}
	return nil
}

// session is one conversation: connect, list the tools, call the health tool.
func (c *Canary) session(ctx context.Context, client *canaryClient, revision string, want Expect) error {
	client.reset()
	m := mcp.NewClient(&mcp.Implementation{Name: "mcpsaas-canary", Version: "v1"}, nil)
	s, err := m.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint:             c.opts.URL,
		HTTPClient:           client.http,
		MaxRetries:           -1,
		DisableStandaloneSSE: true,
	}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
	if err != nil {
		return fmt.Errorf("onboarding: canary: connect: %w", err)
	}
	defer s.Close()

	listed := false
	for tool, err := range s.Tools(ctx, nil) {
		if err != nil {
			return fmt.Errorf("onboarding: canary: list tools: %w", err)
		}
		listed = listed || tool.Name == c.opts.Tool
	}
	if !listed {
		return &CanaryError{want.Tenant, "the server doesn't list " + c.opts.Tool}
	}
	res, err := s.CallTool(ctx, &mcp.CallToolParams{Name: c.opts.Tool})
	if err != nil {
		return fmt.Errorf("onboarding: canary: call %s: %w", c.opts.Tool, err)
	}
	return judge(res, want)
}

// judge compares what the tool answered with what an isolated tenant sees.
func judge(res *mcp.CallToolResult, want Expect) error {
	if res.IsError {
		return &CanaryError{want.Tenant, "the tool failed: " + text(res)}
	}
	raw, err := json.Marshal(res.StructuredContent)
	if err != nil {
		return fmt.Errorf("onboarding: canary: read answer: %w", err)
	}
	var got HealthResult
	if err := json.Unmarshal(raw, &got); err != nil {
		return &CanaryError{want.Tenant, "the answer isn't that of a health check"}
	}
	switch {
	case got.Tenant != want.Tenant.String():
		return &CanaryError{want.Tenant, "the server takes it for another tenant"}
	case got.Visible == 0:
		return &CanaryError{want.Tenant, "it can't see its own marker"}
	case got.Visible != 1:
		return &CanaryError{want.Tenant, fmt.Sprintf("it sees %d markers: other tenants' rows are open to it", got.Visible)}
	case want.Marker == "" || got.Marker != want.Marker:
		return &CanaryError{want.Tenant, "it sees a marker that isn't its own"}
	}
	return nil
}

func text(res *mcp.CallToolResult) string {
	const most = 200
	var b strings.Builder
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			b.WriteString(t.Text)
		}
	}
	s := b.String()
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
