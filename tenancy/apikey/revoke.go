package apikey

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	// A key that is revoked already is returned unchanged, so that revoking
	// twice is no error and does not move the date.
	revokeSQL = `
update mcpsaas.api_keys
set revoked_at = coalesce(revoked_at, $2), version = version + 1, changed = pg_current_xact_id()
where id = $1
returning ` + columns

	revokeAllSQL = `
update mcpsaas.api_keys
set revoked_at = $2, version = version + 1, changed = pg_current_xact_id()
where tenant_id = $1 and revoked_at is null
returning ` + columns

	dropHandoffSQL = `delete from mcpsaas.api_key_handoffs where tenant_id = $1`
)

// Revoke ends a key: in this process at once, in others within a second. It is
// no error to revoke a key twice. A key that doesn't exist is [ErrNotFound].
func (s *Store) Revoke(ctx context.Context, keyID string) error {
	id, ok := parseKeyID(keyID)
	if !ok {
		return fmt.Errorf("apikey: revoke: %w", ErrNotFound)
	}
	err := s.change(ctx, func(tx pgx.Tx) ([]*entry, error) {
		changed, err := s.collect(ctx, tx, revokeSQL, id.String(), s.opts.Now())
		if err == nil && len(changed) == 0 {
			err = ErrNotFound
		}
		return changed, err
	})
	if err != nil {
		return fmt.Errorf("apikey: revoke: %w", err)
	}
	return nil
}

// RevokeAll ends all keys of a tenant, one that waits to be claimed included,
// and returns how many were alive or expired until then.
func (s *Store) RevokeAll(ctx context.Context, t tenant.ID) (int, error) {
	n := 0
	err := s.change(ctx, func(tx pgx.Tx) ([]*entry, error) {
		if _, err := tx.Exec(ctx, dropHandoffSQL, t); err != nil {
			return nil, err
		}
		changed, err := s.collect(ctx, tx, revokeAllSQL, t, s.opts.Now())
		n = len(changed)
		return changed, err
	})
	if err != nil {
		return 0, fmt.Errorf("apikey: revoke all: %w", err)
	}
	return n, nil
}

func (s *Store) collect(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]*entry, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, s.scan)
}

// Info is what is known of a key, without its secret. Times that are zero mean
// never.
type Info struct {
	ID         string    `json:"id"`
	Tenant     tenant.ID `json:"tenant"`
	Name       string    `json:"name"`
	Scopes     []string  `json:"scopes"`
	First      bool      `json:"first"` // the key that onboarding made
	CreatedBy  string    `json:"created_by"`
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	RevokedAt  time.Time `json:"revoked_at,omitzero"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // to the minute
}

const (
	infoSQL = `
select id, tenant_id, name, scopes, first, created_by, created_at, expires_at, revoked_at, last_used_at
from mcpsaas.api_keys `

	listSQL = infoSQL + `where tenant_id = $1 order by created_at, id`

	expiringSQL = infoSQL + `
where revoked_at is null and $1 = any (scopes) and expires_at > $2 and expires_at <= $3
order by expires_at, id`
)

// List returns the keys of a tenant, oldest first, revoked and expired ones
// included.
func (s *Store) List(ctx context.Context, t tenant.ID) ([]Info, error) {
	infos, err := s.infos(ctx, listSQL, t)
	if err != nil {
		return nil, fmt.Errorf("apikey: list: %w", err)
	}
	return infos, nil
}

// Expiring returns the live keys of all tenants that carry scope and expire
// within the given time, soonest first: the key of an external probe should be
// replaced days before it ends, or the probe's silence will look like an
// outage.
func (s *Store) Expiring(ctx context.Context, scope string, within time.Duration) ([]Info, error) {
	now := s.opts.Now()
	infos, err := s.infos(ctx, expiringSQL, scope, now, now.Add(within))
	if err != nil {
		return nil, fmt.Errorf("apikey: expiring: %w", err)
	}
	return infos, nil
}

func (s *Store) infos(ctx context.Context, sql string, args ...any) ([]Info, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, pgredact.Error(err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (i Info, err error) {
		var expires, revoked, used *time.Time
		err = row.Scan(&i.ID, &i.Tenant, &i.Name, &i.Scopes, &i.First, &i.CreatedBy, &i.CreatedAt, &expires, &revoked, &used)
		i.CreatedAt, i.ExpiresAt, i.RevokedAt, i.LastUsedAt = i.CreatedAt.UTC(), utc(expires), utc(revoked), utc(used)
		return i, err
	})
}

func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
