package archtest_test

import (
	"maps"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/archtest"
)

const (
	pgx    = "github.com/jackc/pgx/v5"
	sdk    = "github.com/modelcontextprotocol/go-sdk/mcp"
	stripe = "github.com/stripe/stripe-go/v76"
	redis  = "github.com/redis/go-redis/v9"
	here   = "example.org/m/"
)

// lawful returns a small module that breaks no rule.
func lawful() fstest.MapFS {
	tree := fstest.MapFS{
		"go.mod":                              text("module example.org/m\n"),
		"docs/design.md":                      text("# Design\n"),
		".ci/run":                             text("#!/bin/sh\n"),
		".git/config":                         text(""),
		".idea/x.go":                          text("not Go"),
		"tenancy/testdata/util.go":            text("not Go"),
		"internal/bench/go.mod":               text("module example.org/bench\n"),
		"internal/bench/bench.go":             source("bench", "example.org/peer"),
		"tenancy/tenant/tenant.go":            source("tenant", "fmt"),
		"tenancy/tenant/tenant_test.go":       source("tenant_test", "testing", here+"tenancy/tenant"),
		"tenancy/tenancy.go":                  source("tenancy", pgx, here+"tenancy/tenant", here+"internal/pgmigrate"),
		"tenancy/tenancy_test.go":             source("tenancy_test", "testing", redis, here+"internal/devtest"),
		"tenancy/tenancytest/isolation.go":    source("tenancytest", "testing", pgx),
		"metering/metering.go":                source("metering", sdk, here+"metering/usage"),
		"metering/usage/usage.go":             source("usage", here+"tenancy/tenant"),
		"metering/redisquota/redisquota.go":   source("redisquota", redis, here+"metering"),
		"billing/billing.go":                  source("billing", here+"metering/usage"),
		"billing/stripebill/client.go":        source("stripebill", stripe, stripe+"/form", here+"billing"),
		"billing/stripebill/client_test.go":   source("stripebill_test", stripe),
		"billing/stripebill/stripetest/st.go": source("stripetest", "net/http/httptest"),
		"onboarding/onboarding.go":            source("onboarding", sdk, here+"tenancy/tenant"),
		"health/health.go":                    source("health", "net/http"),
		"internal/pgmigrate/pgmigrate.go":     source("pgmigrate", pgx),
		"internal/devstack/devstack.go":       source("devstack", pgx),
		"internal/devtest/devtest.go":         source("devtest", "testing", here+"internal/devstack"),
		"examples/server/main.go":             source("main", pgx, here+"internal/devstack", here+"billing/stripebill/stripetest"),
	}
	for name := range maps.Clone(tree) {
		if dir := path.Dir(name); path.Ext(name) == ".go" && !strings.HasPrefix(name, "examples/") {
			tree[dir+"/example_test.go"] = code(path.Base(dir)+"_test", "func Example() {}\n")
		}
	}
	return tree
}

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

// source returns a documented file that imports what is named.
func source(pkg string, imports ...string) *fstest.MapFile {
	return code(pkg, "", imports...)
}

func code(pkg, body string, imports ...string) *fstest.MapFile {
	var b strings.Builder
	b.WriteString("// Package " + pkg + " is documented.\npackage " + pkg + "\n")
	for _, path := range imports {
		b.WriteString("import \"" + path + "\"\n")
	}
	return text(b.String() + body)
}

func TestCheckFindsNothing(t *testing.T) {
	t.Parallel()
	found, err := archtest.Check(lawful())
	require.NoError(t, err)
	require.Empty(t, found)
}

// TestCheckFinds seeds one violation at a time.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\n", 501)
	tests := map[string]struct {
		name string // of the file that is added or replaced; none removes the directory in want
		file *fstest.MapFile
		want string
	}{
		"leaf imports a module":               {"tenancy/tenant/x.go", source("tenant", pgx), "tenancy/tenant/x.go:3: tenancy/tenant may not reach " + pgx},
		"leaf imports a package of ours":      {"health/x.go", source("health", here+"tenancy/tenant"), "health may not reach tenancy/tenant"},
		"usage imports more than tenant":      {"metering/usage/x.go", source("usage", here+"health"), "metering/usage may not reach health"},
		"tenancy imports the sdk":             {"tenancy/x.go", source("tenancy", sdk), "tenancy may not reach " + sdk},
		"metering reaches Redis in two steps": {"metering/x.go", source("metering", here+"metering/redisquota"), "metering may not reach " + redis + ": metering -> metering/redisquota -> " + redis},
		"billing reaches pgx in two steps":    {"billing/x.go", source("billing", here+"internal/pgmigrate"), "billing may not reach " + pgx + ": billing -> internal/pgmigrate -> " + pgx},
		"billing imports another layer":       {"billing/x.go", source("billing", here+"metering"), "billing may not reach metering"},
		"billing imports the sdk":             {"billing/x.go", source("billing", sdk), "billing may not reach " + sdk},
		"onboarding imports the database":     {"onboarding/x.go", source("onboarding", here+"tenancy"), "onboarding may not reach tenancy"},
		"onboarding imports stripe":           {"onboarding/x.go", source("onboarding", stripe), "onboarding may not reach " + stripe},
		"dependency that nobody allowed":      {"tenancy/x.go", source("tenancy", "github.com/lib/pq"), "no allowed dependency"},
		"its near namesake":                   {"tenancy/x.go", source("tenancy", pgx+"x"), "no allowed dependency"},
		"allowed, but elsewhere":              {"health/x.go", source("health", pgx), "package health may not import " + pgx},
		"package that nobody listed":          {"internal/newone/x.go", source("newone", pgx), "package internal/newone may not import"},
		"testing outside a test":              {"metering/x.go", source("metering", "testing"), "imports testing outside a test"},
		"part of testing outside a test":      {"metering/x.go", source("metering", "testing/synctest"), "imports testing/synctest outside a test"},
		"testing in the emulator":             {"billing/stripebill/stripetest/x.go", source("stripetest", "testing"), "imports testing outside a test"},
		"testify outside a test":              {"tenancy/x.go", source("tenancy", "github.com/stretchr/testify/require"), "may not import"},
		"assert in a test":                    {"tenancy/x_test.go", source("tenancy_test", "github.com/stretchr/testify/assert"), "tests use require alone"},
		"unknown module in a test":            {"tenancy/x_test.go", source("tenancy_test", "go.uber.org/goleak"), "no allowed dependency"},
		"testify in a leaf's test":            {"health/x_test.go", source("health_test", "github.com/stretchr/testify/require"), "the tests of health use the standard library alone"},
		"devtest outside a test":              {"tenancy/x.go", source("tenancy", here+"internal/devtest"), "imports internal/devtest"},
		"devstack in a library":               {"tenancy/x.go", source("tenancy", here+"internal/devstack"), "imports internal/devstack"},
		"second file with stripe":             {"billing/stripebill/x.go", source("stripebill", stripe), "only one file may import"},
		"sleep in a test":                     {"tenancy/x_test.go", code("tenancy_test", "func f() { time.Sleep(1) }\n", "time"), "x_test.go:4: time.Sleep"},
		"no package comment":                  {"tenancy/tenancy.go", text("package tenancy\n"), "tenancy: no package comment"},
		"no example":                          {"health/example_test.go", code("health_test", "func TestExample() {}\n"), "health: no example"},
		"function without comment":            {"tenancy/x.go", code("tenancy", "func New() {}\n"), "x.go:3: New has no comment"},
		"method without comment":              {"tenancy/x.go", code("tenancy", "type db struct{}\n// DB is.\ntype DB[T any] struct{ db }\nfunc (*DB[T]) Open() {}\n"), "x.go:6: Open has no comment"},
		"type without comment":                {"tenancy/x.go", code("tenancy", "type DB struct{}\n"), "DB has no comment"},
		"value without comment":               {"tenancy/x.go", code("tenancy", "var ErrX, y = 1, 2\n"), "ErrX has no comment"},
		"option without comment":              {"tenancy/x.go", code("tenancy", "// Options are.\ntype Options struct {\n\t// A is.\n\tA int\n\n\tB int\n}\n"), "x.go:8: B has no comment"},
		"interface method without comment":    {"tenancy/x.go", code("tenancy", "// I is.\ntype I interface {\n\t// A does.\n\tA()\n\n\tB()\n}\n"), "B has no comment"},
		"foreign type in a result":            {"billing/stripebill/x.go", code("stripebill", "// F is.\nfunc F() *stripe.Event { return nil }\n", stripe), "stands in the exported API"},
		"foreign type in a field":             {"billing/stripebill/x.go", code("stripebill", "// T is.\ntype T struct{ X []stripe.Event }\n", stripe), "stands in the exported API"},
		"foreign type embedded, renamed":      {"billing/stripebill/x.go", code("stripebill", "import s \""+stripe+"\"\n// T is.\ntype T struct{ s.Event }\n"), "stands in the exported API"},
		"file over the limit":                 {"tenancy/x.go", code("tenancy", long), "the limit is 500"},
		"script over the limit":               {"metering/redisquota/x.lua", text(long), "the limit is 500"},
		"file without an idea":                {"tenancy/helpers_test.go", source("tenancy_test"), `"helpers" names no idea`},
		"directory without an idea":           {"internal/util/x.go", source("util"), `"util" names no idea`},
		"top-level directory":                 {"pkg/x.go", source("pkg"), "pkg: no top-level directory"},
		"package at the root":                 {"mcpsaas.go", source("mcpsaas"), "no package at the root"},
		"top-level directory missing":         {"", nil, "docs: this top-level directory is missing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := lawful()
			if test.file != nil {
				tree[test.name] = test.file
			} else {
				dir, _, _ := strings.Cut(test.want, ":")
				maps.DeleteFunc(tree, func(name string, _ *fstest.MapFile) bool { return strings.HasPrefix(name, dir+"/") })
			}
			found, err := archtest.Check(tree)
			require.NoError(t, err)
			require.Contains(t, strings.Join(found, "\n"), test.want)
		})
	}
}

// TestCheckAllows are the near misses that must stay lawful.
func TestCheckAllows(t *testing.T) {
	t.Parallel()
	tests := map[string]*fstest.MapFile{
		"tenancy/bubble_test.go":       code("tenancy_test", "func f() { synctest.Test(nil, func() { time.Sleep(1) }) }\n", "time", "testing/synctest"),
		"tenancy/helper2_test.go":      code("tenancy_test", "func f() { time.Sleep(1) } // in synctest bubbles only\n", "time"),
		"tenancy/error.go":             code("tenancy", "// XError is.\ntype XError struct{ A, B int }\nfunc (*XError) Error() string { return \"\" }\n"),
		"tenancy/hidden.go":            code("tenancy", "type db struct{}\nfunc (db) Open() {}\n"),
		"tenancy/group.go":             code("tenancy", "// The states.\nconst (\n\tA = 1\n\tB = 2\n)\n"),
		"billing/stripebill/client.go": code("stripebill", "// T is.\ntype T struct{ c stripe.Event }\nfunc f(stripe.Event) {}\n// F is.\nfunc F() { f(stripe.Event{}) }\n", stripe),
	}
	for name, file := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := lawful()
			tree[name] = file
			found, err := archtest.Check(tree)
			require.NoError(t, err)
			require.Empty(t, found)
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for name, tree := range map[string]fstest.MapFS{
		"no go.mod":    {"docs/x.md": text("")},
		"no module":    {"go.mod": text("go 1.26\n")},
		"malformed Go": {"go.mod": text("module m\n"), "health/x.go": text("package")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := archtest.Check(tree)
			require.Error(t, err)
		})
	}
}
