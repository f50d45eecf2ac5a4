package mcptenant

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// maxIndent is how much white space may stand before a request's first
// character.
const maxIndent = 128

// A body larger than largeBody takes one of a few slots, because a message costs
// ten times its size while it is decoded: without them, a few hundred calls of
// one tenant at once take all of a machine's memory. What waits for a slot has
// been read no further.
const (
	largeBody      = 64 << 10
	largePerTenant = 4
	largeWaiting   = 64 // per tenant
	largeInAll     = 32
)

// errLarge means that a tenant sends too many large bodies at once.
var errLarge = errors.New("mcptenant: too many large requests of this account at once, retry shortly")

// enterLarge takes a slot for a large body, which leave gives back.
func (g *guard) enterLarge(ctx context.Context, id tenant.ID) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, g.bodyTimeout())
	defer cancel()
	slot, err := g.large.enter(ctx, id)
	if err != nil {
		return nil, errLarge
	}
	select {
	case g.largeInAll <- struct{}{}:
		return func() { <-g.largeInAll; g.large.leave(slot) }, nil
	case <-ctx.Done():
		g.large.leave(slot)
		return nil, errLarge
	}
}

// body bounds the request's body and looks at its first character without
// buffering the rest. It answers the request itself, and returns false, when
// the body is too large or a batch. done must be called when the request is.
func (g *guard) body(w http.ResponseWriter, r *http.Request, id tenant.ID) (done func(), ok bool) {
	b := &resumed{leave: func() {}}
	done = func() { b.leave() }
	return done, g.open(w, r, id, b)
}

func (g *guard) open(w http.ResponseWriter, r *http.Request, id tenant.ID, b *resumed) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	if r.ContentLength > g.opts.MaxBodyBytes {
		tooLarge(w)
		return false
	}
	b.enter = func() (err error) {
		leave, err := g.enterLarge(r.Context(), id)
		if err == nil {
			b.leave = leave
		}
		return err
	}
	if r.ContentLength > largeBody {
		if b.enter() != nil {
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusTooManyRequests, "too_many_large_requests", "too many large requests of this account at once")
			return false
		}
		b.enter = nil
	}
	limited := http.MaxBytesReader(w, r.Body, g.opts.MaxBodyBytes)
	var head [maxIndent]byte
	n := 0
	for n < len(head) {
		m, err := limited.Read(head[n:])
		n += m
		first := bytes.TrimLeft(head[:n], " \t\r\n")
		if len(first) > 0 {
			if first[0] == '[' {
				batch(w)
				return false
			}
			break
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
				tooLarge(w)
			} else if errors.Is(err, os.ErrDeadlineExceeded) {
				refuse(w, http.StatusRequestTimeout, "request_timeout", "the request body took too long")
			} else {
				refuse(w, http.StatusBadRequest, "invalid_request", "the body could not be read")
			}
			return false
		}
	}
	first := bytes.TrimLeft(head[:n], " \t\r\n")
	if len(first) == 0 && n == len(head) {
		refuse(w, http.StatusBadRequest, "invalid_request", "the body starts with too much white space")
		return false
	}
	b.head, b.ReadCloser = first, limited
	r.Body = b
	return true
}

// resumed is a body some of which has been read.
type resumed struct {
	head []byte
	io.ReadCloser

	// One whose length isn't known takes a slot when it turns out to be large.
	enter func() error // nil if it has one
	leave func()
	read  int
}

func (b *resumed) Read(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	if b.read > largeBody && b.enter != nil {
		if err := b.enter(); err != nil {
			return 0, err
		}
		b.enter = nil
	}
	n, err := b.ReadCloser.Read(p)
	b.read += n
	if network := new(net.OpError); errors.As(err, &network) {
		err = errBody // the SDK answers with the text, and that has the server's own address
	}
	return n, err
}

var errBody = errors.New("mcptenant: the request body did not arrive in time, or its connection failed")

func tooLarge(w http.ResponseWriter) {
	refuse(w, http.StatusRequestEntityTooLarge, "request_too_large", "the request body is too large")
}

func batch(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusBadRequest)
	io.WriteString(w, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"JSON-RPC batches are not accepted: send one message per request"}}`+"\n")
}
