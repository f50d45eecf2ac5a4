package monitor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// ProbeOptions configure a [Probe].
type ProbeOptions struct {
	// URL is the MCP endpoint. Required.
	URL string

	// Key is a tenant's API key. Without it only the anonymous part is done.
	Key string

	// Tool is the read-only tool to call.
	// Defaults to "health_check".
	Tool string

	// Client makes the requests.
	// Defaults to a client that follows no redirects.
	Client *http.Client

	// Limit bounds the whole probe.
	// Defaults to 30 s.
	Limit time.Duration
}

// Check is one thing that a probe looked at.
type Check struct {
	Name     string        `json:"name"`
	Revision string        `json:"revision,omitempty"` // of the protocol, where it matters
	OK       bool          `json:"ok"`
	Detail   string        `json:"detail,omitempty"` // what was wrong, or what was seen
	Duration time.Duration `json:"duration"`
}

// Report is what a probe saw.
type Report struct {
	URL    string    `json:"url"`
	At     time.Time `json:"at"`
	State  State     `json:"state"` // Live if every check is OK, Down if none is, else Degraded
	Checks []Check   `json:"checks"`

	// Tools is a SHA-256 over the names and input schemas of the listed tools,
	// in hex: when it changes, clients see other tools.
	Tools string `json:"tools,omitempty"`
}

// The revisions that stand for the two eras of the protocol.
const (
	revisionSessions  = "2025-06-18"
	revisionStateless = "2026-07-28"
)

// Probe looks at a server from outside. It returns an error only for options
// that can't be; what is wrong with the server is in the report. The report
// never has the key.
func Probe(ctx context.Context, opts ProbeOptions) (Report, error) {
	u, err := url.Parse(opts.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Report{}, fmt.Errorf("monitor: ProbeOptions.URL %.100q: want an absolute http or https URL", opts.URL)
	}
	if opts.Limit < 0 {
		return Report{}, errors.New("monitor: ProbeOptions.Limit is negative")
	}
	if opts.Limit == 0 {
		opts.Limit = 30 * time.Second
	}
	if opts.Tool == "" {
		opts.Tool = "health_check"
	}
	if opts.Client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		defer t.CloseIdleConnections()
		opts.Client = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	ctx, cancel := context.WithTimeout(ctx, opts.Limit)
	defer cancel()
	p := &probe{ProbeOptions: opts, report: Report{URL: u.Redacted(), At: time.Now().UTC()}}
	p.anonymous(ctx)
	if opts.Key != "" {
		p.credentialed(ctx, revisionSessions)
		p.credentialed(ctx, revisionStateless)
	}
	p.judge()
	return p.report, nil
}

type probe struct {
	ProbeOptions
	report Report
}

// check runs f and notes how it ended.
func (p *probe) check(name, revision string, f func() (detail string, err error)) bool {
	begun := time.Now()
	detail, err := f()
	if err != nil {
		detail = err.Error()
		if p.Key != "" {
			detail = strings.ReplaceAll(detail, p.Key, "[key]")
		}
	}
	p.report.Checks = append(p.report.Checks, Check{
		Name: name, Revision: revision, OK: err == nil, Detail: detail, Duration: time.Since(begun),
	})
	return err == nil
}

func (p *probe) judge() {
	good := 0
	for _, c := range p.report.Checks {
		if c.OK {
			good++
		}
	}
	switch good {
	case 0:
		p.report.State = Down
	case len(p.report.Checks):
		p.report.State = Live
	default:
		p.report.State = Degraded
	}
}

// credentialed talks to the server as a tenant's client: connect, list, call.
func (p *probe) credentialed(ctx context.Context, revision string) {
	client := mcp.NewClient(&mcp.Implementation{Name: "mcpsaas-probe", Version: "v1"}, nil)
	authorized := *p.Client
	authorized.Transport = bearer{p.Key, p.Client.Transport}
	var session *mcp.ClientSession
	ok := p.check("connect", revision, func() (string, error) {
		var err error
		session, err = client.Connect(ctx, &mcp.StreamableClientTransport{
			Endpoint: p.URL, HTTPClient: &authorized, MaxRetries: -1, DisableStandaloneSSE: true,
		}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
		if err != nil {
			return "", err
		}
		return "speaks " + session.InitializeResult().ProtocolVersion, nil
	})
	if !ok {
		return
	}
	defer session.Close()
	p.check("tools/list", revision, func() (string, error) {
		var tools []*mcp.Tool
		for tool, err := range session.Tools(ctx, nil) {
			if err != nil {
				return "", err
			}
			tools = append(tools, tool)
		}
		hash, err := hashTools(tools)
		if err != nil {
			return "", err
		}
		if p.report.Tools != "" && p.report.Tools != hash {
			return "", errors.New("the tools differ from those of the other revision")
		}
		p.report.Tools = hash
		if len(tools) == 0 {
			return "", errors.New("no tools are listed")
		}
		return fmt.Sprintf("%d tools", len(tools)), nil
	})
	p.check("tools/call", revision, func() (string, error) {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: p.Tool})
		if err != nil {
			return "", err
		}
		if res.IsError {
			return "", fmt.Errorf("%s answered with an error", p.Tool)
		}
		return p.Tool, nil
	})
}

// hashTools is a SHA-256 over names and input schemas, in an order and a form
// that doesn't depend on the server's.
func hashTools(tools []*mcp.Tool) (string, error) {
	tools = slices.SortedFunc(slices.Values(tools), func(a, b *mcp.Tool) int { return strings.Compare(a.Name, b.Name) })
	sum := sha256.New()
	for _, t := range tools {
		// A schema comes from the wire as a map, whose JSON has sorted keys.
		schema, err := json.Marshal(t.InputSchema)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%q %s\n", t.Name, schema)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// bearer adds a key to requests.
type bearer struct {
	key  string
	next http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.key)
	if b.next == nil {
		return http.DefaultTransport.RoundTrip(r)
	}
	return b.next.RoundTrip(r)
}
