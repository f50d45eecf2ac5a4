package pgbudget

import (
	"errors"
	"net"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// host is a server. While it can't be reached, one attempt at a time is made,
// whichever of its databases it is for: each may take as long as a time-out, and
// occupies a slot meanwhile.
type host struct {
	down   bool
	trying bool // with down: somebody is finding out
	users  int  // attempts under way
}

func hostOf(config *pgx.ConnConfig) string {
	return net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
}

func (b *Budget) host(name string) *host {
	h, ok := b.hosts[name]
	if !ok {
		h = &host{}
		b.hosts[name] = h
	}
	return h
}

// occupied reports whether another attempt would be one too many.
func (h *host) occupied() bool { return h != nil && h.down && h.trying }

// enter begins an attempt.
func (h *host) enter() {
	h.trying = h.down
	h.users++
}

// leave ends an attempt. Those who waited for its outcome get its error, or
// may try for themselves. A server that refuses is one that was reached.
func (b *Budget) leave(h *host, err error) {
	h.users--
	if _, answered := errors.AsType[*pgconn.PgError](err); err == nil || answered {
		h.down = false
	} else if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		h.down = true
	}
	if !h.trying {
		return
	}
	h.trying = false
	for _, p := range b.pools {
		if p.config == nil || b.hosts[hostOf(p.config)] != h {
			continue
		}
		if h.down && p.conns == 0 {
			b.fail(p, ErrUnreachable)
		}
		b.update(p)
	}
}
