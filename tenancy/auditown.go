package tenancy

import (
	"io/fs"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// ownFunction is a function that [Migrate] makes for the application to call.
type ownFunction struct {
	signature  string // "schema.name(arguments)"
	volatility string // as pg_proc has it
	body       string
	definition string // the statement that makes it
}

var definition = regexp.MustCompile(`(?s)create (?:or replace )?function (mcpsaas_app\.\w+\([^)]*\))([^$]*)\$\$(.*?)\$\$;`)

// ownFunctions reads them from the migrations: what Migrate makes and what the
// audit expects can't drift apart.
var ownFunctions = sync.OnceValue(func() map[string]ownFunction {
	all := make(map[string]ownFunction)
	files, _ := fs.Glob(migrations, "migrations/*.sql") // in order, and the pattern is well-formed
	for _, file := range files {
		text, err := migrations.ReadFile(file)
		if err != nil {
			panic(err) // it is embedded
		}
		for _, m := range definition.FindAllStringSubmatch(string(text), -1) {
			f := ownFunction{signature: m[1], volatility: "v", body: m[3]}
			switch {
			case strings.Contains(m[2], " stable"):
				f.volatility = "s"
			case strings.Contains(m[2], " immutable"):
				f.volatility = "i"
			}
			f.definition = "create or replace" + strings.TrimPrefix(strings.TrimPrefix(m[0], "create"), " or replace")
			all[f.signature] = f
		}
	}
	return all
})

// isOwn reports whether a function is one of ours by its name.
func isOwn(f *function) bool {
	_, ok := ownFunctions()[f.object()]
	return ok
}

// checkOwnFunctions lets one of ours pass only if it is, to the letter, what
// Migrate made: it runs as its owner, and is safe for what is written in it.
func checkOwnFunctions(a *audit) {
	found := make(map[string]bool)
	for _, f := range a.Functions {
		own, ok := ownFunctions()[f.object()]
		if !ok {
			continue
		}
		found[own.signature] = true
		if f.Source == own.body && f.Volatility == own.volatility && f.Language == "plpgsql" &&
			f.Definer && !f.Leakproof && len(f.Config) == 0 && f.Owner == a.ControlOwner {
			continue
		}
		a.find(f.object(), own.definition+"\nalter function "+f.sql()+" owner to "+pgx.Identifier{a.ControlOwner}.Sanitize()+";",
			"every statement of a tenant runs through it, and it isn't what tenancy.Migrate made")
	}
	for signature := range ownFunctions() {
		if !found[signature] {
			a.find(signature, "", "the function is missing, or has other arguments: run tenancy.Migrate on a new database and compare")
		}
	}
}
