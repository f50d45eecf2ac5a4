package devtest

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

// Template is a database that is filled once per process and copied for each
// test.
type Template struct {
	// Name tells templates apart: within a test binary the same name must
	// always come with the same Migrate.
	Name string

	// Migrate fills the template. The connection is the owner's.
	// Defaults to nothing: an empty database.
	Migrate func(ctx context.Context, conn *pgx.Conn) error
}

// Database is a database of one test's own. It is dropped when the test ends.
type Database struct {
	// URL logs in as the owner of the database: not a superuser, but allowed
	// to create roles and databases.
	URL string

	// Superuser logs in as the superuser, for tests of what only a superuser
	// can break.
	Superuser string

	// Name is the name of the database.
	Name string
}

// As returns the URL that logs in as role. Logins need no password.
func (d *Database) As(role string) string {
	u, err := url.Parse(d.URL)
	if err != nil {
		panic(err) // we made it
	}
	u.User = url.User(role)
	return u.String()
}

// Pool returns a pool of the owner's that is closed when the test ends.
func (d *Database) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return d.PoolAs(t, devstack.OwnerRole)
}

// PoolAs returns a pool of role's that is closed when the test ends.
func (d *Database) PoolAs(t testing.TB, role string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), d.As(role))
	if err != nil {
		t.Fatalf("devtest: open pool: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Conn returns a connection of role's that is closed when the test ends.
func (d *Database) Conn(t testing.TB, role string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.As(role))
	if err != nil {
		t.Fatalf("devtest: connect: %v", err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// bound is the longest that any step of the harness may take.
const bound = 2 * time.Minute

// DB returns a new database with the content of tmpl.
func DB(t testing.TB, tmpl Template) *Database {
	t.Helper()
	c, err := theCluster()
	if err != nil {
		unavailable(t, err)
	}
	from, err := c.template(tmpl)
	if err != nil {
		t.Fatalf("devtest: fill template %q: %v", tmpl.Name, err)
	}
	name := fmt.Sprintf("test_%d", c.count.Add(1))
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := c.clone(ctx, from, name); err != nil {
		t.Fatalf("devtest: copy template %q: %v", tmpl.Name, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bound) // the test's own is over
		defer cancel()
		if _, err := c.admin.Exec(ctx, `drop database `+name+` with (force)`); err != nil {
			t.Errorf("devtest: drop database: %v", err)
		}
	})
	return &Database{URL: c.url(devstack.OwnerRole, name), Superuser: c.url(superuser, name), Name: name}
}

const superuser = "postgres"

// cluster is the PostgreSQL of this process.
type cluster struct {
	base  url.URL
	admin *pgxpool.Pool // the superuser's
	count atomic.Int64

	strategy string // how to copy a template

	mu        sync.Mutex
	templates map[string]func() (string, error)
}

// theCluster starts the cluster when it is first asked for. Nothing stops it:
// devstack ends it with the process.
var theCluster = sync.OnceValues(func() (*cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	stack, err := devstack.Start(ctx, devstack.Options{Postgres: true, Fast: true})
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(stack.SuperuserURL)
	if err != nil {
		return nil, err
	}
	c := &cluster{base: *base, templates: make(map[string]func() (string, error))}
	config, err := pgxpool.ParseConfig(c.url(superuser, "postgres"))
	if err != nil {
		return nil, err
	}
	config.MaxConns = 4
	if c.admin, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	var version int
	if err := c.admin.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return nil, err
	}
	if version >= 150000 {
		// Twice as fast as the default, which logs every page; PostgreSQL 14
		// knows nothing else and not the word.
		c.strategy = ` strategy file_copy`
	}
	return c, nil
})

func (c *cluster) url(role, database string) string {
	u := c.base
	u.User = url.User(role)
	u.Path = "/" + database
	return u.String()
}

// template returns the name of the filled database, which is made once.
func (c *cluster) template(tmpl Template) (string, error) {
	c.mu.Lock()
	fill, ok := c.templates[tmpl.Name]
	if !ok {
		name := fmt.Sprintf("template_%d", len(c.templates)+2) // template0 and 1 are PostgreSQL's
		fill = sync.OnceValues(func() (string, error) { return name, c.fill(name, tmpl.Migrate) })
		c.templates[tmpl.Name] = fill
	}
	c.mu.Unlock()
	return fill()
}

func (c *cluster) fill(name string, migrate func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	if _, err := c.admin.Exec(ctx, `create database `+name+` owner `+devstack.OwnerRole); err != nil {
		return err
	}
	if migrate == nil {
		return nil
	}
	conn, err := pgx.Connect(ctx, c.url(devstack.OwnerRole, name))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) // a template with a connection can't be copied
	return migrate(ctx, conn)
}

// What belongs to the database rather than to its content isn't copied with a
// template (PostgreSQL, CREATE DATABASE, Notes): grants on the database and
// settings made with ALTER DATABASE.
const (
	copyGrants = `
update pg_database set datacl = (select datacl from pg_database where datname = $1)
where datname = $2`
	copySettings = `
insert into pg_db_role_setting (setdatabase, setrole, setconfig)
select (select oid from pg_database where datname = $2), s.setrole, s.setconfig
from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
where d.datname = $1`
)

func (c *cluster) clone(ctx context.Context, from, to string) error {
	sql := `create database ` + to + ` template ` + from + ` owner ` + devstack.OwnerRole + c.strategy
	if _, err := c.admin.Exec(ctx, sql); err != nil {
		return err
	}
	for _, sql := range []string{copyGrants, copySettings} {
		if _, err := c.admin.Exec(ctx, sql, from, to); err != nil {
			return err
		}
	}
	return nil
}
