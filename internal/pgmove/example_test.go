package pgmove_test

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgmove"
)

// The steps of a move within one database, without the record of how far it is.
func ExampleMove() {
	move := func(ctx context.Context, m *pgmove.Move, flip func(context.Context, pgx.Tx) error) error {
		defer m.Done()
		if err := m.Claim(ctx); err != nil {
			return err
		}
		if problems, err := m.Prepare(ctx); err != nil || len(problems) > 0 {
			return err
		}
		outlive, err := m.Fence(ctx)
		if err != nil {
			return err
		}
		if err := m.Capture(ctx); err != nil {
			return err
		}
		if _, err := m.Copy(ctx, nil); err != nil {
			return err
		}
		if _, err := m.Verify(ctx); err != nil {
			return err
		}
		if err := outlive(ctx); err != nil {
			return err
		}
		if _, err := m.Switch(ctx, time.Second, flip); err != nil {
			return err
		}
		if err := m.Release(ctx); err != nil {
			return err
		}
		return m.Unclaim(ctx)
	}
	_ = move
}
