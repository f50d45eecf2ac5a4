package billing

import (
	"math/rand/v2"
	"time"
)

// keyLife is how long an idempotency key is used. Providers keep keys for at
// least 24 hours (https://docs.stripe.com/api/idempotent_requests); a key that
// may have been forgotten smooths nothing.
const keyLife = 23 * time.Hour

// clockMargin is how much the provider's clock may be ahead of ours when it
// ends a billing period.
const clockMargin = time.Minute

// decide says what to do with a batch that is due. It is the whole replay
// rule:
//
//   - what was never sent is sent, while the provider still takes its period;
//   - what was sent may be sent again while the provider is sure to recognise
//     the repetition: if that is by the key alone, under the same key, as long
//     as it is remembered and no failure is saved under it;
//   - else the provider's totals decide, once they must show the last send of
//     whatever is in them;
//   - what comes too late is not sent, because a provider may accept it and
//     never bill it.
func decide(b Batch, caps Caps, now time.Time) Decision {
	clean := b.FirstSent.IsZero()
	taken := b.taken(caps, now)
	life := keyLife
	if caps.KeyOnly {
		life = caps.DedupeWindow
	}
	send := Decision{
		Step:     StepSend,
		NewEpoch: !b.EpochAt.IsZero() && now.Sub(b.EpochAt) >= life,
	}
	known := now.Sub(b.FirstSent) < caps.DedupeWindow
	if caps.KeyOnly {
		// The first send, too, was under the key of this epoch.
		known = known && !send.NewEpoch && !b.EpochAt.IsZero() && !b.EpochAt.After(b.FirstSent)
	}
	switch {
	case clean && taken:
		return send
	case clean:
		return Decision{Step: StepLate, Reason: "the provider no longer takes usage of this billing period"}
	case !b.Refused && taken && (caps.Overwrite || known):
		return send
	}
	last := b.LastSent
	if b.WindowSent.After(last) {
		last = b.WindowSent
	}
	if shows := last.Add(caps.VerifyLag); now.Before(shows) {
		return Decision{Step: StepHold, Until: shows}
	}
	return Decision{Step: StepVerify}
}

// taken reports whether the provider takes usage of the batch's period, and of
// its age.
func (b Batch) taken(caps Caps, now time.Time) bool {
	return now.Before(b.PeriodEnd.Add(caps.LateGrace)) && (caps.MaxAge == 0 || now.Sub(b.Slot) < caps.MaxAge)
}

// judgeReceipt turns the provider's answer to a send into a verdict. An answer
// is about its own attempt: that this one was not applied says nothing of an
// earlier one whose answer was lost. A refusal once the period is over is for
// being late, not for good.
func judgeReceipt(b Batch, r Receipt, caps Caps, now time.Time) Verdict {
	clean := b.FirstSent.IsZero()
	v := Verdict{
		State:     StateUnknown,
		NextAt:    now.Add(max(r.RetryAfter, backoff(b.Attempt))),
		NewEpoch:  r.NewEpoch,
		RequestID: r.RequestID,
		Reason:    r.Reason,
		Answered:  r.Result != Unknown && r.Result != Unauthorized,
	}
	switch r.Result {
	case Accepted, AlreadyAccepted:
		v.State = StateConfirmed
	case NotApplied, Unauthorized:
		v.Unauthorized = r.Result == Unauthorized
		if clean {
			v.State, v.Clean = StateSealed, true
		}
	case Rejected:
		switch {
		case !clean:
			v.Refused, v.NextAt = true, now
		case b.taken(caps, now.Add(clockMargin)):
			v.State, v.Clean = StateRejected, true
		default:
			v.State, v.Clean = StateSealed, true
		}
	}
	return v
}

// judgePresence turns what the provider's totals say into a verdict.
func judgePresence(b Batch, p Presence, caps Caps, now time.Time) Verdict {
	v := Verdict{NextAt: now, Answered: true}
	switch {
	case p == Present:
		v.State = StateConfirmed
	case p == Absent && b.Refused && b.taken(caps, now.Add(clockMargin)):
		v.State, v.Clean, v.Reason = StateRejected, true, "refused by the provider, and not in its totals"
	case p == Absent:
		v.State, v.Clean, v.NewEpoch = StateSealed, true, true
	case p == Ambiguous && b.WindowUnproved:
		// Whatever could be settled by repetition was settled before (see
		// Ledger.Claim), so waiting would not help.
		v.State, v.Reason = StateParked, "the provider's totals can't tell it from another batch of the same window that is in doubt"
	case p == Unsupported:
		v.State, v.Reason = StateParked, "may have been applied, and the provider can't tell"
	default:
		v.State, v.Reason = StateParked, "the provider's totals fit neither that it was applied nor that it was not"
	}
	return v
}

// backoff returns how long to wait after the given attempt: 2 seconds doubling
// up to 5 minutes, spread by a quarter so that targets which failed together
// don't return together.
func backoff(attempt int) time.Duration {
	const most = 5 * time.Minute
	d := most
	if attempt < 9 {
		d = min(most, 2*time.Second<<max(attempt-1, 0))
	}
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}
