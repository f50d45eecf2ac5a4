package tenancy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ownerPools reach the databases that tenants' rows are in as their owner. Each
// pool is made when it is first needed.
type ownerPools struct {
	home      *pgxpool.Pool
	databases Resolver

	mu     sync.Mutex // for what follows
	pools  map[ownerKey]*pgxpool.Pool
	closed bool
}

// ownerKey is a database, empty for that of the control pool, and the role that
// its connections run as: the owner, or the control role.
type ownerKey struct {
	database string
	owner    bool
}

const (
	// ownerConns is how many connections there are to a database of its own at most.
	ownerConns = 8

	// ownerDial bounds how long one of them takes to be opened, where its URL has no
	// connect_timeout: a server that swallows packets would else hold up whoever
	// works on its tenant, and a turn of the control pool's, until [acquireBound].
	ownerDial = 5 * time.Second
)

func (o *ownerPools) get(database string, owner bool) (*pgxpool.Pool, error) {
	key := ownerKey{database, owner}
	if key == (ownerKey{}) {
		return o.home, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if pool := o.pools[key]; pool != nil {
		return pool, nil
	}
	if o.closed {
		return nil, errors.New("tenancy: the Data is closed")
	}
	config, err := o.config(key)
	if err != nil {
		return nil, err
	}
	// The context bounds only what isn't done here: there are no first connections.
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, redact(err)
	}
	if o.pools == nil {
		o.pools = make(map[ownerKey]*pgxpool.Pool)
	}
	o.pools[key] = pool
	return pool, nil
}

func (o *ownerPools) config(key ownerKey) (*pgxpool.Config, error) {
	if key.database == "" {
		config := o.home.Config()
		delete(config.ConnConfig.RuntimeParams, "role")
		config.MinConns, config.MinIdleConns = 0, 0
		config.MaxConnIdleTime, config.HealthCheckPeriod = 5*time.Second, 5*time.Second
		return config, nil
	}
	if o.databases == nil {
		return nil, &ResolveError{Ref: key.database, Reason: "DataOptions.Databases is nil"}
	}
	config, err := parseURL("")
	if err != nil {
		return nil, err
	}
	config.MaxConns = ownerConns
	// A connection is closed when it is given back: there may be thousands of
	// databases, and this side is seldom needed.
	config.AfterRelease = func(*pgx.Conn) bool { return false }
	config.BeforeConnect = func(ctx context.Context, config *pgx.ConnConfig) error {
		url, err := resolve(ctx, o.databases, key.database)
		if err != nil {
			return err
		}
		parsed, err := parseURL(url)
		if err != nil {
			return &ResolveError{Ref: key.database, Reason: err.Error()}
		}
		*config = *parsed.ConnConfig
		config.ConnectTimeout = orDefault(config.ConnectTimeout, ownerDial)
		if !key.owner {
			config.RuntimeParams["role"] = ControlRole
		}
		return nil
	}
	return config, nil
}

// renew has the resolver find a URL again whose login was refused, and reports
// whether that is of any use.
func (o *ownerPools) renew(database string, err error) bool {
	f, ok := o.databases.(forgetter)
	if ok = ok && strings.HasPrefix(sqlState(err), "28"); ok { // invalid authorization specification
		f.Forget(database)
	}
	return ok
}

// close closes the pools that were made here, and waits for their connections.
func (o *ownerPools) close() {
	o.mu.Lock()
	pools := o.pools
	o.pools, o.closed = nil, true
	o.mu.Unlock()
	for _, pool := range pools {
		pool.Close()
	}
}
