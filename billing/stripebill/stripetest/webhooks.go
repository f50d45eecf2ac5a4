package stripetest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// oldSecret still signs webhooks for a while.
type oldSecret struct {
	Secret string `json:"secret"`
	Until  int64  `json:"until"`
}

// Sign makes the Stripe-Signature header of a webhook
// (https://docs.stripe.com/webhooks#verify-manually).
func Sign(payload []byte, secret string, at time.Time) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	return "t=" + stamp + ",v1=" + mac(payload, secret, stamp)
}

func mac(payload []byte, secret, stamp string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(stamp + "."))
	h.Write(payload)
	return hex.EncodeToString(h.Sum(nil))
}

// signature signs with each secret in force, and, as Stripe does in test mode,
// with a scheme v0 that says nothing and must not be believed. It needs the
// lock.
func (e *Emulator) signature(payload []byte) string {
	at := e.opts.Now()
	header := Sign(payload, e.s.WebhookSecret, at)
	stamp := strconv.FormatInt(at.Unix(), 10)
	for _, old := range e.s.OldSecrets {
		if e.now().Unix() < old.Until {
			header += ",v1=" + mac(payload, old.Secret, stamp)
		}
	}
	return header + ",v0=" + mac(payload, "", stamp)
}

// RollWebhookSecret replaces the secret that signs webhooks and returns the new
// one. Until overlap has passed, webhooks bear a signature of each, as after a
// roll at Stripe (https://docs.stripe.com/webhooks#roll-endpoint-secrets).
// [Emulator.WebhookSecret] stays what it was.
func (e *Emulator) RollWebhookSecret(overlap time.Duration) (secret string) {
	e.change(func() {
		e.s.OldSecrets = append(e.s.OldSecrets, oldSecret{Secret: e.s.WebhookSecret, Until: e.now().Add(overlap).Unix()})
		e.s.WebhookSecret = "whsec_" + randomText(32)
		secret = e.s.WebhookSecret
	})
	return secret
}

// SetWebhookURL chooses where webhooks go from now on; events of before are
// not delivered unless they were pending.
func (e *Emulator) SetWebhookURL(url string) {
	e.send.mu.Lock()
	e.send.url = url
	e.send.mu.Unlock()
	e.send.wake()
}

// SetThinWebhooks chooses whether webhooks are thin from now on, those that
// wait included.
func (e *Emulator) SetThinWebhooks(thin bool) {
	e.send.mu.Lock()
	e.send.thin = thin
	e.send.mu.Unlock()
}

// SetAPIVersion changes Options.APIVersion, for the events from now on too.
func (e *Emulator) SetAPIVersion(version string) {
	e.mu.Lock()
	e.version = version
	e.mu.Unlock()
}

// HoldWebhooks keeps events from being delivered, until
// [Emulator.ReleaseWebhooks]. Meanwhile [Emulator.Deliver] delivers them in
// any order, as often as you like.
func (e *Emulator) HoldWebhooks() {
	e.send.mu.Lock()
	e.send.held = true
	e.send.mu.Unlock()
}

// ReleaseWebhooks delivers what was held back and still is undelivered, oldest
// first.
func (e *Emulator) ReleaseWebhooks() {
	e.send.mu.Lock()
	e.send.held = false
	e.send.mu.Unlock()
	e.send.wake()
}

// Fate is what becomes of a webhook.
type Fate int

// The fates of webhooks.
const (
	Prompt  Fate = iota // sent, and again until it is taken
	Lost                // never sent; the event list has it as undelivered
	Doubled             // sent again once it was taken
	Late                // overtaken by the next one, or a second late if there is none
)

// DisturbWebhooks asks f what becomes of each event that hasn't been sent yet.
// Nil: all are prompt again. Calls come from one goroutine, and may call the
// emulator.
func (e *Emulator) DisturbWebhooks(f func(Event) Fate) {
	e.send.mu.Lock()
	e.send.fate = f
	e.send.mu.Unlock()
}

// Deliver sends one event now, whether or not it was sent before, and returns
// the endpoint's status. An event that was answered with 2xx isn't pending any
// more, nor among the undelivered.
func (e *Emulator) Deliver(ctx context.Context, eventID string) (status int, err error) {
	if !e.send.connected() {
		return 0, fmt.Errorf("stripetest: deliver %.40s: no webhook URL", eventID)
	}
	return e.send.attempt(ctx, eventID, false)
}

// Undelivered returns the ids of the events that wait to be delivered, oldest
// first.
func (e *Emulator) Undelivered() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, o := range e.s.Events.all() {
		if o.Pending {
			out = append(out, o.ID)
		}
	}
	return out
}
