package mcptenant

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"sync"
	"time"
)

const (
	keysFresh = time.Hour        // after that they are fetched again
	keysGood  = 24 * time.Hour   // so long they are used while that fails
	keysGap   = time.Minute      // from one fetch to the next
	keysRetry = 5 * time.Second  // the same while there are none at all
	keysLimit = 10 * time.Second // for one fetch
	keysSize  = 256 << 10        // of the whole answer
)

// errNoKey means that the authorization server has no such key.
var errNoKey = errors.New("no such key")

// publicKey is a key and the one algorithm it may be used with: the token's
// own word on the algorithm never decides how a key is read.
type publicKey struct {
	alg string
	key crypto.PublicKey
}

// keySource is an authorization server's set of keys, fetched as needed.
type keySource struct {
	url    string
	client *http.Client
	now    func() time.Time

	mu      sync.Mutex
	keys    map[string]publicKey
	fetched time.Time     // the last success
	tried   time.Time     // the last attempt
	err     error         // of the last attempt
	flight  chan struct{} // closed when the fetch under way ends
}

// get returns the key with the id kid for alg.
func (s *keySource) get(ctx context.Context, kid, alg string) (crypto.PublicKey, error) {
	for waited := false; ; waited = true {
		s.mu.Lock()
		now := s.now()
		found, ok := s.keys[kid]
		age := now.Sub(s.fetched)
		if ok && age < keysFresh {
			s.mu.Unlock()
			return found.use(alg)
		}
		gap := keysGap
		if s.keys == nil {
			gap = keysRetry
		}
		if waited || s.flight == nil && !s.tried.IsZero() && now.Sub(s.tried) < gap {
			err := s.err
			s.mu.Unlock()
			switch {
			case ok && age < keysGood:
				return found.use(alg)
			case err != nil:
				return nil, err
			}
			return nil, errNoKey
		}
		if s.flight == nil {
			s.flight = make(chan struct{})
			s.tried = now
			// The fetch is everyone's: it must not end with the caller who
			// happened to start it.
			go s.fetch(context.WithoutCancel(ctx), s.flight)
		}
		flight := s.flight
		s.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (k publicKey) use(alg string) (crypto.PublicKey, error) {
	if k.alg != alg {
		return nil, errNoKey
	}
	return k.key, nil
}

func (s *keySource) fetch(ctx context.Context, flight chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, keysLimit)
	defer cancel()
	keys, err := s.download(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.keys, s.fetched = keys, s.now()
	}
	s.flight = nil
	close(flight)
}

func (s *keySource) download(ctx context.Context) (map[string]publicKey, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	res, err := s.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch keys: status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, keysSize+1))
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	if len(body) > keysSize {
		return nil, fmt.Errorf("fetch keys: more than %d bytes", keysSize)
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	keys := make(map[string]publicKey, len(set.Keys))
	for _, k := range set.Keys {
		// A key of a kind we don't use is no error: sets are shared.
		if key, ok := k.public(); ok && k.ID != "" {
			keys[k.ID] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("fetch keys: none that can be used")
	}
	return keys, nil
}

// jwk is a key as RFC 7517, RFC 7518 and RFC 8037 write it.
type jwk struct {
	Kind  string `json:"kty"`
	ID    string `json:"kid"`
	Use   string `json:"use"`
	Alg   string `json:"alg"`
	Curve string `json:"crv"`
	N     octets `json:"n"`
	E     octets `json:"e"`
	X     octets `json:"x"`
	Y     octets `json:"y"`
}

// octets is base64url without padding; text that isn't leaves it empty.
type octets []byte

func (b *octets) UnmarshalText(text []byte) error {
	*b, _ = base64.RawURLEncoding.DecodeString(string(text))
	return nil
}

// public returns the key if it is one that tokens may be signed with.
func (k jwk) public() (publicKey, bool) {
	var p publicKey
	switch {
	case k.Use != "" && k.Use != "sig":
		return p, false
	case k.Kind == "RSA":
		n, e := new(big.Int).SetBytes(k.N), new(big.Int).SetBytes(k.E)
		if n.BitLen() < 2048 || n.BitLen() > 8192 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return p, false
		}
		p = publicKey{"RS256", &rsa.PublicKey{N: n, E: int(e.Int64())}}
	case k.Kind == "EC" && k.Curve == "P-256" && len(k.X) == 32 && len(k.Y) == 32:
		point := append(append([]byte{4}, k.X...), k.Y...)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return p, false
		}
		p = publicKey{"ES256", key}
	case k.Kind == "OKP" && k.Curve == "Ed25519" && len(k.X) == ed25519.PublicKeySize:
		p = publicKey{"EdDSA", ed25519.PublicKey(k.X)}
	default:
		return p, false
	}
	return p, k.Alg == "" || k.Alg == p.alg || k.Alg == "Ed25519" && p.alg == "EdDSA"
}
