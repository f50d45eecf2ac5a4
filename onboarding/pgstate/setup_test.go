package pgstate_test

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var template = devtest.Template{Name: "pgstate", Migrate: func(ctx context.Context, conn *pgx.Conn) error {
	for _, migrate := range []func(context.Context, *pgx.Conn) error{tenancy.Migrate, apikey.Migrate, pgstate.Migrate} {
		if err := migrate(ctx, conn); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, `create table public.products (tenant_id uuid not null, name text not null)`); err != nil {
		return err
	}
	return tenancy.Protect(ctx, conn, "public.products")
}}

// world is one server with its database: the real stores, the real handler.
type world struct {
	t       testing.TB
	db      *devtest.Database
	control *pgxpool.Pool
	store   *pgstate.Store
	data    *tenancy.Data
	keys    *apikey.Store
	app     *tenancy.DB
	parts   onboarding.Parts
	archive string

	mu    sync.Mutex
	calls map[string]int // of the parts that are outside: billing and the like
}

func setup(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, db: devtest.DB(t, template), calls: make(map[string]int), archive: t.TempDir()}
	config, err := tenancy.ControlConfig(w.db.URL)
	require.NoError(t, err)
	config.MaxConns = 12
	w.control, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(w.control.Close)
	w.store, err = pgstate.New(w.control, nil)
	require.NoError(t, err)
	w.data, err = tenancy.NewData(w.control, nil)
	require.NoError(t, err)
	directory, err := tenancy.NewDirectory(w.control, nil)
	require.NoError(t, err)
	w.keys, err = apikey.New(w.control, directory, [][]byte{[]byte("a pepper of thirty-two bytes, ok")}, nil)
	require.NoError(t, err)
	w.app, err = tenancy.Open(t.Context(), w.db.As(tenancy.AppRole), &tenancy.Options{Directory: directory, MaxConns: 4})
	require.NoError(t, err)
	t.Cleanup(w.app.Close)

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { directory.Run(ctx) })
	wg.Go(func() { w.keys.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	require.NoError(t, directory.Ready(t.Context()))
	require.NoError(t, w.keys.Ready(t.Context()))

	canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: w.server(w.app)})
	require.NoError(t, err)
	w.parts = onboarding.Parts{
		Isolation: w.data,
		Keys:      keyring{w},
		Canary:    canary,
		Configure: w.data.Configure,
		Staleness: time.Millisecond,
		SettleUsage: func(context.Context, tenant.ID) error {
			w.called("settle")
			return nil
		},
		Unsubscribe: func(context.Context, tenant.ID, string) error {
			w.called("unsubscribe")
			return nil
		},
		Archive: onboarding.Dir(w.archive),
		Exports: []onboarding.Exporter{w.data},
		Erase: func(ctx context.Context, id tenant.ID) (map[string]int64, error) {
			w.called("erase")
			receipt, err := w.data.Erase(ctx, id)
			return receipt.Deleted(), err
		},
		Clean: []onboarding.Action{func(context.Context, tenant.ID) error {
			w.called("clean")
			return nil
		}},
	}
	return w
}

// server is the whole handler: authentication, middleware, tools.
func (w *world) server(marker onboarding.Marker) http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1"}, mcptenant.ServerOptions(nil))
	server.AddReceivingMiddleware(mcptenant.Middleware(nil))
	tool, handler := onboarding.HealthCheckTool(marker)
	mcp.AddTool(server, tool, handler)
	return mcptenant.Authenticate(w.keys, mcp.NewStreamableHTTPHandler(
		func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true}), nil)
}

func (w *world) called(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[what]++
}

func (w *world) count(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[what]
}

// provisioner returns one on state, which may be the store in disguise.
func (w *world) provisioner(state onboarding.State, opts *onboarding.Options) *onboarding.Provisioner {
	w.t.Helper()
	steps, err := onboarding.Standard(w.parts)
	require.NoError(w.t, err)
	o := onboarding.Options{Poll: 10 * time.Millisecond, Backoff: 5 * time.Millisecond, Lease: 5 * time.Second, Grace: time.Hour}
	if opts != nil {
		o = *opts
	}
	p, err := onboarding.New(state, steps, &o)
	require.NoError(w.t, err)
	return p
}

// run has p working until the test ends, or until stop is called.
func (w *world) run(p *onboarding.Provisioner) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	w.t.Cleanup(stop)
	return stop
}

// number runs a query for one number as the superuser, who sees everything.
func (w *world) number(sql string, args ...any) (n int) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.db.Superuser)
	require.NoError(w.t, err)
	defer conn.Close(context.Background())
	require.NoError(w.t, conn.QueryRow(w.t.Context(), sql, args...).Scan(&n))
	return n
}

// superuser runs statements as the superuser, who can break things.
func (w *world) superuser(sql string) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.db.Superuser)
	require.NoError(w.t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(w.t.Context(), sql)
	require.NoError(w.t, err, sql)
}

// stock gives the tenant some rows.
func (w *world) stock(id tenant.ID, rows int) {
	w.t.Helper()
	ctx := tenant.NewContext(w.t.Context(), tenant.Tenant{ID: id})
	_, err := w.app.Exec(ctx, `insert into products (name) select 'p' || i from generate_series(1, $1) i`, rows)
	require.NoError(w.t, err)
}

// keyring is what a server writes to fit the key store to the provisioner.
type keyring struct{ w *world }

func (k keyring) IssueFirst(ctx context.Context, id tenant.ID) error {
	_, err := k.w.keys.IssueFirst(ctx, id, apikey.Spec{Name: "first", CreatedBy: "onboarding"})
	return err
}

func (k keyring) IssueProbe(ctx context.Context, id tenant.ID, ttl time.Duration) (string, error) {
	key, err := k.w.keys.Issue(ctx, id, apikey.Spec{
		Name: "canary", Scopes: []string{tenant.ScopeCanary}, ExpiresAt: time.Now().Add(ttl), CreatedBy: "onboarding",
	})
	return key.Token, err
}

func (k keyring) RevokeAll(ctx context.Context, id tenant.ID) error {
	_, err := k.w.keys.RevokeAll(ctx, id)
	return err
}

const (
	waitLimit = 10 * time.Second
	tick      = 5 * time.Millisecond
)

// owner returns the role that owns the database.
func (w *world) owner() string {
	u, err := url.Parse(w.db.URL)
	require.NoError(w.t, err)
	return u.User.Username()
}
