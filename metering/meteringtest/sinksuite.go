package meteringtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// SinkFixture is a sink under test.
type SinkFixture struct {
	Sink usage.Sink

	// Events returns what the sink has made durable, each event once. It waits
	// for what is on its way.
	Events func() []usage.Event
}

// NewEvent returns an event with every field set.
func NewEvent(id tenant.ID) usage.Event {
	return usage.Event{
		ID: tenant.NewID().String(), Tenant: id, Plan: tenant.Pro, Tool: "search", Units: 20,
		Outcome: usage.OK, Time: time.Date(2026, 11, 11, 12, 0, 0, 123_000_000, time.UTC),
		Duration: 1500 * time.Microsecond, Unmetered: true, RequestID: `key "1"`,
	}
}

// TestSink checks that a sink keeps what it has acknowledged, whole and once, and
// acknowledges only what a store takes.
//
// Mutations seen here, in Spool, Stream and Event.Validate: without the question, or
// without any one of the fields in it, what no store takes is acknowledged; an id in
// capitals, which is the same UUID, is refused.
func TestSink(t *testing.T, newSink func(t *testing.T) SinkFixture) {
	t.Run("keeps every field", func(t *testing.T) {
		f := newSink(t)
		e := NewEvent(tenant.NewID())
		require.NoError(t, f.Sink.Record(t.Context(), e))
		require.Equal(t, []usage.Event{e}, f.Events())
	})

	t.Run("keeps the same event once", func(t *testing.T) {
		f := newSink(t)
		e := NewEvent(tenant.NewID())
		for range 3 {
			require.NoError(t, f.Sink.Record(t.Context(), e))
		}
		require.Len(t, f.Events(), 1)
	})

	t.Run("refuses what no store takes", func(t *testing.T) {
		f := newSink(t)
		for field, spoil := range map[string]func(*usage.Event){
			"ID":     func(e *usage.Event) { e.ID = "" },
			"UUID":   func(e *usage.Event) { e.ID = "' or 1=1" },
			"Tenant": func(e *usage.Event) { e.Tenant = tenant.ID{} },
			"Time":   func(e *usage.Event) { e.Time = time.Time{} },
			"Units":  func(e *usage.Event) { e.Units = -1 },
		} {
			e := NewEvent(tenant.NewID())
			spoil(&e)
			require.ErrorContains(t, f.Sink.Record(t.Context(), e), field)
		}
		e := NewEvent(tenant.NewID())
		e.ID, e.Units = strings.ToUpper(e.ID), 0
		require.NoError(t, f.Sink.Record(t.Context(), e))
		require.Equal(t, []usage.Event{e}, f.Events())
	})

	t.Run("takes events from many at once", func(t *testing.T) {
		const callers, each = 16, 50
		f := newSink(t)
		errs := make(chan error, callers*each)
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				id := tenant.NewID()
				for range each {
					errs <- f.Sink.Record(t.Context(), NewEvent(id))
				}
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		seen := make(map[string]bool)
		for _, e := range f.Events() {
			require.False(t, seen[e.ID], fmt.Sprintf("event %s came twice", e.ID))
			seen[e.ID] = true
		}
		require.Len(t, seen, callers*each)
	})
}
