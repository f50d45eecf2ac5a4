package tenancy_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// Five hundred tables, each with three columns, two indexes and two policies.
var wide = devtest.Template{Name: "wide", Migrate: func(ctx context.Context, conn *pgx.Conn) error {
	if err := tenancy.Migrate(ctx, conn); err != nil {
		return err
	}
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("wide_%d", i))
		if _, err := conn.Exec(ctx, fmt.Sprintf(`create table wide_%d (tenant_id uuid not null, id uuid not null, name text, primary key (tenant_id, id), unique (tenant_id, name))`, i)); err != nil {
			return err
		}
	}
	if err := tenancy.Protect(ctx, conn, names...); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `analyze`)
	return err
}}

// BenchmarkAudit reads and judges 502 tables of tenants, which are to take no
// more than 200 ms.
func BenchmarkAudit(b *testing.B) {
	d := devtest.DB(b, wide)
	pool := d.Pool(b)
	for b.Loop() {
		report, err := tenancy.Audit(b.Context(), pool, nil)
		require.NoError(b, err)
		require.Empty(b, report.Findings)
		require.Equal(b, 502, report.Tables)
	}
}
