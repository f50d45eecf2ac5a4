package tenancy

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Text writes the report for people: each finding with the statement that
// mends it, and how many there are.
func (r *AuditReport) Text(w io.Writer) error {
	b := bufio.NewWriter(w)
	var count [len(severityNames)]int
	for _, f := range r.Findings {
		count[f.Severity]++
		fmt.Fprintf(b, "%-7s  %s %s  %s\n         %s\n", f.Severity, f.Rule, f.Name, f.Object, f.Message)
		if f.Mend != "" {
			fmt.Fprintf(b, "         mend: %s\n", strings.ReplaceAll(f.Mend, "\n", "\n               "))
		}
	}
	for _, f := range r.Allowed {
		fmt.Fprintf(b, "allowed  %s %s  %s\n         %s\n", f.Rule, f.Name, f.Object, f.Reason)
	}
	fmt.Fprintf(b, "%d tables of tenants, %d rules: %d errors, %d warnings, %d notes, %d allowed\n", r.Tables, len(rules()),
		count[SeverityError], count[SeverityWarning], count[SeverityNote], len(r.Allowed))
	return b.Flush()
}
