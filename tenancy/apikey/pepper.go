package apikey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// minPepper is the shortest pepper that is taken.
const minPepper = 32

// pepper is a server secret without which the stored hashes can't be checked
// and the sealed tokens not opened. Its parts are derived from it, so that no
// two uses share a key.
type pepper struct {
	id     string // derived too: names the pepper, tells nothing of it
	seal   cipher.AEAD
	hashes sync.Pool // of *digest
}

// digest is the memory of one judgement.
type digest struct {
	mac hash.Hash
	sum [sha256.Size]byte
	buf [maxLength]byte
}

func newPepper(secret []byte) (*pepper, error) {
	if len(secret) < minPepper {
		return nil, fmt.Errorf("shorter than %d bytes", minPepper)
	}
	derive := func(use string, n int) []byte {
		key, err := hkdf.Key(sha256.New, secret, nil, "mcpsaas apikey "+use, n)
		if err != nil {
			panic(err) // the lengths are constants
		}
		return key
	}
	block, err := aes.NewCipher(derive("seal", 32))
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	p := &pepper{id: hex.EncodeToString(derive("id", 8)), seal: seal}
	key := derive("hash", sha256.Size)
	p.hashes.New = func() any { return &digest{mac: hmac.New(sha256.New, key)} }
	return p, nil
}

// hash computes the hash of a token into d, which is one of p's.
func (p *pepper) hash(d *digest, token string) {
	d.mac.Reset()
	d.mac.Write(d.buf[:copy(d.buf[:], token)])
	d.mac.Sum(d.sum[:0])
}

// hashOf is hash for one that is kept.
func (p *pepper) hashOf(token string) []byte {
	d := p.hashes.Get().(*digest)
	defer p.hashes.Put(d)
	p.hash(d, token)
	return append([]byte(nil), d.sum[:]...)
}

// sealToken encrypts a token for its tenant; openToken reverses it for the same
// tenant and key only.
func (p *pepper) sealToken(t tenant.ID, id keyID, token string) []byte {
	return p.seal.Seal(nil, nil, []byte(token), sealedFor(t, id))
}

func (p *pepper) openToken(t tenant.ID, id keyID, sealed []byte) (string, error) {
	token, err := p.seal.Open(nil, nil, sealed, sealedFor(t, id))
	if err != nil {
		return "", errors.New("sealed token can't be opened")
	}
	return string(token), nil
}

func sealedFor(t tenant.ID, id keyID) []byte {
	return []byte(t.String() + "/" + id.String())
}
