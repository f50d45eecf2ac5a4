package tenancy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"strings"
)

// SARIF writes the report as a SARIF 2.1.0 log (OASIS), for code scanning.
// What is found is an object of the database: it is the logical location, and
// since code scanning shows nothing without a file, a made-up one below
// "database" is the physical.
func (r *AuditReport) SARIF(w io.Writer) error {
	driver := sarifDriver{Name: "mcpsaas audit", InformationURI: "https://github.com/mcpsaas/mcpsaas", Rules: []sarifRule{}}
	number := make(map[string]int)
	for i, rule := range AuditRules() {
		number[rule.ID] = i
		driver.Rules = append(driver.Rules, sarifRule{
			ID: rule.ID, Name: rule.Name, ShortDescription: sarifText{rule.Summary},
			DefaultConfiguration: sarifLevel{rule.Severity}, HelpURI: rule.Source,
		})
	}
	results := []sarifResult{}
	for _, f := range append(append([]Finding{}, r.Findings...), r.Allowed...) {
		results = append(results, sarifOf(f, number[f.Rule]))
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(sarifLog{
		Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0",
		Runs: []sarifRun{{Tool: sarifTool{driver}, Results: results}},
	})
}

func sarifOf(f Finding, number int) sarifResult {
	text := f.Message
	if f.Mend != "" {
		text += "\n\nMend:\n" + f.Mend
	}
	sum := sha256.Sum256([]byte(f.Rule + " " + f.Object))
	result := sarifResult{
		RuleID: f.Rule, RuleIndex: number, Level: f.Severity, Message: sarifText{text},
		Locations: []sarifLocation{{
			Physical: sarifPhysical{sarifArtifact{"database/" + url.PathEscape(strings.ReplaceAll(f.Object, "/", "_"))}, sarifRegion{1}},
			Logical:  []sarifLogical{{f.Object}},
		}},
		// What a scanner knows a result by from one run to the next.
		PartialFingerprints: map[string]string{"ruleAndObject/v1": hex.EncodeToString(sum[:])},
	}
	if f.Reason != "" {
		result.Suppressions = []sarifSuppression{{Kind: "external", Justification: f.Reason}}
	}
	return result
}

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool    sarifTool     `json:"tool"`
	Results []sarifResult `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	InformationURI string      `json:"informationUri"`
	Rules          []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID                   string     `json:"id"`
	Name                 string     `json:"name"`
	ShortDescription     sarifText  `json:"shortDescription"`
	DefaultConfiguration sarifLevel `json:"defaultConfiguration"`
	HelpURI              string     `json:"helpUri"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifLevel struct {
	Level Severity `json:"level"`
}

type sarifResult struct {
	RuleID              string             `json:"ruleId"`
	RuleIndex           int                `json:"ruleIndex"`
	Level               Severity           `json:"level"`
	Message             sarifText          `json:"message"`
	Locations           []sarifLocation    `json:"locations"`
	PartialFingerprints map[string]string  `json:"partialFingerprints"`
	Suppressions        []sarifSuppression `json:"suppressions,omitempty"`
}

type sarifLocation struct {
	Physical sarifPhysical  `json:"physicalLocation"`
	Logical  []sarifLogical `json:"logicalLocations"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   sarifRegion   `json:"region"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

type sarifLogical struct {
	FullyQualifiedName string `json:"fullyQualifiedName"`
}

type sarifSuppression struct {
	Kind          string `json:"kind"`
	Justification string `json:"justification"`
}
