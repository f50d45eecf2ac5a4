package tenancy

import (
	"strconv"
	"time"
)

// Limits bound what each of a tenant's statements may take. Zero is the
// connection's own limit, which is PostgreSQL's default of none unless the URL,
// the role or the database says otherwise.
type Limits struct {
	StatementTimeout time.Duration // of each statement, to the millisecond
	LockTimeout      time.Duration // of each wait for a lock, to the millisecond
}

// or returns the limits of l, and those of other where l has none.
func (l Limits) or(other Limits) Limits {
	if l.StatementTimeout <= 0 {
		l.StatementTimeout = other.StatementTimeout
	}
	if l.LockTimeout <= 0 {
		l.LockTimeout = other.LockTimeout
	}
	return l
}

func (l Limits) limited() bool { return l.StatementTimeout > 0 || l.LockTimeout > 0 }

// milliseconds renders a limit for set_config; nil leaves it as it is. A limit
// below a millisecond is one, because zero would be none.
func milliseconds(d time.Duration) []byte {
	if d <= 0 {
		return nil
	}
	return strconv.AppendInt(nil, max(d.Milliseconds(), 1), 10)
}
