package pgledger

import "github.com/mcpsaas/mcpsaas/billing"

// targetColumns are what is kept of a target. The table goes by the name t.
const targetColumns = `t.tenant_id, t.provider, t.mode, t.customer, t.meter, t.meter_id, t.item, t.additive`

// fieldsOf are where targetColumns go, and more columns after them.
func fieldsOf(t *billing.Target, more ...any) []any {
	return append([]any{&t.Tenant, &t.Provider, &t.Mode, &t.Customer, &t.Meter, &t.MeterID, &t.Item, &t.Additive}, more...)
}
