package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	putConfigSQL = `
insert into tenant_config (tenant_id, key, value) values ($1, $2, $3)
on conflict (tenant_id, key) do update set value = excluded.value`
	dropConfigSQL   = `delete from tenant_config where tenant_id = $1 and key = $2`
	selectConfigSQL = `select key, value from tenant_config where tenant_id = $1`
)

// SetConfig writes settings of tenant_config, those that the tenant has already
// too; an empty value removes one. [Data.Configure] leaves what is there.
func (d *Data) SetConfig(ctx context.Context, id tenant.ID, settings map[string]string) error {
	err := d.within(ctx, id, holdShared, pgx.TxOptions{}, func(_ place, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for key, value := range settings {
			switch {
			case key == "":
				return errors.New("a setting has no name")
			case value == "":
				batch.Queue(dropConfigSQL, id, key)
			default:
				batch.Queue(putConfigSQL, id, key, value)
			}
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("tenancy: set tenant's configuration: %w", err)
	}
	return nil
}

// Config returns the settings of tenant_config that the tenant has.
func (d *Data) Config(ctx context.Context, id tenant.ID) (map[string]string, error) {
	settings := make(map[string]string)
	err := d.within(ctx, id, holdShared, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(_ place, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, selectConfigSQL, id)
		if err != nil {
			return err
		}
		var key, value string
		_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error {
			settings[key] = value
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tenancy: read tenant's configuration: %w", err)
	}
	return settings, nil
}
