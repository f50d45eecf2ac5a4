package apikey

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrClaimed means that the first key of a tenant was handed over before, or
// can't be any more: its time was up, or it was revoked. Issue another.
var ErrClaimed = errors.New("apikey: the first key was claimed already or its time is up")

const (
	handoffSQL = `
insert into mcpsaas.api_key_handoffs (tenant_id, key_id, sealed, pepper_id, expires_at)
values ($1, $2, $3, $4, $5)`

	firstSQL = `select id from mcpsaas.api_keys where tenant_id = $1 and first`

	claimSQL = `
delete from mcpsaas.api_key_handoffs h using mcpsaas.api_keys k
where h.tenant_id = $1 and k.id = h.key_id
returning h.key_id, h.sealed, h.pepper_id, least(h.expires_at, k.expires_at), k.revoked_at is not null`
)

// IssueFirst makes the first key of a tenant, once: called again, also at once
// and from other processes, it changes nothing. It returns the key's id. The
// token waits, encrypted, for [Store.Claim].
func (s *Store) IssueFirst(ctx context.Context, t tenant.ID, spec Spec) (keyID string, err error) {
	if err := s.validate(t, &spec); err != nil {
		return "", fmt.Errorf("apikey: issue first: %w", err)
	}
	err = s.change(ctx, func(tx pgx.Tx) ([]*entry, error) {
		e, key, err := s.insert(ctx, tx, t, spec, true)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, tx.QueryRow(ctx, firstSQL, t).Scan(&keyID)
		}
		keyID = key.ID
		p := s.peppers[0]
		_, err = tx.Exec(ctx, handoffSQL, t, key.ID, p.sealToken(t, e.id, key.Token), p.id, s.opts.Now().Add(s.opts.HandoffTTL))
		return []*entry{e}, err
	})
	if err != nil {
		return "", fmt.Errorf("apikey: issue first: %w", err)
	}
	return keyID, nil
}

// Claim returns the token of a tenant's first key to the first who asks, and
// [ErrClaimed] to everyone after, or when Options.HandoffTTL is over. It
// returns [ErrNotFound] while there is no first key.
func (s *Store) Claim(ctx context.Context, t tenant.ID) (token string, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var (
			id, pepperID string
			sealed       []byte
			expires      time.Time
			revoked      bool
		)
		err := tx.QueryRow(ctx, claimSQL, t).Scan(&id, &sealed, &pepperID, &expires, &revoked)
		if errors.Is(err, pgx.ErrNoRows) {
			if err = tx.QueryRow(ctx, firstSQL, t).Scan(&id); errors.Is(err, pgx.ErrNoRows) {
				return ErrNotFound
			} else if err != nil {
				return err
			}
			return ErrClaimed
		}
		if err != nil {
			return err
		}
		if revoked || !expires.After(s.opts.Now()) {
			return ErrClaimed // rolled back; prune deletes the row
		}
		p := s.pepper(pepperID)
		if p == nil {
			return errors.New("the key was sealed with a pepper that is not configured")
		}
		parsed, _ := parseKeyID(id)
		token, err = p.openToken(t, parsed, sealed)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("apikey: claim: %w", pgredact.Error(err))
	}
	return token, nil
}
