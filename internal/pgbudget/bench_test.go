package pgbudget_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/internal/pgbudget"
)

// BenchmarkAcquire takes and gives back an idle connection, beside a pgxpool's.
func BenchmarkAcquire(b *testing.B) {
	f := newFleet(b, 1, pgbudget.Options{MaxConnsPerPool: 50, Now: nil})
	pool := f.dbs[0].Pool(b)
	ours := func(b testing.TB) {
		c, err := f.Acquire(b.Context(), "a")
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
	}
	theirs := func(b testing.TB) {
		c, err := pool.Acquire(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
	}
	for _, one := range []struct {
		name string
		run  func(testing.TB)
	}{{"budget", ours}, {"pgxpool", theirs}} {
		b.Run(one.name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				one.run(b)
			}
		})
		b.Run(one.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					one.run(b)
				}
			})
		})
	}
}

// BenchmarkCrowd has twice as many databases as connections, with two callers
// each: what a change of database costs is shared by the callers of a quantum.
// With one of a nanosecond it takes 50 times as long.
func BenchmarkCrowd(b *testing.B) {
	const conns = 8
	db := devtest.DB(b, empty)
	f := newFleet(b, 0, pgbudget.Options{MaxConns: conns})
	for i := range 2 * conns {
		f.set(fmt.Sprint(i), db.URL)
	}
	work := make(chan int)
	var workers sync.WaitGroup
	for i := range 4 * conns {
		key := fmt.Sprint(i / 2)
		workers.Go(func() {
			for range work {
				c, err := f.Acquire(b.Context(), key)
				if err != nil {
					b.Error(err)
					continue
				}
				_, _ = c.Conn().Exec(b.Context(), `select 1`)
				c.Release()
			}
		})
	}
	b.ResetTimer()
	for range b.N {
		work <- 0
	}
	close(work)
	workers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(f.Stats().Opened)/float64(b.N), "opened/op")
}
