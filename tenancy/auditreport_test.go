package tenancy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

var (
	unforced = tenancy.Finding{Rule: "TEN105", Name: "rls-not-forced", Severity: tenancy.SeverityError, Object: "public.products",
		Message: "row level security isn't forced", Mend: "alter table products\n\tforce row level security;"}
	sharedTable = tenancy.Finding{Rule: "TEN121", Name: "shared-table", Severity: tenancy.SeverityWarning, Object: "public.a/b <c>",
		Message: "every tenant reads every row", Reason: "the same for all"}
)

// What a pipeline prints.
func ExampleAuditReport_Text() {
	report := &tenancy.AuditReport{Findings: []tenancy.Finding{unforced}, Tables: 3}
	if err := report.Text(os.Stdout); err != nil {
		panic(err)
	}
	// Output:
	// error    TEN105 rls-not-forced  public.products
	//          row level security isn't forced
	//          mend: alter table products
	//                	force row level security;
	// 3 tables of tenants, 68 rules: 1 errors, 0 warnings, 0 notes, 0 allowed
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAuditReport(t *testing.T) {
	t.Parallel()
	report := &tenancy.AuditReport{Findings: []tenancy.Finding{unforced}, Allowed: []tenancy.Finding{sharedTable}}
	var text bytes.Buffer
	require.NoError(t, report.Text(&text))
	require.Contains(t, text.String(), "allowed  TEN121 shared-table  public.a/b <c>\n         the same for all\n")
	require.Error(t, report.Text(full{}))
	require.Error(t, report.SARIF(full{}))

	encoded, err := json.Marshal(report)
	require.NoError(t, err)
	require.Contains(t, string(encoded), `"severity":"error"`)
	var decoded tenancy.AuditReport
	require.NoError(t, json.Unmarshal(encoded, &decoded))
	require.Equal(t, *report, decoded)
	require.ErrorContains(t, json.Unmarshal([]byte(`{"findings": [{"severity": "fatal"}]}`), &decoded), `severity "fatal"`)

	require.NoError(t, (&tenancy.AuditReport{}).Err(tenancy.SeverityNote))
	require.EqualError(t, report.Err(tenancy.SeverityError), "tenancy: audit: 1 findings; TEN105 public.products")
}

// The members that SARIF 2.1.0 requires, and those that code scanning wants
// besides: a file and a line for each result, and what it is known by.
func TestAuditSARIF(t *testing.T) {
	t.Parallel()
	report := &tenancy.AuditReport{Findings: []tenancy.Finding{unforced}, Allowed: []tenancy.Finding{sharedTable}}
	var text bytes.Buffer
	require.NoError(t, report.SARIF(&text))
	type object = map[string]any
	var log object
	require.NoError(t, json.Unmarshal(text.Bytes(), &log))
	require.Equal(t, "2.1.0", log["version"])
	require.Contains(t, log["$schema"], "sarif-2.1.0")
	run := log["runs"].([]any)[0].(object)
	driver := run["tool"].(object)["driver"].(object)
	require.NotEmpty(t, driver["name"])
	rules := driver["rules"].([]any)
	require.Len(t, rules, len(tenancy.AuditRules()))
	results := run["results"].([]any)
	require.Len(t, results, 2)
	for i, want := range []tenancy.Finding{unforced, sharedTable} {
		result := results[i].(object)
		rule := rules[int(result["ruleIndex"].(float64))].(object)
		require.Equal(t, want.Rule, result["ruleId"])
		require.Equal(t, want.Rule, rule["id"])
		require.Contains(t, []any{"note", "warning", "error"}, rule["defaultConfiguration"].(object)["level"])
		require.Equal(t, want.Severity.String(), result["level"])
		require.Contains(t, result["message"].(object)["text"], want.Message)
		require.Contains(t, result["message"].(object)["text"], want.Mend)
		location := result["locations"].([]any)[0].(object)
		require.Equal(t, want.Object, location["logicalLocations"].([]any)[0].(object)["fullyQualifiedName"])
		require.EqualValues(t, 1, location["physicalLocation"].(object)["region"].(object)["startLine"])
		require.Len(t, result["partialFingerprints"].(object)["ruleAndObject/v1"], 64)
	}
	uri := results[1].(object)["locations"].([]any)[0].(object)["physicalLocation"].(object)["artifactLocation"].(object)["uri"]
	require.Equal(t, "database/public.a_b%20%3Cc%3E", uri)
	require.NotContains(t, results[0], "suppressions")
	require.Equal(t, []any{object{"kind": "external", "justification": "the same for all"}}, results[1].(object)["suppressions"])
}
