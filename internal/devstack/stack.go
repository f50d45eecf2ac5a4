//go:build linux || darwin

package devstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

type services struct {
	w        *workspace
	postgres *postgres
	redis    *Redis
	standIn  *miniredis.Miniredis
}

// Start starts what opts asks for. When it fails, nothing is left running.
func Start(ctx context.Context, opts Options) (*Stack, error) {
	w, err := openWorkspace(ctx, opts.Dir, opts.Fast)
	if err != nil {
		return nil, err
	}
	s := &Stack{Dir: w.dir, services: services{w: w}}
	if err := s.start(ctx, opts); err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, opts Options) error {
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if opts.Postgres {
		if s.postgres, err = startPostgres(ctx, s.w, opts.Fast); err != nil {
			return err
		}
		if err := s.postgres.ensureDatabase(ctx); err != nil {
			return err
		}
		s.DatabaseURL = s.postgres.url(OwnerRole, databaseName)
		s.AppDatabaseURL = s.postgres.url(AppRole, databaseName)
		s.SuperuserURL = s.postgres.url(superuser, databaseName)
		logger.Info("development PostgreSQL started", "port", s.postgres.port)
	}
	if !opts.Redis {
		return nil
	}
	s.redis, err = startRedis(ctx, s.w, !opts.Fast)
	var missing *MissingError
	switch {
	case err == nil:
		s.RedisURL = s.redis.URL()
		logger.Info("development Redis started", "port", s.redis.port)
	case errors.As(err, &missing):
		s.standIn = miniredis.NewMiniRedis()
		if err := s.standIn.Start(); err != nil {
			s.standIn = nil
			return fmt.Errorf("devstack: start the stand-in for Redis: %w", err)
		}
		s.RedisURL = "redis://" + s.standIn.Addr() + "/0"
		s.Banner = append(s.Banner, "Redis: in-memory stand-in, counters are lost at exit. For the real one: "+missing.Install)
		logger.Info("in-memory stand-in for Redis started", "reason", missing.Reason)
	default:
		return err
	}
	return nil
}

// Close stops the servers and removes the directory unless Options.Dir named
// it. Each server gets 5 seconds, or until ctx ends if that is sooner, and is
// killed then. Close may be called twice.
func (s *Stack) Close(ctx context.Context) error {
	if s.w == nil {
		return nil
	}
	bound := func() time.Duration {
		if deadline, ok := ctx.Deadline(); ok {
			return min(stopBound, time.Until(deadline))
		}
		return stopBound
	}
	var errs []error
	if s.standIn != nil {
		s.standIn.Close()
	}
	if s.redis != nil {
		errs = append(errs, s.redis.end(syscall.SIGTERM, bound()))
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.close(bound()))
	}
	errs = append(errs, s.w.release())
	s.services = services{}
	return errors.Join(errs...)
}
