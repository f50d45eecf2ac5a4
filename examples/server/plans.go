package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// offer is a plan as the sign-up page shows it and as the catalog at Stripe
// has it. What a plan may use stands in plans.
type offer struct {
	Plan  tenant.Plan
	Name  string
	Cents int64  // a month
	Unit  string // price of a unit in cents, as Stripe takes decimals
	Price string
	Limit string
}

var offers = []offer{
	{tenant.Free, "Free", 0, "0", "$0", "100 units an hour"},
	{tenant.Starter, "Starter", 1900, "0.2", "$19 a month + $0.002 a unit", "1,000 units an hour"},
	{tenant.Pro, "Pro", 4900, "0.1", "$49 a month + $0.001 a unit", "10,000 units an hour"},
	{tenant.Enterprise, "Enterprise", 49900, "0.05", "$499 a month + $0.0005 a unit", "unlimited"},
}

// plans is what the tenants of each plan may use. Metering's defaults do for a
// shop; Plan.Without would keep a tool out of one.
var plans = metering.DefaultPlans()

// tools is what each tool costs.
var tools = map[string]metering.Tool{
	"search_products": {Units: 1},
	"add_product":     {Units: 1},
	"generate_report": {Units: 20},
	"usage":           {Free: true},
	"health_check":    {Free: true},
}

// late is what becomes of usage that its billing period takes no more, by plan.
// Free usage costs nothing in any period, and is reported all the same. An
// enterprise's books want each month's by itself: Stripe charges for it as an item
// of the next invoice.
var late = map[tenant.Plan]billing.LatePolicy{
	tenant.Free:       billing.LateNextPeriod,
	tenant.Starter:    billing.LateNextPeriod,
	tenant.Pro:        billing.LateNextPeriod,
	tenant.Enterprise: billing.LateInvoiceItem,
}

// limits keep one tenant's statement, or the lock that it waits for, from taking what
// others need. A call as a whole has toolTimeout.
func limits(t tenant.Tenant) tenancy.Limits {
	switch t.Plan {
	case tenant.Pro, tenant.Enterprise:
		return tenancy.Limits{StatementTimeout: 10 * time.Second, LockTimeout: 2 * time.Second}
	}
	return tenancy.Limits{StatementTimeout: 5 * time.Second, LockTimeout: time.Second}
}

func sold(plan tenant.Plan) bool {
	for _, o := range offers {
		if o.Plan == plan {
			return true
		}
	}
	return false
}

func planNames() string {
	names := make([]string, len(offers))
	for i, o := range offers {
		names[i] = string(o.Plan)
	}
	return strings.Join(names, ", ")
}

// quote makes what a stranger typed safe and short enough to repeat.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.QuoteToASCII(s)
}
