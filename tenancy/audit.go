package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// AuditOptions configure [Audit]. The zero value is the default.
type AuditOptions struct {
	// Roles are the roles that tenants' statements log in as.
	// Defaults to [AppRole].
	Roles []string

	// Allow lists findings that someone has looked at and accepts, such as a
	// table that all tenants share on purpose.
	// Defaults to none.
	Allow []Allowance

	// Strict also reports what holds on every PostgreSQL as it is installed and
	// takes a superuser to mend: that anyone may make large objects.
	// Defaults to false.
	Strict bool
}

// Allowance accepts one finding. One that no finding answers to is reported
// itself, so that the list doesn't outlive what it was written for.
type Allowance struct {
	Rule   string `json:"rule"`   // the rule's id, such as "TEN121"
	Object string `json:"object"` // as the finding spells it, such as "public.countries"
	Reason string `json:"reason"` // why it is harmless; must not be empty
}

// Finding is one place where isolation is broken, or where a later mistake
// would break it.
type Finding struct {
	Rule     string   `json:"rule"`
	Name     string   `json:"name"` // the rule's, for people
	Severity Severity `json:"severity"`
	Object   string   `json:"object"`
	Message  string   `json:"message"`

	// Mend is SQL to be run outside of a transaction by the owner or, where the
	// message says so, a superuser. It is empty if the answer isn't one
	// statement but a decision.
	Mend string `json:"mend,omitempty"`

	// Reason is the allowance's, in [AuditReport.Allowed].
	Reason string `json:"reason,omitempty"`
}

// AuditReport is what an audit found. The findings are in an order in which
// their mends can be run one after the other.
type AuditReport struct {
	Findings []Finding `json:"findings"`
	Allowed  []Finding `json:"allowed"`
	Tables   int       `json:"tables"` // how many tenants' tables there are
}

// At returns the findings of at least this severity.
func (r *AuditReport) At(least Severity) []Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Severity < least })
}

// Err returns an [*AuditError] with the findings of at least this severity, or
// nil if there are none.
func (r *AuditReport) Err(least Severity) error {
	if found := r.At(least); len(found) > 0 {
		return &AuditError{Findings: found}
	}
	return nil
}

// AuditConn is where an audit reads the catalog: a [*pgx.Conn], a pool, or a
// transaction whose changes are to be judged before they are committed.
type AuditConn interface {
	// Begin begins a transaction, or a savepoint in one.
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Audit reads the catalog of a database and reports everything in it by which
// one tenant could reach, change or learn of another's rows, with the statement
// that mends it. [AuditRules] lists what it looks for. It changes nothing, takes
// six round trips whatever the number of tables, and can be run by any role that
// may read the catalog; what that role can't see is a finding too.
//
// What leaves no trace in the catalog can't be audited: the payload of a
// notification, which every session of the role receives; advisory locks, which
// all tenants share; the text of statements in pg_stat_activity, so pass
// parameters; cursors WITH HOLD. [DB.Canary] and package tenancytest look from
// the other side, as a tenant.
func Audit(ctx context.Context, db AuditConn, opts *AuditOptions) (*AuditReport, error) {
	if opts == nil {
		opts = &AuditOptions{}
	}
	o := *opts
	if len(o.Roles) == 0 {
		o.Roles = []string{AppRole}
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("tenancy: audit: %w", err)
	}
	c, err := readCatalog(ctx, db, o.Roles)
	if err != nil {
		return nil, fmt.Errorf("tenancy: audit: %w", redact(err))
	}
	for _, role := range o.Roles {
		if !slices.ContainsFunc(c.Roles, func(r catalogRole) bool { return r.Name == role }) {
			return nil, fmt.Errorf("tenancy: audit: there is no role %q: run tenancy.Migrate first, or set AuditOptions.Roles", role)
		}
	}
	a := &audit{catalog: c, strict: o.Strict}
	for _, r := range rules() {
		a.rule = r.AuditRule
		r.check(a)
	}
	return a.report(o.Allow), nil
}

// AuditCheck returns a check for package health: it fails with an [*AuditError]
// while the audit has findings of severity warning or error. Run it every few
// minutes, on a pool of the owner or of [ControlRole].
func AuditCheck(db AuditConn, opts *AuditOptions) func(context.Context) error {
	return func(ctx context.Context) error {
		report, err := Audit(ctx, db, opts)
		if err != nil {
			return err
		}
		return report.Err(SeverityWarning)
	}
}

func (o *AuditOptions) validate() error {
	var errs []error
	for _, a := range o.Allow {
		known := slices.ContainsFunc(rules(), func(r rule) bool { return r.ID == a.Rule })
		switch {
		case !known:
			errs = append(errs, fmt.Errorf("AuditOptions.Allow: no rule %q", a.Rule))
		case a.Object == "":
			errs = append(errs, fmt.Errorf("AuditOptions.Allow: %s names no object", a.Rule))
		case a.Reason == "":
			errs = append(errs, fmt.Errorf("AuditOptions.Allow: %s on %s has no reason", a.Rule, a.Object))
		}
	}
	return errors.Join(errs...)
}

// audit is one run of the rules.
type audit struct {
	*catalog
	strict   bool
	rule     AuditRule // that is being checked
	findings []Finding
}

// find reports at the severity of the rule.
func (a *audit) find(object, mend, format string, args ...any) {
	a.findAt(a.rule.Severity, object, mend, format, args...)
}

func (a *audit) findAt(severity Severity, object, mend, format string, args ...any) {
	a.findings = append(a.findings, Finding{Rule: a.rule.ID, Name: a.rule.Name, Severity: severity, Object: object,
		Message: fmt.Sprintf(format, args...), Mend: mend})
}

// report sorts out what is allowed.
func (a *audit) report(allow []Allowance) *AuditReport {
	r := &AuditReport{Findings: []Finding{}, Allowed: []Finding{}, Tables: len(a.tenantTables())}
	used := make([]bool, len(allow))
	for _, f := range a.findings {
		i := slices.IndexFunc(allow, func(w Allowance) bool { return w.Rule == f.Rule && w.Object == f.Object })
		if i < 0 {
			r.Findings = append(r.Findings, f)
			continue
		}
		used[i] = true
		f.Reason = allow[i].Reason
		r.Allowed = append(r.Allowed, f)
	}
	for i, w := range allow {
		if !used[i] {
			r.Findings = append(r.Findings, Finding{Rule: staleAllowance.ID, Name: staleAllowance.Name, Severity: staleAllowance.Severity,
				Object: w.Object, Message: fmt.Sprintf("%s is allowed for it and not found: take the allowance away", w.Rule)})
		}
	}
	order := func(x, y Finding) int {
		return cmp.Or(cmp.Compare(x.Rule, y.Rule), cmp.Compare(x.Object, y.Object))
	}
	slices.SortStableFunc(r.Findings, order)
	slices.SortStableFunc(r.Allowed, order)
	return r
}
