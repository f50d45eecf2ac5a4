package devtest

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

const superuser = "postgres"

// cluster is the PostgreSQL of this process.
type cluster struct {
	base     url.URL
	strategy string // how to copy a template
	count    atomic.Int64

	mu        sync.Mutex // for what follows
	admin     *pgx.Conn  // the superuser's; a pool would leave goroutines behind
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
	if c.admin, err = pgx.Connect(ctx, c.url(superuser, "postgres")); err != nil {
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

// exec runs a statement as the superuser. No test's context may end it: that
// would close the connection for all.
func (c *cluster) exec(sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.admin.Exec(ctx, sql, args...)
	return err
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
	if err := c.exec(`create database ` + name + ` owner ` + devstack.OwnerRole); err != nil {
		return err
	}
	if migrate == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
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

func (c *cluster) clone(from, to string) error {
	if err := c.exec(`create database ` + to + ` template ` + from + ` owner ` + devstack.OwnerRole + c.strategy); err != nil {
		return err
	}
	if err := c.exec(copyGrants, from, to); err != nil {
		return err
	}
	return c.exec(copySettings, from, to)
}
