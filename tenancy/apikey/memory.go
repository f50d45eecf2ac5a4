package apikey

import (
	"crypto/sha256"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// entry is a key as it is judged. It is replaced, never changed, but for used.
type entry struct {
	id      keyID
	subject string // id as text
	tenant  tenant.ID
	scopes  []string
	hash    [sha256.Size]byte
	pepper  *pepper   // nil if it is not configured here
	expires time.Time // zero if never
	revoked time.Time // zero if not
	version int64     // rises with each change of the row
	local   bool      // written by this process, perhaps not read back yet

	used *atomic.Int64 // when it was last noted as used, in Unix seconds
}

// dead reports whether the key is refused for good.
func (e *entry) dead(now time.Time) bool {
	return !e.revoked.IsZero() || !e.expires.IsZero() && !now.Before(e.expires)
}

// memory holds every key that is alive, or was lately.
type memory struct {
	mu     sync.RWMutex
	keys   map[keyID]*entry
	loaded atomic.Bool
}

func (m *memory) get(id keyID) *entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.keys[id]
}

// put keeps e unless a later version of it is known: what this process wrote
// and what the feed read may arrive in either order.
func (m *memory) put(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.merge(e)
}

func (m *memory) merge(e *entry) {
	if known := m.keys[e.id]; known != nil {
		if known.version > e.version {
			return
		}
		e.used = known.used
	}
	m.keys[e.id] = e
}

// apply takes what the feed read; see [pgfeed.Source].
func (m *memory) apply(rows []*entry, full bool, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if full {
		// What this process wrote may have been committed after the rows were
		// read; everything else is as the rows say.
		maps.DeleteFunc(m.keys, func(_ keyID, e *entry) bool { return !e.local })
		defer m.loaded.Store(true)
	}
	for _, e := range rows {
		if !full || !e.dead(now) || m.keys[e.id] != nil {
			m.merge(e)
		}
	}
}

// sweep forgets the keys that have been dead for so long that no older version
// of their row can still be on its way here.
func (m *memory) sweep(now time.Time) {
	old := now.Add(-time.Hour)
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.keys, func(_ keyID, e *entry) bool {
		return !e.revoked.IsZero() && e.revoked.Before(old) || !e.expires.IsZero() && e.expires.Before(old)
	})
}

const columns = `id, tenant_id, scopes, hash, pepper_id, expires_at, revoked_at, version`

const feedSQL = `select ` + columns + ` from mcpsaas.api_keys where changed >= $1`

// scan reads a row of columns.
func (s *Store) scan(row pgx.CollectableRow) (*entry, error) {
	var (
		id, pepperID string
		hash         []byte
		expires      *time.Time
		revoked      *time.Time
		e            = &entry{used: new(atomic.Int64)}
	)
	if err := row.Scan(&id, &e.tenant, &e.scopes, &hash, &pepperID, &expires, &revoked, &e.version); err != nil {
		return nil, err
	}
	copy(e.id[:], id)
	e.subject = id
	copy(e.hash[:], hash)
	if expires != nil {
		e.expires = *expires
	}
	if revoked != nil {
		e.revoked = *revoked
	}
	e.pepper = s.pepper(pepperID)
	return e, nil
}
