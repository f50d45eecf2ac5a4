package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Purge takes away the copies that moves of the tenant have left behind,
// whether their time is over or not. The tenant's own place is never touched.
func (m *Mover) Purge(ctx context.Context, id tenant.ID) error {
	if err := m.purgeSome(ctx, id, func(*moveRow) bool { return true }); err != nil {
		return fmt.Errorf("tenancy: purge old copies: %w", err)
	}
	return nil
}

// PurgeDue does so for all tenants, with those copies whose time is over
// ([MoverOptions.Keep]), and returns how many tenants had any. It goes on when one
// fails. A program that moves tenants calls it now and then.
func (m *Mover) PurgeDue(ctx context.Context) (tenants int, err error) {
	now := m.opts.Now()
	rows, err := m.data.control.Query(ctx, dueMovesSQL, now)
	if err != nil {
		return 0, fmt.Errorf("tenancy: purge old copies: %w", redact(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[tenant.ID])
	if err != nil {
		return 0, fmt.Errorf("tenancy: purge old copies: %w", redact(err))
	}
	var errs []error
	for _, id := range ids {
		err := m.purgeSome(ctx, id, func(row *moveRow) bool { return row.KeepUntil != nil && !row.KeepUntil.After(now) })
		if err != nil {
			errs = append(errs, fmt.Errorf("tenancy: purge old copies: tenant %s: %w", id, err))
			continue
		}
		tenants++
	}
	return tenants, errors.Join(errs...)
}

func (m *Mover) purgeSome(ctx context.Context, id tenant.ID, which func(*moveRow) bool) error {
	return m.data.hold(ctx, id, holdExclusive, func(_ pgx.Tx, _ home, p place) error {
		return m.purge(ctx, p, which)
	})
}

// purge takes away the kept copies of the tenant that are wanted. Its caller
// holds the tenant, whose own place is own.
func (m *Mover) purge(ctx context.Context, own place, which func(*moveRow) bool) error {
	rows, err := m.keptRows(ctx, own.tenant)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if which(row) {
			if err := m.purgeCopy(ctx, own, row); err != nil {
				return fmt.Errorf("%s: %w", row.Source, err)
			}
		}
	}
	return nil
}

func (m *Mover) keptRows(ctx context.Context, id tenant.ID) ([]*moveRow, error) {
	rows, err := m.data.control.Query(ctx, keptMovesSQL, id)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[moveRow])
}

const purgedSQL = `update mcpsaas.moves set state = 'purged', updated_at = clock_timestamp() where id = $1 and state = 'kept'`

func (m *Mover) purgeCopy(ctx context.Context, own place, row *moveRow) error {
	at, err := ParsePlacement(row.Source)
	if err != nil {
		return err
	}
	copied, err := m.data.placeAt(own.tenant, at)
	if err != nil {
		return err
	}
	if copied.at == own.at {
		return errors.New("the tenant has moved back there") // which a move doesn't do without purging it first
	}
	if at.Tier == TierSchema {
		err = copied.asOwner(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, lockTimeoutSQL); err != nil {
				return err
			}
			return dropSchema(ctx, tx, own.tenant)
		})
	} else {
		// Both ends are the copy: the tenant's own place has no part in it.
		engine := m.ends(copied, copied, row.Epoch)
		defer engine.Done()
		engine.Owner = token()
		if err = engine.Claim(ctx); err == nil {
			_, err = engine.Clear(ctx, engine.To, m.data.batch)
		}
		if err == nil {
			err = engine.Unclaim(ctx)
		}
	}
	if err != nil {
		return err
	}
	_, err = m.data.control.Exec(ctx, purgedSQL, row.ID)
	return err
}
