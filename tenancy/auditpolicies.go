package tenancy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// generatedName is what the names of generated policies look like, of this
// version of the package or another.
var generatedName = regexp.MustCompile(`^tenant_(guard|access)_[0-9a-f]{8}$`)

// bareSetting finds current_setting without the argument that keeps it from
// failing where nothing is set.
var bareSetting = regexp.MustCompile(`(?i)current_setting\('[^']*'(::text)?\)`)

// whole reports whether a policy is for every command and role.
func (p *policyGroup) whole() bool { return p.Command == "*" && p.Everyone }

// guarded reports whether the generated restrictive policy binds all others.
func (a *audit) guarded(table uint32) bool {
	return slices.ContainsFunc(a.policies[table], func(p catalogPolicy) bool { return p.guard || p.other })
}

// asNamed reports whether a policy with a generated name is what it says.
func (p catalogPolicy) asNamed() bool { return p.guard || p.access || p.other }

// scoped reports whether an expression compares tenant_id with the context, or
// with what a function of the user's returns.
func (p catalogPolicy) scoped(expr string) bool {
	return strings.Contains(expr, "tenant_id") && (strings.Contains(expr, Setting) || len(p.Functions) > 0)
}

// expressions are the two of a policy, in lower case.
func (p catalogPolicy) expressions() string { return strings.ToLower(p.Using + " " + p.Check) }

// effectiveCheck is what rows are checked by that are written: without a WITH
// CHECK, USING (PostgreSQL, CREATE POLICY).
func (p catalogPolicy) effectiveCheck() string {
	if p.Check == "" {
		return p.Using
	}
	return p.Check
}

// eachPolicied calls check for the tables that must have policies.
func (a *audit) eachPolicied(check func(t *relation)) {
	for _, t := range a.tenantTables() {
		if !t.Partition {
			check(t)
		}
	}
}

// eachPolicy calls check for every policy that isn't a generated one, intact.
func (a *audit) eachPolicy(check func(t *relation, p catalogPolicy, object string)) {
	for _, t := range a.tenantTables() {
		for _, p := range a.policies[t.OID] {
			if !p.asNamed() {
				check(t, p, t.object()+"."+p.Name)
			}
		}
	}
}

// dropPolicy takes a policy away. One with a generated name is made anew.
func (t *relation) dropPolicy(p catalogPolicy) string {
	mend := fmt.Sprintf("drop policy if exists %s on %s;", pgx.Identifier{p.Name}.Sanitize(), t.sql())
	if generatedName.MatchString(p.Name) && !t.Partition {
		mend += "\n" + t.generate()
	}
	return mend
}

// generate is the text that makes the generated policies.
func (t *relation) generate() string {
	return protection{table: pgx.Identifier{t.Schema, t.Name}, shape: t.shape, role: AppRole}.mend()
}

func checkPoliciesMissing(a *audit) {
	a.eachPolicied(func(t *relation) {
		var missing []string
		for _, name := range []string{"guard", "access"} {
			found := false
			for _, p := range a.policies[t.OID] {
				m := generatedName.FindStringSubmatch(p.Name)
				found = found || m != nil && m[1] == name
			}
			if !found {
				missing = append(missing, map[string]string{"guard": "the restrictive one, which nothing can widen", "access": "the permissive one, which lets a tenant see its own rows"}[name])
			}
		}
		if len(missing) == 0 {
			return
		}
		severity := SeverityError
		if !t.reached() {
			severity = SeverityWarning
		}
		a.findAt(severity, t.object(), t.generate(), "generated policies are missing: %s", strings.Join(missing, "; "))
	})
}

func checkPoliciesAltered(a *audit) {
	a.eachPolicy(func(t *relation, p catalogPolicy, object string) {
		if !generatedName.MatchString(p.Name) {
			return
		}
		what := "was changed: it isn't what the hash in its name was made of"
		if p.Name != t.guardName() && p.Name != t.accessName() {
			what = "is of another version of this package, or named to look like it"
		}
		a.find(object, t.dropPolicy(p), "the policy %s", what)
	})
}

func checkPolicyOpen(a *audit) {
	a.eachPolicy(func(t *relation, p catalogPolicy, object string) {
		if p.Permissive && !generatedName.MatchString(p.Name) && !a.guarded(t.OID) && p.Command != "a" && !p.scoped(p.Using) {
			a.find(object, t.dropPolicy(p), "permissive policies add up, and no restrictive one limits this: it opens rows of other tenants")
		}
	})
}

func checkPolicyGap(a *audit) {
	a.eachPolicy(func(t *relation, p catalogPolicy, object string) {
		if generatedName.MatchString(p.Name) || a.guarded(t.OID) {
			return
		}
		writes := p.Command == "*" || p.Command == "a" || p.Command == "w"
		switch {
		case p.Permissive && writes && (p.Command == "a" || p.scoped(p.Using)) && !p.scoped(p.effectiveCheck()):
			a.find(object, t.dropPolicy(p), "WITH CHECK doesn't hold rows to the tenant: one can write rows of another")
		case !p.Permissive && !p.whole() && p.scoped(p.Using+p.Check):
			a.find(object, t.dropPolicy(p), "the restrictive policy isn't for every command and role: the others have no limit")
		}
	})
}

func checkNullIf(a *audit) {
	a.eachPolicy(func(t *relation, p catalogPolicy, object string) {
		expr := p.expressions()
		if !strings.Contains(expr, "current_setting(") {
			return
		}
		if !strings.Contains(expr, "nullif") || bareSetting.MatchString(expr) {
			a.find(object, t.dropPolicy(p), "on a connection that was used before, the setting reads as the empty string: without NULLIF (and the second argument) statements fail instead of seeing nothing")
		}
	})
}

// checkSigned wants the guards of one database to be of one kind: the marker's
// says of which.
func checkSigned(a *audit) {
	for _, t := range a.tenantTables() {
		for _, p := range a.policies[t.OID] {
			switch {
			case !p.other || t.Partition:
			case a.signed:
				a.find(t.object(), t.generate(), "the policies take the context as it is, where others want it signed: injected SQL reaches every row of this table")
			default:
				a.findAt(SeverityWarning, t.object(), t.generate(), "the policies want a signed context, and others don't: run tenancy.SignContext to the end")
			}
		}
	}
}

// eachHelper calls check for each function that a policy calls.
func (a *audit) eachHelper(check func(f *function, policy string)) {
	seen := make(map[uint32]bool)
	for _, t := range a.tenantTables() {
		for _, p := range a.policies[t.OID] {
			for _, oid := range p.Functions {
				if f := a.functions[oid]; f != nil && !seen[oid] && !isOwn(f) {
					seen[oid] = true
					check(f, t.object()+"."+p.Name)
				}
			}
		}
	}
}

func checkHelperImmutable(a *audit) {
	a.eachHelper(func(f *function, policy string) {
		if f.Volatility == "i" && f.ReadsSettings {
			a.find(f.object(), "alter function "+f.sql()+" stable;", "policy %s calls it and it is immutable: a cached plan keeps one tenant's id and serves its rows to another", policy)
		}
	})
}

func checkHelperVolatile(a *audit) {
	a.eachHelper(func(f *function, policy string) {
		if f.Volatility == "v" {
			a.find(f.object(), "alter function "+f.sql()+" stable;", "policy %s calls it and it is volatile: it runs for every row and no index helps", policy)
		}
	})
}

func checkUnwrapped(a *audit) {
	a.eachPolicy(func(t *relation, p catalogPolicy, object string) {
		expr := p.expressions()
		if p.scoped(p.Using+p.Check) && !strings.Contains(expr, "select") {
			a.find(object, t.dropPolicy(p), "the context is read for every row; within (select ...) it is read once per statement")
		}
	})
}
