package health

import (
	"context"
	"sync"
)

// tenantCache holds the results of tenants' checks, a bounded number of them.
//
// A tenant that has to make room while its check runs loses its place, not its
// run: the slots, not the cache, bound how many run.
type tenantCache struct {
	a     *Aggregator
	slots chan struct{}

	mu  sync.Mutex
	lru *lru[string, []*entry]
}

func newTenantCache(a *Aggregator) *tenantCache {
	return &tenantCache{
		a:     a,
		slots: make(chan struct{}, a.opts.TenantConcurrency),
		lru:   newLRU[string, []*entry](a.opts.MaxTenants),
	}
}

// entries returns the checks of a tenant, in the order of
// [Options].TenantChecks.
func (c *tenantCache) entries(id string) []*entry {
	if len(c.a.opts.TenantChecks) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if entries, ok := c.lru.get(id); ok {
		return entries
	}
	entries := make([]*entry, len(c.a.opts.TenantChecks))
	for i, check := range c.a.opts.TenantChecks {
		entries[i] = &entry{
			a: c.a, slots: c.slots, timeout: check.Timeout, ttl: check.TTL, damping: check.Failures,
			run:  func(ctx context.Context) error { return check.Run(ctx, id) },
			last: Result{Name: check.Name, Tenant: id, Criticality: check.Criticality, Status: StatusUnknown},
		}
	}
	c.lru.put(id, entries)
	return entries
}
