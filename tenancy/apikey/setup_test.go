package apikey_test

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var (
	pepper    = []byte("pepper-pepper-pepper-pepper-pepper-1")
	newPepper = []byte("pepper-pepper-pepper-pepper-pepper-2")
)

// directory is a directory of tenants that a test writes by hand.
type directory struct {
	mu      sync.Mutex
	tenants map[tenant.ID]tenant.Tenant
}

func (d *directory) Lookup(id tenant.ID) (tenant.Tenant, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tenants[id]
	return t, ok
}

func (d *directory) set(t tenant.Tenant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tenants = maps.Clone(d.tenants)
	if d.tenants == nil {
		d.tenants = make(map[tenant.ID]tenant.Tenant)
	}
	d.tenants[t.ID] = t
}

func (d *directory) add(status tenant.Status) tenant.ID {
	t := tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Pro, Status: status}
	d.set(t)
	return t.ID
}

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type bundle struct {
	pool      *pgxpool.Pool
	directory *directory
	clock     *clock
	peppers   [][]byte
	keys      *apikey.Store
}

// setup returns a database with one running store on it, which has the rights
// that it has in a server: those of the control role.
func setup(t testing.TB) *bundle {
	t.Helper()
	db := devtest.DB(t, devtest.Template{Name: "apikey", Migrate: func(ctx context.Context, conn *pgx.Conn) error {
		if err := tenancy.Migrate(ctx, conn); err != nil {
			return err
		}
		return apikey.Migrate(ctx, conn)
	}})
	config, err := tenancy.ControlConfig(db.URL)
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	b := &bundle{
		pool:      pool,
		directory: &directory{},
		// Whole seconds: what comes back from the database is the same.
		clock:   &clock{now: time.Now().UTC().Truncate(time.Second)},
		peppers: [][]byte{pepper},
	}
	b.keys, _ = b.start(t)
	return b
}

// start runs another replica. stop ends it and waits; the end of the test does
// the same.
func (b *bundle) start(t testing.TB) (keys *apikey.Store, stop func()) {
	t.Helper()
	keys, err := apikey.New(b.pool, b.directory, b.peppers, &apikey.Options{Now: b.clock.Now, Logger: devtest.Logger(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- keys.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	require.NoError(t, keys.Ready(t.Context()))
	return keys, stop
}

func (b *bundle) issue(t testing.TB, id tenant.ID, spec apikey.Spec) apikey.Key {
	t.Helper()
	key, err := b.keys.Issue(t.Context(), id, spec)
	require.NoError(t, err)
	return key
}
