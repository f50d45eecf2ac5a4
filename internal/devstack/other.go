//go:build !linux && !darwin

package devstack

import (
	"context"
	"errors"
	"runtime"
)

var errUnsupported = errors.New("devstack: servers are started on Linux and macOS only, not on " + runtime.GOOS +
	": set DATABASE_URL, APP_DATABASE_URL and REDIS_URL")

type services struct{}

// Start fails on this operating system.
func Start(context.Context, Options) (*Stack, error) { return nil, errUnsupported }

// Close does nothing on this operating system.
func (s *Stack) Close(context.Context) error { return nil }

// Redis can't be had on this operating system.
type Redis struct{}

// StartRedis fails on this operating system.
func StartRedis(context.Context, bool) (*Redis, error) { return nil, errUnsupported }

// StartRedisProgram fails on this operating system.
func StartRedisProgram(context.Context, string, ...string) (*Redis, error) {
	return nil, errUnsupported
}

// Addr is empty.
func (r *Redis) Addr() string { return "" }

// URL is empty.
func (r *Redis) URL() string { return "" }

// DatabaseURL is empty.
func (r *Redis) DatabaseURL(int) string { return "" }

// Start fails.
func (r *Redis) Start(context.Context) error { return errUnsupported }

// Stop fails.
func (r *Redis) Stop() error { return errUnsupported }

// Kill fails.
func (r *Redis) Kill() error { return errUnsupported }

// Freeze fails.
func (r *Redis) Freeze() error { return errUnsupported }

// Thaw fails.
func (r *Redis) Thaw() error { return errUnsupported }

// Close does nothing.
func (r *Redis) Close() error { return nil }
