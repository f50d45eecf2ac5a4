package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Tables in which a write that is lost, done twice or done too early shows:
// rows that refer to others of their table, positions that are unique and
// swapped, numbers that a sequence gives.
const crewTables = `
create table items (
	tenant_id uuid not null,
	id        uuid not null,
	owner     int not null,
	position  int not null,
	value     bigint not null,
	doubled   bigint generated always as (value * 2) stored,
	parent    uuid,
	primary key (tenant_id, id),
	unique (tenant_id, owner, position),
	foreign key (tenant_id, parent) references items (tenant_id, id)
);
create table notes (
	tenant_id uuid not null,
	id        uuid not null,
	item      uuid not null,
	body      text not null,
	primary key (tenant_id, id),
	foreign key (tenant_id, item) references items (tenant_id, id) on delete cascade
);
create index on notes (tenant_id, item);
create index on items (tenant_id, parent);
create table events (
	tenant_id uuid not null,
	seq       bigint generated always as identity,
	owner     int not null,
	n         bigint not null,
	primary key (tenant_id, seq)
);`

// crew are writers of one tenant, at full speed while the tenant is moved. Each
// keeps to rows of its own, and knows what they must be.
type crew struct {
	*estate
	id      tenant.ID
	db      *tenancy.DB
	writers []*writer
	pace    time.Duration // between two writes of a writer; zero: full speed
	acked   atomic.Int64
	lost    atomic.Int64 // calls that found the tenant nowhere: after a kill alone
	stop    context.CancelFunc
	done    sync.WaitGroup
}

type item struct {
	position int
	value    int64
	parent   tenant.ID // the zero ID: none
}

type note struct {
	item tenant.ID
	body string
}

// writer is one of them and what it was told.
type writer struct {
	*crew
	owner  int
	iso    pgx.TxIsoLevel
	rand   *rand.Rand
	items  map[tenant.ID]item
	notes  map[tenant.ID]note
	events map[int64]int64 // n by seq
	n      int64
	last   time.Time // of the last acknowledged write
	gap    time.Duration
}

// newCrew starts nothing yet.
func newCrew(t testing.TB, writers int, opts *tenancy.Options) *crew {
	t.Helper()
	c := &crew{pace: 20 * time.Millisecond, estate: newEstate(t, sqlFiles("0001_crew.sql", crewTables))}
	c.id = c.tenant(tenancy.Placement{})
	directory, err := tenancy.NewDirectory(c.control, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { directory.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	require.NoError(t, directory.Ready(t.Context()))
	if opts == nil {
		opts = &tenancy.Options{}
	}
	opts.Directory, opts.MaxConns = directory, int32(writers)
	opts.Databases = &tenancy.DatabasesOptions{MaxConnsPerTenant: writers, Resolver: tenancy.ResolverFunc(func(_ context.Context, ref string) (string, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.databases[ref].As(tenancy.AppRole), nil
	})}
	c.db, err = tenancy.Open(t.Context(), c.home.As(tenancy.AppRole), opts)
	require.NoError(t, err)
	t.Cleanup(c.db.Close)
	if devtest.Soak() {
		c.pace = 0
	}
	for i := range writers {
		iso := pgx.ReadCommitted
		if i%2 == 1 {
			iso = pgx.RepeatableRead
		}
		c.writers = append(c.writers, &writer{crew: c, owner: i, iso: iso, rand: rand.New(rand.NewPCG(uint64(i), 1)),
			items: make(map[tenant.ID]item), notes: make(map[tenant.ID]note), events: make(map[int64]int64)})
	}
	return c
}

// away adds a database of its own for tenants, empty.
func (c *crew) away(name string, db *devtest.Database) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.databases[name] = db
}

// start has the writers write.
func (c *crew) start(t testing.TB) {
	ctx, cancel := context.WithCancel(as(context.WithoutCancel(t.Context()), c.id))
	c.stop = sync.OnceFunc(func() { cancel(); c.done.Wait() })
	t.Cleanup(c.stop)
	for _, w := range c.writers {
		w.last = time.Now()
		c.done.Go(func() {
			turn := time.NewTicker(max(c.pace, 1))
			defer turn.Stop()
			for ctx.Err() == nil {
				if c.pace > 0 {
					<-turn.C
				}
				// A call that was begun ends, or it wouldn't be known how.
				if err := w.write(context.WithoutCancel(ctx)); err != nil {
					t.Errorf("writer %d: %v", w.owner, err)
					return
				}
			}
		})
	}
}

// write does one thing, again until it is done.
func (w *writer) write(ctx context.Context) error {
	for {
		acked, err := w.attempt(ctx)
		if err == nil {
			if acked {
				w.acked.Add(1)
				w.gap, w.last = max(w.gap, time.Since(w.last)), time.Now()
			}
			return nil
		}
		pg, _ := errors.AsType[*pgconn.PgError](err)
		// These say for sure that nothing was done.
		if errors.Is(err, tenancy.ErrMoved) {
			w.lost.Add(1)
			continue
		}
		if pg != nil && slices.Contains([]string{"40001", "40P01"}, pg.Code) {
			continue
		}
		return err
	}
}

// pick returns one of the writer's items.
func (w *writer) pick() (tenant.ID, item, bool) {
	if len(w.items) == 0 {
		return tenant.ID{}, item{}, false
	}
	k := w.rand.IntN(min(len(w.items), 20)) // the order of a map is random as it is
	for id, it := range w.items {
		if k--; k < 0 {
			return id, it, true
		}
	}
	return tenant.ID{}, item{}, false
}

func orNull(id tenant.ID) any {
	if id.IsZero() {
		return nil
	}
	return id
}

const insertItemSQL = `insert into items (tenant_id, id, owner, position, value, parent) values (default, $1, $2, $3, $4, $5)`

func (w *writer) attempt(ctx context.Context) (acked bool, err error) {
	id, it, ok := w.pick()
	kind := w.rand.IntN(12)
	if !ok {
		kind = 0
	}
	w.n++
	switch kind {
	case 0, 1: // a new item, below another
		if !it.parent.IsZero() {
			id = it.parent
		}
		fresh := item{position: int(w.n) + 1_000_000, value: w.n, parent: id}
		key := tenant.NewID()
		if _, err = w.db.Exec(ctx, insertItemSQL, key, w.owner, fresh.position, fresh.value, orNull(fresh.parent)); err == nil {
			w.items[key] = fresh
		}
	case 2, 3:
		if err = w.one(w.db.Exec(ctx, `update items set value = $2 where id = $1`, id, w.n)); err == nil {
			it.value = w.n
			w.items[id] = it
		}
	case 4:
		key, fresh := tenant.NewID(), note{id, fmt.Sprint("note ", w.n)}
		if _, err = w.db.Exec(ctx, `insert into notes (id, item, body) values ($1, $2, $3)`, key, fresh.item, fresh.body); err == nil {
			w.notes[key] = fresh
		}
	case 5: // a note goes to another item
		for key, n := range w.notes {
			if err = w.one(w.db.Exec(ctx, `update notes set item = $2 where id = $1`, key, id)); err == nil {
				n.item = id
				w.notes[key] = n
			}
			return err == nil, err
		}
		return false, nil
	case 6:
		return w.swap(ctx, id, it)
	case 7, 8:
		return w.remove(ctx, id, it, kind == 8)
	case 9, 10:
		var seq int64
		if err = w.db.QueryRow(ctx, `insert into events (owner, n) values ($1, $2) returning seq`, w.owner, w.n).Scan(&seq); err == nil {
			if _, twice := w.events[seq]; twice {
				return false, fmt.Errorf("event %d was there already", seq)
			}
			w.events[seq] = w.n
		}
	case 11: // what is read must be what was written last, wherever it is
		return w.count(ctx, id, it)
	}
	return err == nil, err
}

func (w *writer) one(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("%s: the row isn't there", tag)
	}
	return err
}

func (w *writer) tx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return w.db.Tx(ctx, tenancy.TxOptions{IsoLevel: w.iso}, fn)
}

// swap exchanges two unique values.
func (w *writer) swap(ctx context.Context, a tenant.ID, first item) (bool, error) {
	b, second, _ := w.pick()
	if a == b {
		return false, nil
	}
	err := w.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		for _, step := range []struct {
			id tenant.ID
			to int
		}{{a, -w.owner - 1}, {b, first.position}, {a, second.position}} {
			if err := w.one(tx.Exec(ctx, `update items set position = $2 where id = $1`, step.id, step.to)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	first.position, second.position = second.position, first.position
	w.items[a], w.items[b] = first, second
	return true, nil
}

// remove deletes an item that has none below it, with its notes, and gives its
// position to a new one.
func (w *writer) remove(ctx context.Context, id tenant.ID, it item, again bool) (bool, error) {
	for _, other := range w.items {
		if other.parent == id {
			return false, nil
		}
	}
	key, fresh := tenant.NewID(), item{position: it.position, value: w.n}
	err := w.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := w.one(tx.Exec(ctx, `delete from items where id = $1`, id)); err != nil || !again {
			return err
		}
		_, err := tx.Exec(ctx, insertItemSQL, key, w.owner, fresh.position, fresh.value, nil)
		return err
	})
	if err != nil {
		return false, err
	}
	delete(w.items, id)
	maps.DeleteFunc(w.notes, func(_ tenant.ID, n note) bool { return n.item == id })
	if again {
		w.items[key] = fresh
	}
	return true, nil
}

func (w *writer) count(ctx context.Context, id tenant.ID, it item) (bool, error) {
	err := w.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var value int64
		if err := tx.QueryRow(ctx, `select value from items where id = $1`, id).Scan(&value); err != nil {
			return err
		}
		if value != it.value {
			return fmt.Errorf("item %s is %d and was %d", id, value, it.value)
		}
		return w.one(tx.Exec(ctx, `update items set value = $2 where id = $1`, id, value+1))
	})
	if err != nil {
		return false, err
	}
	it.value++
	w.items[id] = it
	return true, nil
}

// verify stops the writers and compares what they know with what is there, row
// by row.
func (c *crew) verify(t testing.TB) {
	t.Helper()
	c.stop()
	var items, notes, events []string
	for _, w := range c.writers {
		for id, it := range w.items {
			parent := ""
			if !it.parent.IsZero() {
				parent = it.parent.String()
			}
			items = append(items, fmt.Sprintf("%s %d %d %d %d %s", id, w.owner, it.position, it.value, it.value*2, parent))
		}
		for id, n := range w.notes {
			notes = append(notes, fmt.Sprintf("%s %s %s", id, n.item, n.body))
		}
		for seq, n := range w.events {
			events = append(events, fmt.Sprintf("%d %d %d", seq, w.owner, n))
		}
	}
	c.sameSet(t, "items", items, `concat_ws(' ', id, owner, position, value, doubled, coalesce(parent::text, ''))`)
	c.sameSet(t, "notes", notes, `concat_ws(' ', id, item, body)`)
	c.sameSet(t, "events", events, `concat_ws(' ', seq, owner, n)`)
}

// sameSet compares what should be with what is in a table.
func (c *crew) sameSet(t testing.TB, name string, want []string, expr string) {
	t.Helper()
	db, schema := c.at(c.id)
	rows, err := db.Conn(t, "postgres").Query(t.Context(), "select "+expr+" from "+schema+"."+name+" where tenant_id = $1", c.id)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	slices.Sort(want)
	slices.Sort(got)
	missing, more := 0, 0
	for _, row := range want {
		if _, ok := slices.BinarySearch(got, row); !ok {
			missing++
		}
	}
	for _, row := range got {
		if _, ok := slices.BinarySearch(want, row); !ok {
			more++
		}
	}
	require.True(t, missing == 0 && more == 0 && len(want) == len(got),
		"%s: %d acknowledged rows are lost or stale, %d are there that should not be, of %d", name, missing, more, len(want))
}

// until waits until the crew has written so much more.
func (c *crew) until(t testing.TB, more int64) {
	t.Helper()
	from := c.acked.Load()
	require.Eventually(t, func() bool { return c.acked.Load() >= from+more || t.Failed() }, time.Minute, time.Millisecond)
}
