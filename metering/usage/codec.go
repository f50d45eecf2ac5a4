package usage

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The binary form of an event: a byte that says so, flags, the id and the
// tenant, numbers as varints, then texts with their lengths. It is what sinks
// keep, a third as long as JSON and ten times as fast.
const (
	binaryForm = 0xE1

	flagUnmetered  = 1 << 0
	flagTextID     = 1 << 1 // the id is no UUID in its canonical form
	flagTextTenant = 1 << 2
	allFlags       = flagUnmetered | flagTextID | flagTextTenant
)

var errNoEvent = errors.New("usage: not the binary form of an event")

// AppendBinary implements encoding.BinaryAppender by the compact form in which
// sinks keep events, about 90 bytes. It never fails.
func (e Event) AppendBinary(b []byte) ([]byte, error) {
	var flags byte
	if e.Unmetered {
		flags |= flagUnmetered
	}
	head := len(b)
	b = append(b, binaryForm, flags)
	for flag, s := range [...]string{e.ID, e.Tenant.String()} {
		if id, ok := parseUUID(s); ok {
			b = append(b, id[:]...)
		} else {
			b[head+1] |= flagTextID << flag
			b = appendText(b, s)
		}
	}
	b = binary.AppendVarint(b, e.Units)
	b = binary.AppendVarint(b, e.Time.Unix())
	b = binary.AppendUvarint(b, uint64(e.Time.Nanosecond()))
	b = binary.AppendVarint(b, int64(e.Duration))
	b = appendText(b, string(e.Plan))
	b = appendText(b, e.Tool)
	b = appendText(b, string(e.Outcome))
	return appendText(b, e.RequestID), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler for what AppendBinary
// returns.
func (e *Event) UnmarshalBinary(data []byte) error {
	d := decoder{rest: data}
	if d.byte() != binaryForm {
		return errNoEvent
	}
	flags := d.byte()
	var got Event
	got.Unmetered = flags&flagUnmetered != 0
	got.ID = d.id(flags&flagTextID != 0)
	err := got.Tenant.UnmarshalText([]byte(d.id(flags&flagTextTenant != 0)))
	got.Units = d.varint()
	seconds := d.varint()
	got.Time = time.Unix(seconds, int64(d.uvarint())).UTC()
	got.Duration = time.Duration(d.varint())
	got.Plan = tenant.Plan(d.text())
	got.Tool = d.text()
	got.Outcome = Outcome(d.text())
	got.RequestID = d.text()
	if d.bad || err != nil || len(d.rest) > 0 || flags&^allFlags != 0 {
		return errNoEvent
	}
	*e = got
	return nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// parseUUID returns the bytes of a UUID in its canonical form, and refuses any
// other text.
func parseUUID(s string) (id [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	var digits [32]byte
	copy(digits[:], s[:8])
	copy(digits[8:], s[9:13])
	copy(digits[12:], s[14:18])
	copy(digits[16:], s[19:23])
	copy(digits[20:], s[24:])
	for _, c := range digits {
		if c >= 'A' && c <= 'F' {
			return id, false
		}
	}
	_, err := hex.Decode(id[:], digits[:])
	return id, err == nil
}

// decoder takes a binary form apart. Once bad, it returns zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) id(isText bool) string {
	if isText {
		return d.text()
	}
	b := d.take(16)
	if b == nil {
		return ""
	}
	var s [36]byte
	hex.Encode(s[:8], b[:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:], b[10:])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

func (d *decoder) text() string { return string(d.take(d.uvarint())) }

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	d.skip(n)
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.skip(n)
	return v
}

// skip follows a varint of n bytes; n is not positive if there was none.
func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad = true
	}
	d.take(uint64(max(n, 0)))
}
