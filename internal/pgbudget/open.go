package pgbudget

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// closeTimeout bounds the good-bye to a server.
	closeTimeout = time.Second

	// cancelTimeout bounds it for a connection whose statement was cancelled: as
	// long as the driver waits for the server to notice.
	cancelTimeout = 15 * time.Second

	// rest is how long an attempt's error is everybody's.
	rest = 250 * time.Millisecond

	// resolvedFor is how long a configuration is used without asking for it
	// again.
	resolvedFor = time.Second

	// rotation is how long a database that was reached before may refuse its
	// credentials until that is believed: whoever rotates them can't change them
	// in the database and in the place where they are kept at the same moment.
	rotation = 5 * time.Second
)

// resolve finds the configuration of a pool, before a slot is spent on it.
func (b *Budget) resolve(p *pool) {
	ctx, cancel := context.WithTimeout(b.ctx, b.opts.OpenTimeout)
	defer cancel()
	config, err := b.ask(ctx, p.key, false)
	b.mu.Lock()
	defer b.mu.Unlock()
	p.resolving = false
	if err == nil {
		b.configure(p, config)
	} else {
		b.failed(p, err)
	}
	b.update(p)
	b.dispatch()
}

// ask keeps a panic of somebody else's code from ending the process: no caller
// is there to recover it.
func (b *Budget) ask(ctx context.Context, key string, refused bool) (config *pgx.ConnConfig, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("pgbudget: the configuration panicked")
		}
	}()
	return b.config(ctx, key, refused)
}

// configure notes a pool's configuration. Connections to another database than
// it leads to are not used any more.
func (b *Budget) configure(p *pool, config *pgx.ConnConfig) {
	if old := p.config; old != nil && (old.Host != config.Host || old.Port != config.Port ||
		old.Database != config.Database || old.User != config.User) {
		p.generation++
		p.verified = false
	}
	p.config = config
	p.resolved = b.opts.Now()
}

// open opens a connection for a pool that was given a slot: that of the
// victim, if there is one.
func (b *Budget) open(p *pool, victim *conn) {
	p.conns++
	p.opening++
	h := b.host(hostOf(p.config))
	h.enter()
	if p.hungry != nil { // to stand at the end, if it is hungry still
		b.hungry.Remove(p.hungry)
		p.hungry = nil
	}
	b.update(p)
	b.work.Go(func() {
		if victim != nil {
			victim.hangUp()
			b.mu.Lock()
			victim.pool.conns--
			b.update(victim.pool)
			b.dispatch()
			b.mu.Unlock()
		}
		ctx, cancel := context.WithTimeout(b.ctx, b.opts.OpenTimeout)
		defer cancel()
		c, err := b.connect(ctx, p)
		b.mu.Lock()
		defer b.mu.Unlock()
		p.opening--
		switch {
		case err != nil:
			b.slots--
			p.conns--
			b.failed(p, err)
			b.checkEmpty()
		case b.closed || c.generation != p.generation:
			b.discard(c)
		default:
			b.count.opened++
			p.verified, p.err = true, nil
			b.place(c, c.opened)
		}
		b.update(p)
		b.leave(h, err)
		b.dispatch()
	})
}

// failed notes why a pool can't be reached. If none of its connections is left
// to wait for, everybody who waits gets the error.
func (b *Budget) failed(p *pool, err error) {
	if b.closed {
		err = ErrClosed
	}
	p.err, p.retry = err, b.opts.Now().Add(rest)
	if p.conns == 0 {
		p.verified = false
		b.fail(p, err)
	}
}

// connect opens a connection, and tries again with another configuration if the
// server refuses the first one.
func (b *Budget) connect(ctx context.Context, p *pool) (*conn, error) {
	b.mu.Lock()
	config, verified := p.config, p.verified
	fresh := b.opts.Now().Sub(p.resolved) < resolvedFor
	b.mu.Unlock()
	refused := false
	deadline, pause := time.Now().Add(rotation), 20*time.Millisecond
	for {
		c, err := b.attempt(ctx, p, &config, fresh, refused)
		if err == nil || !refused && !isRefusal(err) || refused && !(verified && time.Now().Before(deadline)) {
			return c, err
		}
		if refused {
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(pause):
				pause = min(2*pause, 200*time.Millisecond)
			}
		}
		refused = true
	}
}

// attempt asks for the configuration, unless it is fresh, and opens a
// connection by it.
func (b *Budget) attempt(ctx context.Context, p *pool, config **pgx.ConnConfig, fresh, refused bool) (*conn, error) {
	b.mu.Lock()
	newer := refused && p.config != *config // somebody else has asked meanwhile
	if newer {
		*config = p.config
	}
	b.mu.Unlock()
	if refused && !newer || !refused && !fresh {
		answer, err := b.ask(ctx, p.key, refused)
		if err != nil {
			return nil, err
		}
		*config = answer
		b.mu.Lock()
		b.configure(p, answer)
		b.mu.Unlock()
	}
	return b.dial(ctx, p, *config)
}

// isRefusal reports whether another configuration may be welcome.
func isRefusal(err error) bool {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch refusal.Code {
	case "28P01", "28000", "3D000": // invalid_password, invalid_authorization_specification, invalid_catalog_name
		return true
	}
	return false
}

// dial opens one connection and makes it ready.
func (b *Budget) dial(ctx context.Context, p *pool, config *pgx.ConnConfig) (*conn, error) {
	b.mu.Lock()
	generation, verified := p.generation, p.verified
	b.mu.Unlock()
	pc, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if b.opts.AfterConnect != nil {
		err = b.opts.AfterConnect(ctx, pc)
	}
	if err == nil && !verified && b.opts.Verify != nil {
		err = b.opts.Verify(ctx, p.key, pc)
	}
	if err != nil {
		(&conn{conn: pc}).hangUp()
		return nil, err
	}
	now := b.opts.Now()
	life := b.opts.MaxConnLifetime
	return &conn{
		pool: p, conn: pc, generation: generation, opened: now,
		expires: now.Add(life - life/10 + rand.N(life/5+1)),
	}, nil
}

// discard closes a connection that isn't among the idle ones, and then frees
// its slot.
func (b *Budget) discard(c *conn) {
	b.work.Go(func() {
		c.hangUp()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.slots--
		c.pool.conns--
		b.update(c.pool)
		b.dispatch()
		b.checkEmpty()
	})
}

// hangUp closes a connection and waits until the server has done so as well:
// the driver doesn't, and the server would have one more for a moment.
func (c *conn) hangUp() {
	pg, patience := c.conn.PgConn(), closeTimeout
	if c.conn.IsClosed() && !c.dead {
		patience = cancelTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c.conn.IsClosed() { // after an error; the driver may still be saying good-bye
		select {
		case <-pg.CleanupDone():
		case <-ctx.Done():
		}
		return
	}
	if pg.IsBusy() {
		_ = pg.CancelRequest(ctx) // nobody waits for the rest
	}
	socket := pg.Conn()
	deadline, _ := ctx.Deadline()
	if err := socket.SetDeadline(deadline); err == nil {
		if _, err := socket.Write([]byte{'X', 0, 0, 0, 4}); err == nil { // Terminate
			_, _ = io.Copy(io.Discard, socket) // until the server has closed it
		}
	}
	_ = c.conn.Close(ctx)
}
