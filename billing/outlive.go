package billing

import (
	"context"
	"time"
)

// What is left to finish when the process is told to stop: a call under way,
// and the write that records what became of it.
const (
	callGrace  = 3 * time.Second
	writeGrace = 2 * time.Second
)

// outlive returns a context that ends after most, or grace after ctx has,
// whichever is first.
func outlive(ctx context.Context, most, grace time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(grace, cancel)
		context.AfterFunc(out, func() { timer.Stop() })
	})
	return out, func() {
		stop()
		cancel()
	}
}
