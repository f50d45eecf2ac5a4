package mcptenant

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
)

// maxIndent is how much white space may stand before a request's first
// character.
const maxIndent = 128

// body bounds the request's body and looks at its first character without
// buffering the rest. It answers the request itself, and returns false, when
// the body is too large or a batch.
func (g *guard) body(w http.ResponseWriter, r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	if r.ContentLength > g.opts.MaxBodyBytes {
		tooLarge(w)
		return false
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
	r.Body = &resumed{head: first, ReadCloser: limited}
	return true
}

// resumed is a body some of which has been read.
type resumed struct {
	head []byte
	io.ReadCloser
}

func (b *resumed) Read(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	n, err := b.ReadCloser.Read(p)
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
