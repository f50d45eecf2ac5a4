package health

import "container/list"

// lru is a map of at most size keys: putting one more drops the one that was
// used longest ago. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	size  int
	order *list.List // of item[K, V], last used first
	items map[K]*list.Element
}

type item[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](size int) *lru[K, V] {
	return &lru[K, V]{size: size, order: list.New(), items: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (V, bool) {
	at, ok := l.items[key]
	if !ok {
		var none V
		return none, false
	}
	l.order.MoveToFront(at)
	return at.Value.(item[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	if at, ok := l.items[key]; ok {
		at.Value = item[K, V]{key, value}
		l.order.MoveToFront(at)
		return
	}
	if l.order.Len() == l.size {
		delete(l.items, l.order.Remove(l.order.Back()).(item[K, V]).key)
	}
	l.items[key] = l.order.PushFront(item[K, V]{key, value})
}
