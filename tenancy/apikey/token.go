package apikey

import (
	"crypto/rand"
	"hash/crc32"
)

// A token is mtk_<env>_<key id><underscore><secret><checksum>:
//
//	mtk_live_7Qm2xV0sLk3B_pH1cU8nJ4zR6tW9yA2eG5bD7fK0mN3qX1abCDe
//
// Key id, secret and checksum are base62 of fixed length, so a double click
// selects all of it and a scanner finds leaked ones by a pattern. The secret
// has 190 random bits. The checksum is the CRC-32 of all before it: junk is
// refused without a look at any store.
const (
	prefix      = "mtk_"
	idLength    = 12
	secretLen   = 32
	checkLength = 6
	tailLength  = idLength + 1 + secretLen + checkLength
	maxEnv      = 16
	maxLength   = len(prefix) + maxEnv + 1 + tailLength
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// keyID is the public part of a token.
type keyID [idLength]byte

func (id keyID) String() string { return string(id[:]) }

// parseKeyID reads a key id as operators type it.
func parseKeyID(s string) (id keyID, ok bool) {
	if len(s) != idLength || !base62(s) {
		return keyID{}, false
	}
	copy(id[:], s)
	return id, true
}

// newToken makes a token and its key id.
func newToken(env string) (keyID, string) {
	var id keyID
	random(id[:])
	b := make([]byte, 0, maxLength)
	b = append(b, prefix...)
	b = append(b, env...)
	b = append(b, '_')
	b = append(b, id[:]...)
	b = append(b, '_')
	b = b[:len(b)+secretLen]
	random(b[len(b)-secretLen:])
	return id, string(appendCheck(b))
}

// parse returns the key id of a token of env that is in one piece. It does no
// I/O. buf lends it memory.
func parse(token, env string, buf *[maxLength]byte) (id keyID, ok bool) {
	head := len(prefix) + len(env) + 1
	if len(token) != head+tailLength || len(token) > maxLength ||
		token[:len(prefix)] != prefix || token[len(prefix):head-1] != env || token[head-1] != '_' ||
		token[head+idLength] != '_' ||
		!base62(token[head:head+idLength]) || !base62(token[head+idLength+1:]) {
		return keyID{}, false
	}
	body := buf[:copy(buf[:], token[:len(token)-checkLength])]
	if string(appendCheck(body)[len(body):]) != token[len(body):] {
		return keyID{}, false
	}
	copy(id[:], token[head:])
	return id, true
}

// appendCheck appends the checksum of b: CRC-32 in six base62 digits.
func appendCheck(b []byte) []byte {
	sum := crc32.ChecksumIEEE(b)
	var c [checkLength]byte
	for i := checkLength - 1; i >= 0; i-- {
		c[i] = digits[sum%62]
		sum /= 62
	}
	return append(b, c[:]...)
}

// random fills b with base62 digits, each equally likely.
func random(b []byte) {
	var pool [64]byte
	for n := 0; n < len(b); {
		rand.Read(pool[:]) // never fails since Go 1.24
		for _, r := range pool {
			// 248 is the largest multiple of 62 in a byte's range.
			if r < 248 && n < len(b) {
				b[n] = digits[r%62]
				n++
			}
		}
	}
}

func base62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// validEnv reports whether env may stand in a token.
func validEnv(env string) bool {
	for _, c := range []byte(env) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return env != "" && len(env) <= maxEnv
}
