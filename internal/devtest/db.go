package devtest

import (
	"context"
	"fmt"
	"net/url"
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

// Stop makes the database unreachable for everyone, as an outage would: its
// connections break, and new ones are refused until [Database.Start]. Other
// tests' databases stay.
func (d *Database) Stop(t testing.TB) {
	t.Helper()
	d.admin(t, `alter database `+d.Name+` allow_connections false`)
	d.admin(t, `select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '`+d.Name+`'`)
}

// Start ends [Database.Stop].
func (d *Database) Start(t testing.TB) {
	t.Helper()
	d.admin(t, `alter database `+d.Name+` allow_connections true`)
}

// admin runs a statement as the superuser, outside the database.
func (d *Database) admin(t testing.TB, sql string) {
	t.Helper()
	c, err := theCluster()
	if err == nil {
		err = c.exec(sql)
	}
	if err != nil {
		t.Fatalf("devtest: %s: %v", sql, err)
	}
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
	if err := c.clone(from, name); err != nil {
		t.Fatalf("devtest: copy template %q: %v", tmpl.Name, err)
	}
	t.Cleanup(func() {
		if err := c.exec(`drop database ` + name + ` with (force)`); err != nil {
			t.Errorf("devtest: drop database: %v", err)
		}
	})
	return &Database{URL: c.url(devstack.OwnerRole, name), Superuser: c.url(superuser, name), Name: name}
}
