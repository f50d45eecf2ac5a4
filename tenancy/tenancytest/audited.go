package tenancytest

import (
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// Audited fails the test with one line for each finding of [tenancy.Audit] of
// severity warning or error, with the statement that mends it. It reads the
// catalog of the database and changes nothing, so that it fits at the end of
// the test of your migrations; db is a connection, a pool or a transaction of
// the owner's, and nil opts are the default.
//
// [Isolation] tries what this reads: it finds what no rule knows, in the tables
// that it is given. This finds the table that nobody gave it.
func Audited(t T, db tenancy.AuditConn, opts *tenancy.AuditOptions) {
	t.Helper()
	report, err := tenancy.Audit(t.Context(), db, opts)
	if err != nil {
		t.Errorf("unproved: %v", err)
		return
	}
	if report.Tables == 0 {
		t.Errorf("unproved: there are no tables of tenants")
	}
	for _, f := range report.At(tenancy.SeverityWarning) {
		if f.Mend == "" {
			t.Errorf("%s: %s: %s: %s", f.Rule, f.Name, f.Object, f.Message)
			continue
		}
		t.Errorf("%s: %s: %s: %s\n\tmend: %s", f.Rule, f.Name, f.Object, f.Message, f.Mend)
	}
}
