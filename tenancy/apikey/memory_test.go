package apikey

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What this process wrote and what the feed read may arrive in either order.
// Mutations seen by this test: merge without the comparison of versions, apply
// dropping local entries.
func TestMemoryKeepsTheLatestVersion(t *testing.T) {
	t.Parallel()
	now := time.Now()
	id, _ := parseKeyID("0123456789AB")
	at := func(version int64, revoked bool) *entry {
		e := &entry{id: id, version: version, used: new(atomic.Int64)}
		if revoked {
			e.revoked = now
		}
		return e
	}
	m := &memory{keys: make(map[keyID]*entry)}
	m.apply([]*entry{at(2, true)}, false, now)
	late := at(1, false)
	late.local = true
	m.put(late)
	require.False(t, m.get(id).revoked.IsZero(), "a late write brought a revoked key back")

	m = &memory{keys: make(map[keyID]*entry)}
	m.put(late)
	m.apply(nil, true, now)
	require.NotNil(t, m.get(id), "a key issued while the first load was under way is lost")
	m.apply([]*entry{at(1, false)}, false, now)
	m.apply(nil, true, now)
	require.Nil(t, m.get(id), "a key that a whole load doesn't have is still there")
	require.True(t, m.loaded.Load())
}

func TestMemorySweepsTheLongDead(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := &memory{keys: make(map[keyID]*entry)}
	for i, e := range []*entry{
		{},
		{expires: now.Add(time.Hour)},
		{expires: now.Add(-time.Minute)},
		{revoked: now.Add(-time.Minute)},
		{expires: now.Add(-2 * time.Hour)},
		{revoked: now.Add(-2 * time.Hour)},
	} {
		e.id[0], e.used = byte(i), new(atomic.Int64)
		m.put(e)
	}
	m.sweep(now)
	require.Len(t, m.keys, 4)
}
