package alert

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Sign signs as Send does.
func Sign(secrets []string, id string, at time.Time, body []byte) (string, error) {
	return sign(secrets, id, at, body)
}

// Trust makes s trust the certificates of a server of tests.
func (s *Sender) Trust(roots *x509.CertPool) {
	s.transport.TLSClientConfig = s.transport.TLSClientConfig.Clone()
	s.transport.TLSClientConfig.RootCAs = roots
}

// Resolve makes s look names up by r.
func (s *Sender) Resolve(r *net.Resolver) { s.dialer.Resolver = r }

// Stop makes every connection that is not refused fail, and tells where it was
// about to go.
func (s *Sender) Stop(to func(address string)) {
	guard := s.dialer.Control
	s.dialer.Control = func(network, address string, c syscall.RawConn) error {
		if guard != nil {
			if err := guard(network, address, c); err != nil {
				return err
			}
		}
		to(address)
		return errors.New("stopped")
	}
}

// Transport is what s sends by.
func (s *Sender) Transport() *http.Transport { return s.transport }
