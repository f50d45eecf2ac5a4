package redisquota

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// receipt names a question, and where Redis keeps that it was carried out: see
// receipt.lua. The zero value is of a question that leaves none.
type receipt struct {
	tenant  tenant.ID
	process uint64 // 40 bits
	lane    uint32 // of the process, 24 bits
	number  uint64 // of the question, 48 bits
}

// name is the receipt for a script; empty for none.
func (q receipt) name() string {
	if q.number == 0 {
		return ""
	}
	return string(append48(binary.BigEndian.AppendUint64(nil, q.process<<24|uint64(q.lane)), int64(q.number)))
}

// slot is a name for the slots of the call that no other call has.
func (q receipt) slot() string {
	if q.number == 0 {
		return string(binary.BigEndian.AppendUint64(nil, rand.Uint64()))
	}
	return q.name()
}

// String is what readReceipt reads.
func (q receipt) String() string { return hex.EncodeToString([]byte(q.name())) }

func readReceipt(text string) (q receipt, err error) {
	if text == "" {
		return q, nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 14 {
		return q, fmt.Errorf("%q is no receipt", text)
	}
	lane := binary.BigEndian.Uint64(b)
	return receipt{process: lane >> 24, lane: uint32(lane & (1<<24 - 1)), number: uint64(read48(string(b[8:])))}, nil
}

// lanes is where a process' questions about each tenant come by, side by side: as
// few as there are questions at once, so that few receipts are kept. Nothing
// comes any more by one whose question is in doubt: its receipt must stay until
// somebody has looked at it.
type lanes struct {
	mu      sync.Mutex
	process uint64
	number  uint64
	busy    map[tenant.ID]busyLanes
}

// busyLanes are those from 0 on to next, but for the free ones.
type busyLanes struct {
	next uint32
	free []uint32
}

// enter returns the receipt of a new question, if r asks for one.
func (l *lanes) enter(r metering.Request) receipt {
	if !r.Receipt {
		return receipt{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy == nil {
		l.process, l.busy = rand.Uint64()>>24, make(map[tenant.ID]busyLanes)
	}
	l.number++
	b := l.busy[r.Tenant]
	lane := b.next
	if n := len(b.free); n > 0 {
		lane, b.free = b.free[n-1], b.free[:n-1]
	} else {
		b.next++
	}
	l.busy[r.Tenant] = b
	return receipt{tenant: r.Tenant, process: l.process, lane: lane, number: l.number}
}

// leave ends a question, and returns its error with what follows from it.
func (l *lanes) leave(q receipt, err error) error {
	if q.number == 0 {
		return err
	}
	if err != nil && !errors.As(err, new(notAskedError)) {
		return doubtError{err, q}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.busy[q.tenant]
	if b.free = append(b.free, q.lane); len(b.free) == int(b.next) {
		delete(l.busy, q.tenant)
	} else {
		l.busy[q.tenant] = b
	}
	return err
}

// doubtError is how package metering knows that only the receipt tells whether a
// question was carried out.
type doubtError struct {
	error
	receipt receipt
}

func (e doubtError) Unwrap() error   { return e.error }
func (e doubtError) Receipt() string { return e.receipt.String() }

// notAskedError is how package metering knows that a question has not been asked.
type notAskedError struct{ error }

func (e notAskedError) Unwrap() error  { return e.error }
func (e notAskedError) NotAsked() bool { return true }

// notAsked marks an error after which a script has surely not run, and won't:
// there was no connection, or Redis refused. After a connection that broke, or a
// time-out, it may have.
func notAsked(err error) error {
	if refused, ok := errors.AsType[redis.Error](err); ok && refused != redis.Nil {
		return notAskedError{err}
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		return notAskedError{err}
	}
	return err
}
