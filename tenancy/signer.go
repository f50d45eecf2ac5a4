package tenancy

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// tokenSetting carries the token of a signed context, beside [Setting].
const tokenSetting = `app.current_tenant_token`

// stateUnsigned is raised for a token that the database doesn't accept.
const stateUnsigned = "TN003"

// SigningKey is a secret that servers sign tenants' contexts with and that the
// database knows by [AddSigningKey]. Neither fmt nor slog prints its secret:
// [SigningKey.Encode] does.
type SigningKey struct {
	id string

	// A function, which fmt doesn't look into: it asks no method of a key in an
	// unexported field of another struct, nor for %d, and follows pointers.
	secret func() []byte
}

func newKey(id string, secret []byte) SigningKey {
	return SigningKey{id, func() []byte { return secret }}
}

const (
	minSecret = 32               // as many bytes as the code has (RFC 2104, section 3)
	maxSecret = sha256.BlockSize // a longer one would be hashed first
)

var keyID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

// NewSigningKey makes a key of 32 random bytes. Its id tells it from others and
// is no secret: a date serves well. It has letters, digits, hyphens and
// underscores, up to 40.
func NewSigningKey(id string) (SigningKey, error) {
	if !keyID.MatchString(id) {
		return SigningKey{}, fmt.Errorf("tenancy: signing key %q: want an id of letters, digits, - and _, up to 40", id)
	}
	secret := make([]byte, minSecret)
	rand.Read(secret) // never fails
	return newKey(id, secret), nil
}

// ParseSigningKey reads what [SigningKey.Encode] wrote. Its errors don't quote
// the text.
func ParseSigningKey(text string) (SigningKey, error) {
	id, encoded, ok := strings.Cut(text, ":")
	secret, err := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil || !keyID.MatchString(id) || len(secret) < minSecret || len(secret) > maxSecret {
		return SigningKey{}, errors.New("tenancy: malformed signing key: want ID:SECRET with 32 to 64 bytes in base64url")
	}
	return newKey(id, secret), nil
}

// ID returns the name of the key.
func (k SigningKey) ID() string { return k.id }

// Encode returns the key with its secret, to be kept where the server's other
// secrets are. It is empty for the zero key, which is none.
func (k SigningKey) Encode() string {
	if k.secret == nil {
		return ""
	}
	return k.id + ":" + base64.RawURLEncoding.EncodeToString(k.secret())
}

// String returns the id and hides the secret.
func (k SigningKey) String() string { return k.id + ":REDACTED" }

// GoString is String.
func (k SigningKey) GoString() string { return k.String() }

// LogValue is String.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// pads are the blocks that HMAC makes of a key (RFC 2104, section 2).
func (k SigningKey) pads() (inner, outer []byte) {
	inner, outer = make([]byte, sha256.BlockSize), make([]byte, sha256.BlockSize)
	copy(inner, k.secret())
	copy(outer, k.secret())
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	return inner, outer
}

// SignerOptions configure [NewSigner]. The zero value is the default.
type SignerOptions struct {
	// Life is how long a token lets transactions begin. The server's clock says
	// when it was made and the database's when it ends, so that it is also how far
	// the server's may lag behind; where statements queue in a pooler, it is how
	// long.
	// Defaults to a minute.
	Life time.Duration

	// Now is the clock.
	// Defaults to time.Now.
	Now func() time.Time
}

// Signer signs the tenant's context of each transaction, for databases whose
// policies want it: see [SignContext]. It is safe for concurrent use.
type Signer struct {
	key  atomic.Pointer[SigningKey]
	life time.Duration
	now  func() time.Time
}

// NewSigner returns a signer that uses the key.
func NewSigner(key SigningKey, opts *SignerOptions) (*Signer, error) {
	s := &Signer{life: time.Minute, now: time.Now}
	if opts != nil {
		if opts.Life != 0 {
			s.life = opts.Life
		}
		if opts.Now != nil {
			s.now = opts.Now
		}
	}
	if s.life < 2*time.Second || s.life > time.Hour {
		return nil, errors.New("tenancy: new signer: SignerOptions.Life must be from 2 seconds to an hour")
	}
	if err := s.Use(key); err != nil {
		return nil, fmt.Errorf("tenancy: new signer: %w", err)
	}
	return s, nil
}

// Use makes the signer sign with another key from now on. Every database must
// know it by then.
func (s *Signer) Use(key SigningKey) error {
	if key.id == "" {
		return errors.New("the signing key is empty")
	}
	s.key.Store(&key)
	return nil
}

// token signs the context for transactions that begin within the signer's life.
func (s *Signer) token(id tenant.ID) string {
	key := s.key.Load()
	b := make([]byte, 0, 160)
	b = append(b, id.String()...)
	b = append(b, '.')
	b = strconv.AppendInt(b, s.now().Add(s.life).Unix(), 10)
	b = append(b, '.')
	b = append(b, key.id...)
	mac := hmac.New(sha256.New, key.secret())
	mac.Write(b)
	var sum [sha256.Size]byte
	b = append(b, '.')
	return string(hex.AppendEncode(b, mac.Sum(sum[:0])))
}

// checkSigner returns an error if the database wants the context signed and won't
// accept what the signer signs, or there is none: every statement would fail, or
// see nothing.
func checkSigner(ctx context.Context, conn *pgx.Conn, s *Signer) error {
	signed, err := readSigned(ctx, conn)
	switch {
	case err != nil:
		return fmt.Errorf("tenancy: check the signature: %w", redact(err))
	case !signed:
		return nil
	case s == nil:
		return errors.New("tenancy: the database wants the tenants' context signed: set Options.Signer")
	}
	var now time.Time
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select pg_catalog.clock_timestamp() from pg_catalog.set_config('`+tokenSetting+`', $1, true)`, s.token(Sentinel)).Scan(&now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `select mcpsaas_app.current_tenant()`)
		return err
	})
	switch lag := now.Sub(s.now()).Round(time.Second); {
	case sqlState(err) == stateUnsigned && lag >= s.life-time.Second:
		return fmt.Errorf("tenancy: this clock is %s behind the database's, and a signature lives %s", lag, s.life)
	case sqlState(err) == stateUnsigned:
		return fmt.Errorf("tenancy: the database doesn't accept the signing key %q: run tenancy.AddSigningKey on it", s.key.Load().id)
	case err != nil:
		return fmt.Errorf("tenancy: check the signature: %w", redact(err))
	}
	return nil
}
