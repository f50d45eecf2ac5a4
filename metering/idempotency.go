package metering

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// MetaIdempotencyKey is the name in a request's _meta under which a caller may
// send an idempotency key: a string of 1 to 200 printable ASCII characters,
// new for each logical call. The same tool called again with the same arguments
// and key, because the answer was lost for instance, runs again and is charged
// once. The same key with other arguments is another call.
const MetaIdempotencyKey = "io.github.mcpsaas/idempotencyKey"

// idempotencyKey returns the key of a call, or "".
func idempotencyKey(req *mcp.CallToolRequest) (string, error) {
	value, ok := req.Params.Meta[MetaIdempotencyKey]
	if !ok {
		return "", nil
	}
	key, _ := value.(string)
	if len(key) < 1 || len(key) > 200 {
		return "", ErrInvalidKey
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return "", ErrInvalidKey
		}
	}
	return key, nil
}

// replayIDs derives, from what makes two calls the same, the limiter's key and
// the id of the event if the call is charged. The limiter hands out the id of
// the first charge for as long as it remembers it. Where nothing remembers (an
// unlimited plan, an outage), the id is the same all through the UTC day, so
// that the store of events still keeps a re-issued call once.
func (m *Meter) replayIDs(c *call, req *mcp.CallToolRequest) (key, id string) {
	h := sha256.New()
	for _, part := range []string{c.tenant.ID.String(), c.tool, c.key, string(req.Params.Arguments)} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	same := h.Sum(nil)
	key = hex.EncodeToString(same[:16])

	day := c.start.UTC().Truncate(24 * time.Hour)
	var stamp [8]byte
	binary.BigEndian.PutUint64(stamp[:], uint64(day.UnixMilli()))
	sum := sha256.Sum256(append(same, stamp[:]...))
	var u [16]byte
	copy(u[:6], stamp[2:]) // leads with the time as a UUIDv7 does, for the index
	copy(u[6:], sum[:])
	u[6] = u[6]&0x0f | 0x80 // version 8, RFC 9562 section 5.8
	u[8] = u[8]&0x3f | 0x80
	s := hex.EncodeToString(u[:])
	return key, s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
