package usage

import "context"

// SinkFunc makes a function a [Sink].
type SinkFunc func(ctx context.Context, e Event) error

// Record calls f.
func (f SinkFunc) Record(ctx context.Context, e Event) error { return f(ctx, e) }

// StoreFunc makes a function a [Store].
type StoreFunc func(ctx context.Context, events []Event) (added int, err error)

// Append calls f.
func (f StoreFunc) Append(ctx context.Context, events []Event) (int, error) { return f(ctx, events) }
