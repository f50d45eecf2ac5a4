package billing

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDecide is the replay rule as a table.
func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	meter := Caps{DedupeWindow: 23 * time.Hour, VerifyLag: 15 * time.Minute, LateGrace: time.Hour, MaxAge: 35 * 24 * time.Hour}
	record := Caps{Overwrite: true, VerifyLag: 15 * time.Minute}
	end := now.Add(24 * time.Hour)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	batch := func(end, first, last time.Time) Batch {
		return Batch{Delivery: Delivery{PeriodEnd: end, Slot: ago(30 * time.Hour), FirstSent: first, LastSent: last}}
	}
	never := time.Time{}
	refused := batch(end, ago(time.Hour), ago(time.Hour))
	refused.Refused = true
	crowded := batch(end, ago(24*time.Hour), ago(24*time.Hour))
	crowded.WindowSent = ago(5 * time.Minute)
	old := batch(end, never, never)
	old.Slot = ago(36 * 24 * time.Hour)
	keyed := Caps{DedupeWindow: 23 * time.Hour, KeyOnly: true, VerifyLag: 15 * time.Minute}
	under := func(epoch, first time.Time) Batch {
		b := batch(end, first, ago(time.Hour))
		b.EpochAt = epoch
		return b
	}
	for _, tc := range []struct {
		name  string
		batch Batch
		caps  Caps
		want  Step
		until time.Time
	}{
		{"never sent", batch(end, never, never), meter, StepSend, never},
		{"never sent, in grace", batch(ago(59*time.Minute), never, never), meter, StepSend, never},
		{"never sent, after grace", batch(ago(time.Hour), never, never), meter, StepLate, never},
		{"never sent, record, closed", batch(now, never, never), record, StepLate, never},
		{"never sent, too old", old, meter, StepLate, never},
		{"sent, within the window", batch(end, ago(23*time.Hour-1), ago(time.Minute)), meter, StepSend, never},
		{"sent, after the window, totals may lag", batch(end, ago(23*time.Hour), ago(14*time.Minute)), meter, StepHold, now.Add(time.Minute)},
		{"sent, after the window", batch(end, ago(23*time.Hour), ago(15*time.Minute)), meter, StepVerify, never},
		{"sent, after the window, another one's lag", crowded, meter, StepHold, now.Add(10 * time.Minute)},
		{"sent, within the window, after grace", batch(ago(time.Hour), ago(2*time.Hour), ago(2*time.Hour)), meter, StepVerify, never},
		{"record, sent days ago", batch(end, ago(50*time.Hour), ago(time.Minute)), record, StepSend, never},
		{"record, sent, closed", batch(ago(time.Hour), ago(2*time.Hour), ago(2*time.Hour)), record, StepVerify, never},
		{"refused after an unknown", refused, meter, StepVerify, never},
		{"refused after an unknown, record", refused, record, StepVerify, never},
		{"key only, never sent", batch(end, never, never), keyed, StepSend, never},
		{"key only, within the window", under(ago(23*time.Hour-1), ago(23*time.Hour-1)), keyed, StepSend, never},
		{"key only, after the window", under(ago(23*time.Hour), ago(23*time.Hour)), keyed, StepVerify, never},
		{"key only, the key is older than the send", under(ago(23*time.Hour), ago(time.Hour)), keyed, StepVerify, never},
		{"key only, first sent under another", under(ago(time.Hour), ago(2*time.Hour)), keyed, StepVerify, never},
		{"key only, a failure is saved under it", under(never, ago(time.Hour)), keyed, StepVerify, never},
		{"a provider that knows nothing", batch(end, ago(time.Second), ago(time.Second)), Caps{}, StepVerify, never},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := decide(tc.batch, tc.caps, now)
			require.Equal(t, tc.want, got.Step)
			require.Equal(t, tc.until, got.Until)
			require.Equal(t, tc.want == StepLate, got.Reason != "")
		})
	}
}

// TestDecideEpoch: a key that the provider may have forgotten is not used
// again.
func TestDecideEpoch(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	b := Batch{Delivery: Delivery{PeriodEnd: now.Add(time.Hour), FirstSent: now.Add(-50 * time.Hour)}}
	for age, want := range map[time.Duration]bool{0: false, 23*time.Hour - 1: false, 23 * time.Hour: true} {
		b.EpochAt = now.Add(-age)
		require.Equal(t, want, decide(b, Caps{Overwrite: true}, now).NewEpoch, age)
	}
	b.EpochAt = time.Time{}
	require.False(t, decide(b, Caps{Overwrite: true}, now).NewEpoch, "no key was used yet")

	// Where the key is all, it lasts as long as the provider says.
	keyed := Caps{DedupeWindow: 30 * 24 * time.Hour, KeyOnly: true}
	b.FirstSent, b.EpochAt = now.Add(-50*time.Hour), now.Add(-50*time.Hour)
	require.Equal(t, Decision{Step: StepSend}, decide(b, keyed, now))
	b.FirstSent, b.EpochAt = time.Time{}, now.Add(-31*24*time.Hour) // refused at once, a month ago
	require.Equal(t, Decision{Step: StepSend, NewEpoch: true}, decide(b, keyed, now))
}

// TestJudge: what an answer proves, alone and after an attempt whose answer
// was lost.
func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	open := func(attempt int, first time.Time) Batch {
		return Batch{Attempt: attempt, Delivery: Delivery{FirstSent: first, PeriodEnd: now.Add(time.Hour)}}
	}
	for _, tc := range []struct {
		result       Result
		first, after State
	}{
		{Accepted, StateConfirmed, StateConfirmed},
		{AlreadyAccepted, StateConfirmed, StateConfirmed},
		{Unknown, StateUnknown, StateUnknown},
		{NotApplied, StateSealed, StateUnknown},
		{Unauthorized, StateSealed, StateUnknown},
		{Rejected, StateRejected, StateUnknown},
	} {
		v := judgeReceipt(open(1, time.Time{}), Receipt{Result: tc.result, RetryAfter: time.Hour, NewEpoch: true}, Caps{}, now)
		require.Equal(t, tc.first, v.State, tc.result)
		require.Equal(t, tc.first == StateSealed || tc.first == StateRejected, v.Clean)
		require.Equal(t, now.Add(time.Hour), v.NextAt)
		require.True(t, v.NewEpoch)
		require.Equal(t, tc.result != Unknown && tc.result != Unauthorized, v.Answered)
		require.Equal(t, tc.result == Unauthorized, v.Unauthorized)

		v = judgeReceipt(open(2, now), Receipt{Result: tc.result}, Caps{}, now)
		require.Equal(t, tc.after, v.State, tc.result)
		require.False(t, v.Clean)
		require.Equal(t, tc.result == Rejected, v.Refused)
	}
	for _, tc := range []struct {
		presence Presence
		refused  bool
		want     State
	}{
		{Present, false, StateConfirmed},
		{Present, true, StateConfirmed},
		{Absent, false, StateSealed},
		{Absent, true, StateRejected},
		{Ambiguous, false, StateParked},
		{Unsupported, false, StateParked},
	} {
		b := open(2, now)
		b.Refused = tc.refused
		v := judgePresence(b, tc.presence, Caps{}, now)
		require.Equal(t, tc.want, v.State)
		require.Equal(t, tc.presence == Absent, v.Clean)
	}
	// A refusal when the period is over says that it is over.
	v := judgeReceipt(Batch{Delivery: Delivery{PeriodEnd: now.Add(30 * time.Second)}}, Receipt{Result: Rejected}, Caps{}, now)
	require.Equal(t, StateSealed, v.State)
	require.True(t, v.Clean)
	require.True(t, v.NextAt.After(now), "our own clock may be behind")
	late := Batch{Refused: true, Delivery: Delivery{PeriodEnd: now, FirstSent: now}}
	v = judgePresence(late, Absent, Caps{}, now)
	require.Equal(t, StateSealed, v.State)
	require.True(t, v.Clean)
}

// TestBackoff stays within its bounds, however many attempts there were.
func TestBackoff(t *testing.T) {
	t.Parallel()
	for attempt := range 100 {
		d := backoff(attempt)
		require.GreaterOrEqual(t, d, 1500*time.Millisecond)
		require.LessOrEqual(t, d, 5*time.Minute)
	}
}
