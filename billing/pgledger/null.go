package pgledger

import (
	"fmt"
	"time"
)

// timeOrZero scans a timestamp, NULL as the zero time.
type timeOrZero struct{ t *time.Time }

// Scan implements sql.Scanner.
func (z timeOrZero) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*z.t = time.Time{}
	case time.Time:
		*z.t = v.UTC()
	default:
		return fmt.Errorf("can't scan %T as a time", src)
	}
	return nil
}

// timeOrNull is the argument for a timestamp: NULL for the zero time.
func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
