package tenancy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ownDatabases are a home database, and tenants that have databases of their own,
// each by a reference of its own.
type ownDatabases struct {
	*bundle
	directory *tenancy.Directory
	ids       []tenant.ID

	mu   sync.Mutex
	urls map[string]string
}

// newOwn makes so many tenants, whose references lead to the databases by turns.
func newOwn(t testing.TB, tenants int, dbs ...*devtest.Database) *ownDatabases {
	t.Helper()
	o := &ownDatabases{bundle: setup(t), urls: make(map[string]string)}
	err := pgx.BeginFunc(t.Context(), o.control, func(tx pgx.Tx) error {
		for i := range tenants {
			id := tenant.NewID()
			o.ids = append(o.ids, id)
			o.urls[ref(i)] = dbs[i%len(dbs)].As(tenancy.AppRole)
			_, err := tenancy.PutTenant(t.Context(), tx, tenancy.Record{ID: id, Plan: tenant.Enterprise, Status: tenant.Active,
				Placement: tenancy.Placement{Tier: tenancy.TierDatabase, Database: ref(i)}})
			if err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
	o.directory = o.bundle.directory(t, &tenancy.DirectoryOptions{PollOnly: true})
	require.NoError(t, o.directory.Sync(t.Context()))
	return o
}

func ref(i int) string { return "db-" + strconv.Itoa(i) }

func (o *ownDatabases) Resolve(_ context.Context, ref string) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if url, ok := o.urls[ref]; ok {
		return url, nil
	}
	return "", errors.New("no secret for " + secretURL)
}

func (o *ownDatabases) set(ref, url string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.urls[ref] = url
}

func (o *ownDatabases) dial(t testing.TB, opts tenancy.DatabasesOptions) *tenancy.DB {
	t.Helper()
	if opts.Resolver == nil {
		opts.Resolver = o
	}
	return o.open(t, o.As(tenancy.AppRole), &tenancy.Options{Directory: o.directory, Databases: &opts})
}

// TestThousandDatabases has a thousand tenants with a database each called from
// 64 goroutines through a budget of 50 connections: no call fails, every tenant
// sees its own rows and no others, and the server never has more connections
// than that. They share 20 databases by 1,000 references, each a pool of its
// own; with SOAK=1 there are 1,000 databases.
func TestThousandDatabases(t *testing.T) {
	t.Parallel()
	const tenants, budget, callers = 1000, 50, 64
	databases, calls := 20, 16 // of each caller: every tenant is called
	if devtest.Soak() {
		databases, calls = tenants, 32
	}
	var dbs []*devtest.Database
	for range databases {
		dbs = append(dbs, devtest.DB(t, shop))
	}
	o := newOwn(t, tenants, dbs...)
	db := o.dial(t, tenancy.DatabasesOptions{})
	watcher := o.Conn(t, "postgres")
	ctx, stop := context.WithCancel(t.Context())
	var names []string
	for _, d := range dbs {
		names = append(names, d.Name)
	}
	most, watched := 0, make(chan struct{})
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			var n int
			err := watcher.QueryRow(context.Background(),
				`select count(*) from pg_stat_activity where datname = any ($1)`, names).Scan(&n)
			if err != nil {
				t.Error(err)
				return
			}
			most = max(most, n)
		}
	}()

	start := time.Now()
	var next, written atomic.Int64
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			for range calls {
				id := o.ids[int(next.Add(1))*7%tenants]
				if _, err := db.Exec(as(t.Context(), id), `insert into products (name) values ($1)`, fmt.Sprint(id, rand.Uint64())); err != nil {
					t.Error(err)
					return
				}
				written.Add(1)
				if rand.N(4) > 0 {
					continue
				}
				var foreign int
				err := db.QueryRow(as(t.Context(), id), `select count(*) from products where name not like $1`, id.String()+"%").Scan(&foreign)
				if err != nil || foreign > 0 {
					t.Error(foreign, err)
				}
			}
		})
	}
	wait.Wait()
	stop()
	<-watched
	s := db.DatabaseStats()
	t.Logf("%d tenants, %d databases, %d writes in %v: at most %d connections; %+v", tenants, databases, written.Load(), time.Since(start), most, s)
	require.LessOrEqual(t, most, budget)
	require.Greater(t, most, budget/2, "the watcher saw them")
	require.LessOrEqual(t, s.Conns, budget)
	require.Zero(t, s.Refused)
	var rows int64
	for _, d := range dbs {
		var n int64
		conn, err := pgx.Connect(t.Context(), d.As("postgres")) // a thousand of them can't stay open
		require.NoError(t, err)
		require.NoError(t, conn.QueryRow(t.Context(), `select count(*) from products`).Scan(&n))
		require.NoError(t, conn.Close(t.Context()))
		rows += n
	}
	require.Equal(t, written.Load(), rows)
}

// TestDatabaseWithoutProtection refuses a database where row level security
// doesn't bind the role, and says what mends it; others are served.
//
// Mutation that it saw: no check when a database is opened.
func TestDatabaseWithoutProtection(t *testing.T) {
	t.Parallel()
	good, bad := devtest.DB(t, shop), devtest.DB(t, shop)
	o := newOwn(t, 2, good, bad)
	_, err := bad.Conn(t, devstack.OwnerRole).Exec(t.Context(), `alter table products no force row level security`)
	require.NoError(t, err)
	db := o.dial(t, tenancy.DatabasesOptions{})
	_, err = db.Exec(as(t.Context(), o.ids[1]), `insert into products (name) values ('a')`)
	require.ErrorIs(t, err, tenancy.ErrUnsafeRole)
	require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable)
	require.ErrorContains(t, err, `no connection to database "db-1"`)
	require.ErrorContains(t, err, `alter table "public"."products" force row level security;`)
	_, err = db.Exec(as(t.Context(), o.ids[0]), `insert into products (name) values ('a')`)
	require.NoError(t, err)

	_, err = bad.Conn(t, devstack.OwnerRole).Exec(t.Context(), `alter table products force row level security`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := db.Exec(as(t.Context(), o.ids[1]), `insert into products (name) values ('a')`)
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

// silent accepts connections and never answers.
func silent(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return listener.Addr().String()
}

// TestDatabaseDown keeps calling a database that hangs, while others are served
// by a budget of two: what is down occupies one of them.
//
// Mutation that it saw: a connection opened for each caller of a database that
// was never reached.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	o := newOwn(t, 3, devtest.DB(t, shop))
	o.set(ref(0), "postgres://hidden_user:s3cr3t-passw0rd@"+silent(t)+"/hidden_database?sslmode=disable")
	db := o.dial(t, tenancy.DatabasesOptions{MaxConns: 2})
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := db.Exec(as(ctx, o.ids[0]), `select 1`); err == nil {
					t.Error("served by nobody")
				} else {
					clean(t, err.Error())
				}
			}
		})
	}
	require.Eventually(t, func() bool { return db.DatabaseStats().Conns == 1 }, 10*time.Second, time.Millisecond)
	for i := range 20 {
		_, err := db.Exec(as(t.Context(), o.ids[1+i%2]), `insert into products (name) values ($1)`, fmt.Sprint(i))
		require.NoError(t, err)
	}
	stop()
	callers.Wait()
}

// TestDatabaseErrorsTellNoSecret breaks a database in every way there is, and
// looks for its URL in what is said about it.
//
// Mutation that it saw: the resolver's error as it is; the driver's.
func TestDatabaseErrorsTellNoSecret(t *testing.T) {
	t.Parallel()
	other := devtest.DB(t, shop)
	o := newOwn(t, 1, other)
	var log bytes.Buffer
	server, err := url.Parse(other.URL)
	require.NoError(t, err)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	panics := tenancy.ResolverFunc(func(context.Context, string) (string, error) { panic(secretURL) })
	fails := func(err error) tenancy.Resolver {
		return tenancy.ResolverFunc(func(context.Context, string) (string, error) { return "", err })
	}
	finds := func(url string) tenancy.Resolver {
		return tenancy.ResolverFunc(func(context.Context, string) (string, error) { return url, nil })
	}
	for name, resolver := range map[string]tenancy.Resolver{
		"resolver fails":        fails(fmt.Errorf("get %s: denied", secretURL)),
		"resolver wraps":        fails(fmt.Errorf("get %s: %w", secretURL, &tenancy.ResolveError{Ref: ref(0), Reason: "denied"})),
		"resolver panics":       panics,
		"resolver finds none":   finds(""),
		"malformed":             finds("postgres://hidden_user:s3cr3t-passw0rd@db7.internal.example:no-port/hidden_database"),
		"unknown host":          finds("postgres://hidden_user:s3cr3t-passw0rd@db7.internal.example.invalid/hidden_database"),
		"refused":               finds("postgres://hidden_user:s3cr3t-passw0rd@" + closed.Addr().String() + "/hidden_database"),
		"no such user":          finds("postgres://hidden_user:s3cr3t-passw0rd@" + server.Host + "/" + other.Name + "?sslmode=disable"),
		"no such database":      finds("postgres://" + tenancy.AppRole + ":s3cr3t-passw0rd@" + server.Host + "/hidden_database?sslmode=disable"),
		"TLS, and there's none": finds("postgres://hidden_user:s3cr3t-passw0rd@" + server.Host + "/hidden_database?sslmode=require"),
		"no resolver":           nil,
	} {
		opts := &tenancy.Options{Directory: o.directory, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Databases: &tenancy.DatabasesOptions{Resolver: resolver}}
		if resolver != nil {
			cached, err := tenancy.NewCachedResolver(resolver, &tenancy.CachedResolverOptions{Logger: opts.Logger})
			require.NoError(t, err)
			opts.Databases.Resolver = cached
		}
		db := o.open(t, o.As(tenancy.AppRole), opts)
		ctx, cancel := context.WithTimeout(as(t.Context(), o.ids[0]), 20*time.Second)
		_, err = db.Exec(ctx, `select 1`)
		cancel()
		require.Error(t, err, name)
		require.Contains(t, err.Error(), ref(0), name)
		for _, secret := range append(secrets, server.Host, closed.Addr().String()) {
			require.NotContains(t, fmt.Sprintf("%v %+v %q", err, err, err), secret, name)
		}
		if name != "resolver panics" {
			require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable, name)
		}
		if name == "no such database" {
			refused, ok := errors.AsType[*pgconn.PgError](err)
			require.True(t, ok, "callers may branch")
			require.Equal(t, "3D000", refused.Code)
		}
	}
	clean(t, log.String())
}

// TestDatabasesExhausted keeps callers of other databases waiting for the only
// connection until the check sees it; callers of one database that wait for one
// another are no reason.
//
// Mutation that it saw: a check that leaves the budget out; one that counts
// those who wait for their own database's connections.
func TestDatabasesExhausted(t *testing.T) {
	t.Parallel()
	o := newOwn(t, 5, devtest.DB(t, shop))
	db := o.dial(t, tenancy.DatabasesOptions{MaxConns: 2, MaxConnsPerTenant: 1, MaxWait: time.Minute})
	load := func(tenants int) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		for i := range 10 {
			callers.Go(func() {
				for ctx.Err() == nil {
					_, _ = db.Exec(as(ctx, o.ids[i%tenants]), `select pg_sleep(0.01)`)
				}
			})
		}
		return func() {
			cancel()
			callers.Wait()
		}
	}
	require.NoError(t, db.Check(t.Context()))
	stop := load(1)
	require.Eventually(t, func() bool { return db.DatabaseStats().Waits > 50 }, 30*time.Second, time.Millisecond)
	require.NoError(t, db.Check(t.Context()))
	stop()
	stop = load(5)
	require.Eventually(t, func() bool { return errors.Is(db.Check(t.Context()), tenancy.ErrPoolExhausted) }, 30*time.Second, 50*time.Millisecond)
	stop()
	require.Eventually(t, func() bool { return db.Check(t.Context()) == nil }, 30*time.Second, 50*time.Millisecond)
}

// TestDatabasesWait fails a call that waited for too long, and says why.
func TestDatabasesWait(t *testing.T) {
	t.Parallel()
	o := newOwn(t, 2, devtest.DB(t, shop))
	db := o.dial(t, tenancy.DatabasesOptions{MaxConns: 1, MaxWait: 5 * time.Second})
	err := tenancy.TenantTx(as(t.Context(), o.ids[0]), db, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `select 1`)
		require.NoError(t, err)
		short := o.dial(t, tenancy.DatabasesOptions{MaxConns: 1, MaxWait: time.Nanosecond})
		_, err = short.Exec(as(ctx, o.ids[1]), `select 1`)
		require.ErrorIs(t, err, tenancy.ErrPoolExhausted)
		require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable)
		require.EqualError(t, err, `tenancy: no connection to database "db-1": tenancy: the pool is exhausted`)
		return nil
	})
	require.NoError(t, err)
}

// TestSchemaPools gives tenants of tier schema connections of their own, under
// the budget: each is one that the tenant had before, if any, and none of the
// home database's pool is taken.
//
// Mutation that it saw: schemas routed to the home database's pool.
func TestSchemaPools(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	second := b.settle(t, tenancy.TierSchema)
	db := b.open(t, b.As(tenancy.AppRole), &tenancy.Options{Directory: b.directory,
		Databases: &tenancy.DatabasesOptions{SchemaPools: true, MaxConns: 8}})
	pids := map[tenant.ID]map[int]bool{}
	for range 5 {
		for _, id := range []tenant.ID{b.one[tenancy.TierSchema], second} {
			var pid int
			var role, schema string
			require.NoError(t, db.QueryRow(as(t.Context(), id), `select pg_backend_pid(), current_user, current_schema()`).Scan(&pid, &role, &schema))
			require.Equal(t, tenancy.SchemaName(id), role)
			require.Equal(t, role, schema)
			if pids[id] == nil {
				pids[id] = map[int]bool{}
			}
			pids[id][pid] = true
		}
	}
	for _, id := range []tenant.ID{b.one[tenancy.TierSchema], second} {
		require.Len(t, pids[id], 1)
	}
	require.NotEqual(t, pids[b.one[tenancy.TierSchema]], pids[second])
	require.EqualValues(t, 2, db.DatabaseStats().Opened)
	_, err := db.Exec(as(t.Context(), b.one[tenancy.TierShared]), `insert into products (name) values ('a')`)
	require.NoError(t, err)
	require.Equal(t, 2, db.DatabaseStats().Pools)
	_, err = db.Exec(as(t.Context(), b.one[tenancy.TierDatabase]), `select 1`)
	require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable)
	require.ErrorContains(t, err, "no Resolver")
}

func TestDatabasesOptions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := tenancy.Open(t.Context(), b.As(tenancy.AppRole), &tenancy.Options{Databases: &tenancy.DatabasesOptions{MaxConns: -1, IdleTTL: -1}})
	require.ErrorContains(t, err, "DatabasesOptions.MaxConns")
	require.ErrorContains(t, err, "DatabasesOptions.IdleTTL")
	require.False(t, strings.Contains(err.Error(), "pgbudget"))
	require.Zero(t, b.db.DatabaseStats())
}

func ExampleDatabasesOptions() {
	resolver, err := tenancy.NewCachedResolver(tenancy.EnvResolver("DATABASE_URL_"), nil)
	if err != nil {
		panic(err)
	}
	open := func(ctx context.Context, url string, directory *tenancy.Directory) (*tenancy.DB, error) {
		return tenancy.Open(ctx, url, &tenancy.Options{
			Directory: directory,
			Databases: &tenancy.DatabasesOptions{Resolver: resolver, MaxConns: 50},
		})
	}
	_ = open
}
