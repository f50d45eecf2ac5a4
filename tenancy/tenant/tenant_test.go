package tenant_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const text = "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"

func TestParseID(t *testing.T) {
	t.Parallel()
	for _, s := range []string{text, strings.ToUpper(text)} {
		id, err := tenant.ParseID(s)
		if err != nil || id.String() != text {
			t.Errorf("ParseID(%q) = %v, %v", s, id, err)
		}
	}
	for name, s := range map[string]string{
		"empty":          "",
		"nil uuid":       "00000000-0000-0000-0000-000000000000",
		"no dashes":      strings.ReplaceAll(text, "-", ""),
		"braces":         "{" + text + "}",
		"urn":            "urn:uuid:" + text,
		"moved dash":     "0190a2b45-c6d-7e8f-8a9b-0c1d2e3f4a5b",
		"not hex":        "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5g",
		"space":          " " + text[:35],
		"trailing":       text + " ",
		"NUL":            text[:35] + "\x00",
		"quote":          text[:35] + "'",
		"dash for digit": "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a-b",
		"long":           strings.Repeat("x", 10<<20),
	} {
		id, err := tenant.ParseID(s)
		if !errors.Is(err, tenant.ErrInvalidID) || !id.IsZero() {
			t.Errorf("%s: ParseID = %v, %v", name, id, err)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{text, "", "x", text + text} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := tenant.ParseID(s)
		if err == nil && id.String() != strings.ToLower(s) {
			t.Errorf("ParseID(%q) = %v: two texts for one tenant", s, id)
		}
		if err != nil && !id.IsZero() {
			t.Errorf("ParseID(%q) = %v with an error", s, id)
		}
	})
}

func TestNewID(t *testing.T) {
	t.Parallel()
	var ids []string
	seen := make(map[tenant.ID]bool)
	for range 1000 {
		id := tenant.NewID()
		if parsed, err := tenant.ParseID(id.String()); err != nil || parsed != id {
			t.Fatalf("NewID() = %v doesn't parse: %v", id, err)
		}
		if s := id.String(); s[14] != '7' || !strings.ContainsRune("89ab", rune(s[19])) {
			t.Fatalf("NewID() = %v is no UUIDv7", id)
		}
		if seen[id] {
			t.Fatalf("NewID() = %v twice", id)
		}
		seen[id] = true
		ids = append(ids, id.String()[:13]) // the time
	}
	if !slices.IsSorted(ids) {
		t.Error("ids don't sort by their time")
	}
}

func TestMustParseID(t *testing.T) {
	t.Parallel()
	if tenant.MustParseID(text).String() != text {
		t.Error("a good id is changed")
	}
	defer func() {
		if recover() == nil {
			t.Error("a bad id doesn't panic")
		}
	}()
	tenant.MustParseID("x")
}

func TestIDEncodings(t *testing.T) {
	t.Parallel()
	id := tenant.MustParseID(text)
	type holder struct{ ID tenant.ID }
	raw, err := json.Marshal(holder{id})
	if err != nil || string(raw) != `{"ID":"`+text+`"}` {
		t.Errorf("Marshal = %s, %v", raw, err)
	}
	var back holder
	if err := json.Unmarshal(raw, &back); err != nil || back.ID != id {
		t.Errorf("Unmarshal = %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"ID":""}`), &back); err != nil || !back.ID.IsZero() {
		t.Errorf("Unmarshal of the empty text = %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"ID":"x"}`), &back); !errors.Is(err, tenant.ErrInvalidID) {
		t.Errorf("Unmarshal of nonsense: %v", err)
	}
	if v, err := id.Value(); v != text || err != nil {
		t.Errorf("Value = %v, %v", v, err)
	}
	if v, err := (tenant.ID{}).Value(); v != nil || err != nil {
		t.Errorf("Value of zero = %v, %v", v, err)
	}
	binary := []byte("\x01\x90\xa2\xb4\x5c\x6d\x7e\x8f\x8a\x9b\x0c\x1d\x2e\x3f\x4a\x5b")
	for _, src := range []any{text, []byte(text), binary} {
		var got tenant.ID
		if err := got.Scan(src); err != nil || got != id {
			t.Errorf("Scan(%v) = %v, %v", src, got, err)
		}
	}
	got := id
	if err := got.Scan(nil); err != nil || !got.IsZero() {
		t.Errorf("Scan(nil) = %v, %v", got, err)
	}
	if err := got.Scan(7); !errors.Is(err, tenant.ErrInvalidID) {
		t.Errorf("Scan(7): %v", err)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	if got, ok := tenant.FromContext(ctx); ok || !got.ID.IsZero() {
		t.Errorf("FromContext of an empty context = %v, %v", got, ok)
	}
	if got, ok := tenant.FromContext(tenant.NewContext(ctx, tenant.Tenant{Plan: tenant.Pro})); ok || got.Plan != "" {
		t.Errorf("FromContext of a tenant without an id = %v, %v", got, ok)
	}
	want := tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Pro}
	inner := tenant.NewContext(tenant.NewContext(ctx, tenant.Tenant{ID: tenant.NewID()}), want)
	if got, ok := tenant.FromContext(inner); !ok || got.ID != want.ID {
		t.Errorf("FromContext = %v, %v", got, ok)
	}
	// A tenant is the key's own: nobody's string can stand in for it.
	//lint:ignore SA1029 a string for a key is what is tried here
	if _, ok := tenant.FromContext(context.WithValue(ctx, "tenant", want)); ok {
		t.Error("a foreign key was read")
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	serves := []tenant.Status{tenant.Active, tenant.Updating, tenant.UpdateFailed}
	for _, s := range []tenant.Status{"", "unknown", tenant.Requested, tenant.Provisioning, tenant.Failed, tenant.Active,
		tenant.Updating, tenant.UpdateFailed, tenant.Suspended, tenant.DeprovisionScheduled, tenant.Deprovisioning,
		tenant.DeprovisionFailed, tenant.Purging, tenant.Cancelled, tenant.Deleted} {
		if s.Serves() != slices.Contains(serves, s) {
			t.Errorf("%q.Serves() = %v", s, s.Serves())
		}
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	all := tenant.Tenant{Scopes: []string{tenant.ScopeTools}}
	one := tenant.Tenant{Scopes: []string{"tool:search"}}
	for _, test := range []struct {
		name string
		got  bool
		want bool
	}{
		{"all", all.AllowsTool("search"), true},
		{"one", one.AllowsTool("search"), true},
		{"another", one.AllowsTool("searc"), false},
		{"a scope for a tool's name", one.AllowsTool("*"), false},
		{"none", tenant.Tenant{}.AllowsTool("search"), false},
		{"canary", tenant.Tenant{Scopes: []string{tenant.ScopeCanary}}.AllowsTool("search"), false},
		{"has", one.HasScope("tool:search"), true},
		{"has not", one.HasScope(tenant.ScopeTools), false},
	} {
		if test.got != test.want {
			t.Errorf("%s: %v", test.name, test.got)
		}
	}
}
