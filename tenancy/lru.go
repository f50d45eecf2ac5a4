package tenancy

import (
	"container/list"

	"github.com/jackc/pgx/v5/pgconn"
)

// lru keeps the descriptions of statements that were used last. Its zero value
// keeps none: set bound. It is not safe for concurrent use.
type lru[K comparable] struct {
	bound   int
	entries map[K]*list.Element
	order   list.List // of *lruEntry[K], the one used last first
}

type lruEntry[K comparable] struct {
	key         K
	description *pgconn.StatementDescription
}

func (l *lru[K]) get(key K) (*pgconn.StatementDescription, bool) {
	e, ok := l.entries[key]
	if !ok {
		return nil, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruEntry[K]).description, true
}

// put keeps a description, and returns the one that had to go for it, if any.
func (l *lru[K]) put(key K, description *pgconn.StatementDescription) (dropped *pgconn.StatementDescription) {
	dropped = l.drop(key)
	if dropped == nil && l.order.Len() >= l.bound {
		if e := l.order.Back(); e != nil {
			dropped = l.drop(e.Value.(*lruEntry[K]).key)
		}
	}
	if l.entries == nil {
		l.entries = make(map[K]*list.Element)
	}
	l.entries[key] = l.order.PushFront(&lruEntry[K]{key, description})
	return dropped
}

// drop forgets a description and returns it, if it was there.
func (l *lru[K]) drop(key K) *pgconn.StatementDescription {
	e, ok := l.entries[key]
	if !ok {
		return nil
	}
	delete(l.entries, key)
	l.order.Remove(e)
	return e.Value.(*lruEntry[K]).description
}
