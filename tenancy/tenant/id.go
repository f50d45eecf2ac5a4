package tenant

import (
	"crypto/rand"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ErrInvalidID is matched by the errors of [ParseID].
var ErrInvalidID = errors.New("tenant: invalid id")

// ID identifies a tenant: a UUID that was parsed or made, never an arbitrary
// string. It is comparable, so it can be a map key. The zero ID names no
// tenant.
type ID struct {
	b [16]byte
}

// NewID returns a new random ID that sorts by its time of creation (a UUIDv7,
// RFC 9562 section 5.7).
func NewID() ID {
	var id ID
	rand.Read(id.b[:]) // never fails since Go 1.24
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id.b[:6], ms[2:])
	id.b[6] = id.b[6]&0x0f | 0x70
	id.b[8] = id.b[8]&0x3f | 0x80
	return id
}

// ParseID reads a UUID in its canonical textual form of 36 characters, in
// either case. Other spellings of a UUID, and the all-zero UUID, are refused:
// two texts never name the same tenant. The error quotes at most the first 40
// bytes of s and matches [ErrInvalidID].
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, invalid(s)
	}
	digits := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	if _, err := hex.Decode(id.b[:], []byte(digits)); err != nil || id == (ID{}) {
		return ID{}, invalid(s)
	}
	return id, nil
}

// MustParseID is [ParseID] for constants: it panics on a malformed s.
func MustParseID(s string) ID {
	id, err := ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

func invalid(s string) error {
	const most = 40
	if len(s) > most {
		s = s[:most] + "..."
	}
	return fmt.Errorf("%w %q: want a UUID like 0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b", ErrInvalidID, s)
}

// IsZero reports whether id names no tenant.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the canonical lower-case form; the zero ID is the empty
// string, so that it can't be mistaken for a tenant.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	var dst [36]byte
	hex.Encode(dst[0:8], id.b[0:4])
	dst[8] = '-'
	hex.Encode(dst[9:13], id.b[4:6])
	dst[13] = '-'
	hex.Encode(dst[14:18], id.b[6:8])
	dst[18] = '-'
	hex.Encode(dst[19:23], id.b[8:10])
	dst[23] = '-'
	hex.Encode(dst[24:36], id.b[10:16])
	return string(dst[:])
}

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler] as [ParseID] reads; the
// empty text is the zero ID.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Value implements [driver.Valuer]: the canonical text, or NULL for the zero ID.
func (id ID) Value() (driver.Value, error) {
	if id.IsZero() {
		return nil, nil
	}
	return id.String(), nil
}

// Scan implements [database/sql.Scanner] for a uuid or text column; NULL is
// the zero ID.
func (id *ID) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*id = ID{}
		return nil
	case string:
		return id.UnmarshalText([]byte(v))
	case []byte:
		if len(v) == len(id.b) {
			copy(id.b[:], v)
			return nil
		}
		return id.UnmarshalText(v)
	default:
		return fmt.Errorf("%w: can't scan %T", ErrInvalidID, src)
	}
}
