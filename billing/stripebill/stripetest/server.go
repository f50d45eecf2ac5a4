package stripetest

import (
	"net/http/httptest"
)

// Server is an [Emulator] that listens on a loopback port.
type Server struct {
	*Emulator
	// URL is the API base to give to a client, without a trailing slash.
	URL string

	http *httptest.Server
}

// NewServer starts a server. Like [httptest.NewServer] it panics when it can't
// listen, or when opts can't be met. The caller closes it.
func NewServer(opts *Options) *Server {
	e, err := New(opts)
	if err != nil {
		panic(err)
	}
	s := httptest.NewServer(e)
	return &Server{Emulator: e, URL: s.URL, http: s}
}

// Close stops the server, and waits for requests and deliveries under way.
func (s *Server) Close() {
	s.Emulator.Close()
	s.http.Close()
}
