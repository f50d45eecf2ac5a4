package onboarding

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// canaryClient is the canary's HTTP client: it adds the key, and notes whether
// the server refused it or can't judge it yet.
type canaryClient struct {
	http *http.Client
	next http.RoundTripper
	key  string
	seen atomic.Bool
}

// client returns a client for one check, and what must be called at its end.
func (c *Canary) client(ctx context.Context, key string) (client *canaryClient, stop func()) {
	client = &canaryClient{key: key}
	stop = func() {}
	client.http = &http.Client{}
	switch {
	case c.opts.Handler != nil:
		h := &handlerTransport{handler: c.opts.Handler}
		client.next, stop = h, func() { h.wait(context.WithoutCancel(ctx)) }
	case c.opts.Client != nil:
		*client.http = *c.opts.Client
		client.next = c.opts.Client.Transport
		if client.next == nil {
			client.next = http.DefaultTransport
		}
	default:
		t := http.DefaultTransport.(*http.Transport).Clone()
		client.next, stop = t, t.CloseIdleConnections
	}
	client.http.Transport = client
	return client, stop
}

// RoundTrip implements [http.RoundTripper].
func (c *canaryClient) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+c.key)
	res, err := c.next.RoundTrip(r)
	if err == nil {
		switch res.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable:
			c.seen.Store(true)
		}
	}
	return res, err
}

// refused reports whether the key was refused since the last reset.
func (c *canaryClient) refused() bool { return c.seen.Load() }
func (c *canaryClient) reset()        { c.seen.Store(false) }

// handlerTransport is an [http.RoundTripper] that calls a handler in process:
// the same road as a request from outside, without the network. Answers
// stream.
type handlerTransport struct {
	handler http.Handler
	calls   sync.WaitGroup
}

// wait returns when every call has ended, whose contexts have. A handler that
// doesn't heed its context is left behind after a second: it must not keep the
// tenant.
func (t *handlerTransport) wait(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		t.calls.Wait()
		close(ended)
	}()
	pause(ctx, time.Second, ended)
}

// RoundTrip implements [http.RoundTripper].
func (t *handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in := r.Clone(ctx)
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, pipe := io.Pipe()
	w := &pipeWriter{header: make(http.Header), body: pipe, ready: make(chan struct{})}
	t.calls.Go(func() {
		defer cancel()
		defer in.Body.Close()
		// The pipe ends however the handler does: a panic of it is what a
		// broken connection is to a client.
		end := error(io.ErrUnexpectedEOF)
		defer func() {
			recover()
			w.WriteHeader(http.StatusInternalServerError) // unless it wrote one
			pipe.CloseWithError(end)
		}()
		t.handler.ServeHTTP(w, in)
		w.WriteHeader(http.StatusOK)
		end = io.EOF
	})
	select {
	case <-w.ready:
	case <-ctx.Done():
		if r.Context().Err() != nil {
			body.Close()
			return nil, r.Context().Err()
		}
		<-w.ready // the handler ended, and always leaves an answer
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &pipeBody{body, cancel}, ContentLength: -1, Request: r,
	}, nil
}

// pipeBody ends the handler's context when the client is done with the answer.
type pipeBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *pipeBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// pipeWriter is the handler's side of an answer.
type pipeWriter struct {
	header http.Header
	body   *io.PipeWriter
	once   sync.Once
	ready  chan struct{} // closed when status and sent are set
	status int
	sent   http.Header
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush implements [http.Flusher]; nothing is held back.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }
