package apikey

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrNotFound means that there is no such key.
var ErrNotFound = errors.New("apikey: no such key")

// Spec says what a new key is to be.
type Spec struct {
	// Name tells the tenant's keys apart for people: up to 100 characters.
	Name string

	// Scopes are what the key allows. Defaults to [tenant.ScopeTools].
	Scopes []string

	// ExpiresAt is when the key stops working. A key with
	// [tenant.ScopeCanary] must have it, within a day. Defaults to never.
	ExpiresAt time.Time

	// CreatedBy is who asked for the key, for the record.
	CreatedBy string
}

// Key is a key that was just made. The token is shown once: it is stored
// nowhere.
type Key struct {
	ID    string
	Token string
}

// Limits of what a Spec may hold.
const (
	maxName   = 100
	maxScopes = 64
	maxScope  = 160
	maxCanary = 24 * time.Hour
)

func (s *Store) validate(t tenant.ID, spec *Spec) error {
	if t.IsZero() {
		return errors.New("a tenant is required")
	}
	for _, text := range []struct{ field, value string }{{"Name", spec.Name}, {"CreatedBy", spec.CreatedBy}} {
		if utf8.RuneCountInString(text.value) > maxName || !printable(text.value) {
			return fmt.Errorf("Spec.%s %.120q: want at most %d printable characters", text.field, text.value, maxName)
		}
	}
	if len(spec.Scopes) == 0 {
		spec.Scopes = []string{tenant.ScopeTools}
	}
	if len(spec.Scopes) > maxScopes {
		return fmt.Errorf("Spec.Scopes: %d of them, want at most %d", len(spec.Scopes), maxScopes)
	}
	for _, scope := range spec.Scopes {
		if scope == "" || len(scope) > maxScope || !printable(scope) {
			return fmt.Errorf("Spec.Scopes: %.120q: want 1 to %d printable bytes", scope, maxScope)
		}
	}
	now := s.opts.Now()
	if !spec.ExpiresAt.IsZero() && !spec.ExpiresAt.After(now) {
		return fmt.Errorf("Spec.ExpiresAt %s is in the past", spec.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if slices.Contains(spec.Scopes, tenant.ScopeCanary) &&
		(spec.ExpiresAt.IsZero() || spec.ExpiresAt.After(now.Add(maxCanary))) {
		return fmt.Errorf("Spec.ExpiresAt: a key with scope %s must expire within %s", tenant.ScopeCanary, maxCanary)
	}
	return nil
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// channel carries the news that keys have changed. The notice has no content.
const channel = "mcpsaas_api_keys"

const notifySQL = `select pg_notify('` + channel + `', '')`

const insertSQL = `
insert into mcpsaas.api_keys (id, tenant_id, name, scopes, hash, pepper_id, first, created_by, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (tenant_id) where first do nothing
returning ` + columns

// Issue makes a key of a tenant. In this process the key works when Issue
// returns, in others within a second.
func (s *Store) Issue(ctx context.Context, t tenant.ID, spec Spec) (Key, error) {
	if err := s.validate(t, &spec); err != nil {
		return Key{}, fmt.Errorf("apikey: issue: %w", err)
	}
	var key Key
	err := s.change(ctx, func(tx pgx.Tx) ([]*entry, error) {
		e, made, err := s.insert(ctx, tx, t, spec, false)
		key = made
		return []*entry{e}, err
	})
	if err != nil {
		return Key{}, fmt.Errorf("apikey: issue: %w", err)
	}
	return key, nil
}

// insert makes a key. For a first key that exists already it returns nil.
func (s *Store) insert(ctx context.Context, tx pgx.Tx, t tenant.ID, spec Spec, first bool) (*entry, Key, error) {
	id, token := newToken(s.opts.Env)
	p := s.peppers[0]
	var expires *time.Time
	if !spec.ExpiresAt.IsZero() {
		expires = &spec.ExpiresAt
	}
	rows, err := tx.Query(ctx, insertSQL, id.String(), t, spec.Name, spec.Scopes, p.hashOf(token), p.id, first, spec.CreatedBy, expires)
	if err != nil {
		return nil, Key{}, err
	}
	e, err := pgx.CollectExactlyOneRow(rows, s.scan)
	if first && errors.Is(err, pgx.ErrNoRows) {
		return nil, Key{}, nil
	}
	return e, Key{ID: id.String(), Token: token}, err
}

// change runs fn in a transaction that announces itself to the other replicas,
// and afterwards keeps the rows that fn returns in this one's memory.
func (s *Store) change(ctx context.Context, fn func(pgx.Tx) ([]*entry, error)) error {
	var changed []*entry
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		if changed, err = fn(tx); err != nil || len(changed) == 0 {
			return err
		}
		_, err = tx.Exec(ctx, notifySQL)
		return err
	})
	if err != nil {
		return pgredact.Error(err)
	}
	for _, e := range changed {
		e.local = true
		s.memory.put(e)
	}
	return nil
}

const (
	rotateSQL = `
select tenant_id, name, scopes, created_by, created_at, expires_at
from mcpsaas.api_keys where id = $1 and revoked_at is null for update`

	retireSQL = `
update mcpsaas.api_keys
set expires_at = least(expires_at, $2), version = version + 1, changed = pg_current_xact_id()
where id = $1
returning ` + columns
)

// Rotate makes a key like an existing one, which goes on working for overlap.
// The new key has the lifetime of the old, if that had one. It returns
// [ErrNotFound] for a key that doesn't exist or is revoked or expired.
func (s *Store) Rotate(ctx context.Context, keyID string, overlap time.Duration) (Key, error) {
	id, ok := parseKeyID(keyID)
	if !ok {
		return Key{}, fmt.Errorf("apikey: rotate: %w", ErrNotFound)
	}
	if overlap < 0 {
		return Key{}, errors.New("apikey: rotate: overlap must not be negative")
	}
	var key Key
	now := s.opts.Now()
	err := s.change(ctx, func(tx pgx.Tx) ([]*entry, error) {
		var (
			t       tenant.ID
			spec    Spec
			created time.Time
			expires *time.Time
		)
		err := tx.QueryRow(ctx, rotateSQL, id.String()).
			Scan(&t, &spec.Name, &spec.Scopes, &spec.CreatedBy, &created, &expires)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && expires != nil && !expires.After(now) {
			return nil, ErrNotFound
		}
		if err != nil {
			return nil, err
		}
		if expires != nil {
			spec.ExpiresAt = now.Add(expires.Sub(created))
		}
		rows, err := tx.Query(ctx, retireSQL, id.String(), now.Add(overlap))
		if err != nil {
			return nil, err
		}
		old, err := pgx.CollectExactlyOneRow(rows, s.scan)
		if err != nil {
			return nil, err
		}
		e, made, err := s.insert(ctx, tx, t, spec, false)
		key = made
		return []*entry{old, e}, err
	})
	if err != nil {
		return Key{}, fmt.Errorf("apikey: rotate: %w", err)
	}
	return key, nil
}
