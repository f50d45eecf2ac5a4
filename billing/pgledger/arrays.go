package pgledger

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// argument is a statement's argument in binary format.
type argument struct {
	oid   uint32
	value []byte
}

func timeArgument(t time.Time) argument {
	return argument{pgtype.TimestamptzOID, binary.BigEndian.AppendUint64(nil, uint64(microseconds(t)))}
}

// array is a one-dimensional array in PostgreSQL's binary format (array_send),
// written straight from the values: pgx's own encoding of slices looks at each
// element through an interface, which is most of what it costs.
type array struct {
	oid uint32
	b   []byte
}

// newArray returns an array for n elements of about size bytes.
func newArray(oid, element uint32, n, size int) array {
	b := make([]byte, 0, 20+n*(4+size))
	for _, v := range [...]uint32{1, 0, element, uint32(n), 1} { // dimensions, no NULL, type, length, first index
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return array{oid, b}
}

func (a *array) arg() argument { return argument{a.oid, a.b} }

func (a *array) int64(v int64) {
	a.b = binary.BigEndian.AppendUint32(a.b, 8)
	a.b = binary.BigEndian.AppendUint64(a.b, uint64(v))
}

func (a *array) time(t time.Time) { a.int64(microseconds(t)) }

func (a *array) bool(v bool) {
	n := byte(0)
	if v {
		n = 1
	}
	a.b = append(a.b, 0, 0, 0, 1, n)
}

func (a *array) text(s string) {
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(len(s)))
	a.b = append(a.b, s...)
}

func (a *array) uuid(v pgtype.UUID) {
	a.b = binary.BigEndian.AppendUint32(a.b, 16)
	a.b = append(a.b, v.Bytes[:]...)
}

// microseconds is a timestamptz in binary: microseconds since 2000.
func microseconds(t time.Time) int64 {
	const epoch = 946_684_800
	return (t.Unix()-epoch)*1_000_000 + int64(t.Nanosecond())/1000
}
