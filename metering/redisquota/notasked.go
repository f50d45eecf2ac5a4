package redisquota

import (
	"errors"
	"net"

	"github.com/redis/go-redis/v9"
)

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
