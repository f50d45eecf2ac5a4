package tenancy

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says how bad a finding is. The zero value is [SeverityNote].
type Severity int

// The severities, as SARIF has them.
const (
	SeverityNote    Severity = iota // costs speed, or tells of a way around what the database can see
	SeverityWarning                 // one more mistake, or a guess, and a tenant reaches another's rows
	SeverityError                   // a tenant can reach, change or learn of another's rows now, or calls fail
)

var severityNames = [...]string{"note", "warning", "error"}

func (s Severity) String() string {
	if s < 0 || int(s) >= len(severityNames) {
		return fmt.Sprintf("Severity(%d)", int(s))
	}
	return severityNames[s]
}

// MarshalText writes "note", "warning" or "error".
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Severity) UnmarshalText(text []byte) error {
	i := slices.Index(severityNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("tenancy: severity %q: want note, warning or error", text)
	}
	*s = Severity(i)
	return nil
}

// AuditError is an audit that found something.
type AuditError struct {
	Findings []Finding
}

// Error names the rules and the objects.
func (e *AuditError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tenancy: audit: %d findings", len(e.Findings))
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "; %s %s", f.Rule, f.Object)
	}
	return b.String()
}
