package pgfeed

import "time"

// Times are the time from one poll to the next, and the age at which [Feed.Check]
// fails.
func (f *Feed) Times() (interval, maxAge time.Duration) { return f.opts.Interval, f.opts.MaxAge }
