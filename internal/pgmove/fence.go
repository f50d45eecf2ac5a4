package pgmove

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	claimSQL = `
insert into mcpsaas.move_ends (tenant_id, owner) values ($1, $2)
on conflict (tenant_id) do update set owner = excluded.owner`

	unclaimSQL = `delete from mcpsaas.move_ends where tenant_id = $1 and owner = $2`
)

// Claim makes the move this process's at both places. It waits for what
// another one, killed meanwhile perhaps, has a server still at.
func (m *Move) Claim(ctx context.Context) error {
	for _, p := range m.places() {
		t, err := open(ctx, p, pgx.ReadCommitted)
		if err != nil {
			return err
		}
		if _, err = t.Exec(ctx, claimSQL, m.Tenant, m.Owner); err == nil {
			err = t.commit(ctx)
		}
		t.end(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// Unclaim ends what Claim began.
func (m *Move) Unclaim(ctx context.Context) error {
	for _, p := range m.places() {
		err := m.within(ctx, p, pgx.ReadCommitted, func(tx *tx) error {
			_, err := tx.Exec(ctx, unclaimSQL, m.Tenant, m.Owner)
			return err
		})
		if err != nil && !errors.Is(err, ErrLost) {
			return err
		}
	}
	return nil
}

func (m *Move) places() []*Place {
	if m.Same {
		return []*Place{m.From}
	}
	return []*Place{m.From, m.To}
}

const (
	readFenceSQL = `select epoch, open from mcpsaas.fence where tenant_id = $1`

	putFenceSQL = `
insert into mcpsaas.fence as f (tenant_id, epoch, open, schema_name) values ($1, $2, $3, $4)
on conflict (tenant_id) do update set epoch = excluded.epoch, open = excluded.open,
	schema_name = excluded.schema_name, changed_at = clock_timestamp()
where (f.epoch, f.open, f.schema_name) is distinct from (excluded.epoch, excluded.open, excluded.schema_name)`

	// olderSQL lists the transactions that may enter as a tenant and haven't,
	// as far as one can see: those that have hold the lock of a tenant.
	olderSQL = `
select l.virtualtransaction from pg_locks l
join pg_stat_activity a on a.pid = l.pid
join pg_roles r on r.rolname = a.usename
where l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock' and l.granted
	and a.datname = current_database() and a.usename <> session_user and not r.rolsuper
	and has_schema_privilege(r.oid, 'mcpsaas_app', 'usage')
	and not exists (select from pg_locks o where o.virtualtransaction = l.virtualtransaction and o.locktype = 'advisory' and o.granted)`

	stillSQL = `select count(*) from pg_locks where locktype = 'virtualxid' and granted and virtualtransaction = any ($1)`
)

// schemaName is what the fence says of a place.
func (p *Place) schemaName() *string {
	if p.Own {
		return &p.Schema
	}
	return nil
}

// Fence puts up the fences, as they are before the switch: that of the source
// open, that of another database's closed. It returns a function that waits
// for the transactions whose snapshot may be older than a fence: they can't see
// it, and must not enter after the switch.
func (m *Move) Fence(ctx context.Context) (wait func(context.Context) error, err error) {
	if err := m.fenceSource(ctx); err != nil {
		return nil, err
	}
	if !m.Same {
		err := m.within(ctx, m.To, pgx.ReadCommitted, func(tx *tx) error { return m.putFence(ctx, tx, m.To, m.Epoch+1, false) })
		if err != nil {
			return nil, err
		}
	}
	var older []string
	err = m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error {
		rows, err := tx.Query(ctx, olderSQL)
		if err != nil {
			return err
		}
		older, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return func(ctx context.Context) error { return m.outlive(ctx, older) }, err
}

func (m *Move) fenceSource(ctx context.Context) error {
	return m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error {
		var epoch int64
		var isOpen bool
		err := tx.QueryRow(ctx, readFenceSQL, m.Tenant).Scan(&epoch, &isOpen)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return m.putFence(ctx, tx, m.From, m.Epoch, true)
		case err == nil && (epoch != m.Epoch || !isOpen):
			err = fmt.Errorf("the fence of the source is at epoch %d (open: %t), and the tenant at %d", epoch, isOpen, m.Epoch)
		}
		return err
	})
}

func (m *Move) putFence(ctx context.Context, t *tx, p *Place, epoch int64, isOpen bool) error {
	_, err := t.Exec(ctx, putFenceSQL, m.Tenant, epoch, isOpen, p.schemaName())
	return err
}

// outlive waits until none of the transactions is left.
func (m *Move) outlive(ctx context.Context, transactions []string) error {
	for attempt := 0; len(transactions) > 0; attempt++ {
		var left int
		err := m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error {
			return tx.QueryRow(ctx, stillSQL, transactions).Scan(&left)
		})
		if err != nil || left == 0 {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
	return nil
}
