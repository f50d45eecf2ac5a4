package usage

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// A segment file is a magic number followed by records. A record is the length
// of its payload and the CRC-32C of it, 4 bytes each, big-endian, and then the
// payload: an event in its binary form.
const (
	magic        = "mcpspl02"
	recordHeader = 8
	maxRecord    = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errBroken reports bytes that are no whole record.
var errBroken = errors.New("broken record")

// appendRecord appends the record of e to b.
func appendRecord(b []byte, e Event) ([]byte, error) {
	head := len(b)
	b, err := e.AppendBinary(append(b, make([]byte, recordHeader)...))
	if err != nil {
		return nil, err
	}
	payload := b[head+recordHeader:]
	if len(payload) > maxRecord {
		return nil, errors.New("event is larger than 1 MiB")
	}
	binary.BigEndian.PutUint32(b[head:], uint32(len(payload)))
	binary.BigEndian.PutUint32(b[head+4:], crc32.Checksum(payload, castagnoli))
	return b, nil
}

// recordReader reads the records of the first size bytes of a segment.
type recordReader struct {
	r      io.ReaderAt
	offset int64
	size   int64
	buf    []byte // bytes from offset on
}

// next returns the payload of the next record, valid until the next call;
// io.EOF at the end; and errBroken, with offset where the record begins.
func (r *recordReader) next() ([]byte, error) {
	if r.offset == r.size {
		return nil, io.EOF
	}
	head, err := r.peek(recordHeader)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	if n == 0 || n > maxRecord {
		return nil, errBroken
	}
	whole, err := r.peek(recordHeader + n)
	if err != nil {
		return nil, err
	}
	payload := whole[recordHeader:]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(whole[4:]) {
		return nil, errBroken
	}
	r.offset += int64(len(whole))
	r.buf = r.buf[len(whole):]
	return payload, nil
}

// peek returns the next n bytes, and errBroken if there are not so many.
func (r *recordReader) peek(n int) ([]byte, error) {
	if len(r.buf) >= n {
		return r.buf[:n], nil
	}
	if r.size-r.offset < int64(n) {
		return nil, errBroken
	}
	b := make([]byte, min(r.size-r.offset, max(int64(n), 256<<10)))
	if _, err := r.r.ReadAt(b, r.offset); err != nil && !(errors.Is(err, io.EOF)) {
		return nil, err
	}
	r.buf = b
	return b[:n], nil
}
