package stripebill

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

var (
	errUnsigned     = errors.New("no Stripe-Signature header, or not one that can be read")
	errBadSignature = errors.New("the signature is not made with a secret of this endpoint")
	errOldSignature = errors.New("the signature's time is too far from now")
)

// verifySignature checks a Stripe-Signature header, "t=1700000000,v1=<hex>",
// over the raw body (https://docs.stripe.com/webhooks#verify-manually). Any of
// the secrets will do, and any of the header's v1 values: both sides may be in
// the middle of a rotation. Unlike Stripe's libraries it refuses times in the
// future as well.
func verifySignature(body []byte, header string, secrets [][]byte, now time.Time, tolerance time.Duration) error {
	var stamp string
	var given [][]byte
	for pair := range strings.SplitSeq(header, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		switch key {
		case "t":
			stamp = value
		case "v1":
			if mac, err := hex.DecodeString(value); err == nil && len(mac) == sha256.Size {
				given = append(given, mac)
			}
		}
		if len(given) > 16 {
			break // a rotation shows two
		}
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || seconds < 0 || len(given) == 0 {
		return errUnsigned
	}
	valid := false
	for _, secret := range secrets {
		want := sign(body, stamp, secret)
		for _, mac := range given {
			if hmac.Equal(mac, want) {
				valid = true
			}
		}
	}
	if !valid {
		return errBadSignature
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > tolerance || age < -tolerance {
		return errOldSignature
	}
	return nil
}

func sign(body []byte, stamp string, secret []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(stamp))
	mac.Write([]byte{'.'})
	mac.Write(body)
	return mac.Sum(nil)
}
