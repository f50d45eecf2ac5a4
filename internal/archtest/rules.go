package archtest

// The modules that may be imported at all. A new one needs a paragraph in
// docs/design.md that says why.
const (
	pgx        = "github.com/jackc/pgx/v5"
	sdk        = "github.com/modelcontextprotocol/go-sdk"
	redis      = "github.com/redis/go-redis/v9"
	stripe     = "github.com/stripe/stripe-go/v76"
	jwt        = "github.com/golang-jwt/jwt/v5"
	prometheus = "github.com/prometheus/client_golang"
	miniredis  = "github.com/alicebob/miniredis/v2"
	testify    = "github.com/stretchr/testify"
)

var modules = []string{pgx, sdk, redis, stripe, jwt, prometheus, miniredis, testify}

// access says which modules a package may import outside its tests.
type access struct {
	// api modules exist for this package: their types may stand in its
	// exported API.
	api []string
	// inner modules may only be used inside.
	inner []string
}

// thirdParty lists the packages that may import a module. Any other package
// imports the standard library and this module alone.
var thirdParty = map[string]access{
	"tenancy":               {api: []string{pgx}},
	"tenancy/apikey":        {api: []string{pgx}},
	"tenancy/mcptenant":     {api: []string{sdk}, inner: []string{jwt}},
	"tenancy/tenancytest":   {api: []string{pgx}},
	"metering":              {api: []string{sdk}},
	"metering/redisquota":   {api: []string{redis}},
	"metering/meteringtest": {inner: []string{testify}},
	"billing/pgledger":      {api: []string{pgx}},
	"billing/stripebill":    {inner: []string{stripe}},
	"billing/billingtest":   {inner: []string{testify}},
	"onboarding":            {api: []string{sdk}},
	"onboarding/pgstate":    {api: []string{pgx}},
	"onboarding/monitor":    {inner: []string{sdk}},
	"internal/pgmigrate":    {api: []string{pgx}},
	"internal/pgfeed":       {api: []string{pgx}},
	"internal/pgbudget":     {api: []string{pgx}},
	"internal/pgmove":       {api: []string{pgx}},
	"internal/pgredact":     {inner: []string{pgx}},
	"internal/devstack":     {inner: []string{pgx, miniredis}},
	"internal/devtest":      {api: []string{pgx}, inner: []string{redis}},
	"examples/quickstart":   {inner: []string{sdk}},
	"examples/server":       {inner: []string{pgx, sdk, redis, prometheus}},
}

// arrow is a rule on everything that a package reaches through imports outside
// tests, directly or through other packages of this module.
type arrow struct {
	from string
	// never are modules, or packages of this module with all below them.
	never []string
	// except are packages of this module that "never" doesn't mean.
	except []string
	// stdlib allows the standard library and "except" alone.
	stdlib bool
}

// leaves are the packages through which the layers speak with each other.
var leaves = []string{"tenancy/tenant", "metering/usage"}

var arrows = []arrow{
	{from: "tenancy/tenant", stdlib: true},
	{from: "health", stdlib: true},
	{from: "metering/usage", stdlib: true, except: []string{"tenancy/tenant"}},
	{from: "metering/alert", stdlib: true, except: []string{"tenancy/tenant"}},
	{from: "tenancy", never: []string{sdk, redis, stripe, "metering", "billing", "onboarding", "health"}, except: leaves},
	{from: "metering", never: []string{pgx, redis, stripe, "tenancy", "billing", "onboarding", "health"}, except: leaves},
	{from: "billing", never: []string{pgx, redis, stripe, sdk, "tenancy", "metering", "onboarding", "health"}, except: leaves},
	{from: "onboarding", never: []string{pgx, redis, stripe, "tenancy", "metering", "billing", "health"}, except: leaves},
}

// onlyFrom lists packages of this module that nobody may import outside tests,
// except those named.
var onlyFrom = map[string][]string{
	"internal/devstack":             {"internal/devtest", "examples/server"},
	"internal/devtest":              nil,
	"internal/archtest":             nil,
	"billing/stripebill/stripetest": {"examples/server"},
}

// stdlibTests are the packages whose tests, too, use the standard library and
// this module alone: their importers see no other module in go.sum.
var stdlibTests = []string{"health", "tenancy/tenant"}

// noTesting are packages named ...test that may not import testing all the
// same, because programs link them.
var noTesting = []string{"internal/archtest", "billing/stripebill/stripetest"}

// topLevel are the directories of the repository, and no others.
var topLevel = []string{".ci", "billing", "docs", "examples", "health", "internal", "metering", "onboarding", "tenancy"}

// badNames name no idea.
var badNames = []string{"util", "utils", "common", "helper", "helpers", "types", "models", "misc"}

// maxLines is the length beyond which a file isn't one idea.
const maxLines = 500

// counted are the kinds of file that maxLines is for.
var counted = []string{".go", ".sql", ".lua", ".sh", ".js", ".css", ".html"}
