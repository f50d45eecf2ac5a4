// Command server is the reference server: a small shop's catalogue as a
// product with tenants, plans, quotas and invoices.
//
//	go run ./examples/server
//
// starts it with everything it needs on this machine and prints what to try.
// Every setting is a flag with an environment variable; see -help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// errUsage is matched by errors that the caller of a command can mend by
// typing something else.
var errUsage = errors.New("usage")

func usagef(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUsage}, args...)...)
}

// command is one of the server's verbs.
type command struct {
	name  string // "tenant show"
	args  string // "ID"
	short string
	run   func(ctx context.Context, env *environment, args []string) error
}

// environment is what a command gets: settings and where to print.
type environment struct {
	config *config
	getenv func(string) string
	stdout io.Writer
	stderr io.Writer

	// extend adds tools to the server's own before it serves; nil outside of
	// tests.
	extend func(*app, *mcp.Server)
}

func commands() []command {
	return []command{
		{"serve", "", "serve MCP (the default)", serve},
		{"migrate", "", "bring the database's schema up to date", migrateCommand},
		{"audit", "", "look for ways around the tenants' isolation; exit code 1 if there are", auditCommand},
		{"tenant list", "", "list tenants", tenantList},
		{"tenant show", "ID", "show a tenant, its steps and its keys", tenantShow},
		{"tenant create", "PLAN [NAME]", "make a tenant without a checkout and print its first key", tenantCreate},
		{"tenant suspend", "ID", "refuse a tenant's calls", tenantSuspend},
		{"tenant resume", "ID", "serve a suspended tenant again", tenantResume},
		{"tenant delete", "ID", "deprovision a tenant: archive, verify, erase", tenantDelete},
		{"tenant restore", "ID", "take a scheduled deletion back", tenantRestore},
		{"tenant retry", "ID", "do at once what waits for its next attempt, or has failed", tenantRetry},
		{"tenant move", "ID", "move a tenant to where -to says while it goes on working; -dry-run, -abort, -purge", tenantMove},
		{"tenant export", "ID", "write all that a tenant has to -dir, and read it back", tenantExport},
		{"tenant import", "ID", "give a tenant without rows what an export in -dir has", tenantImport},
		{"tenant erase", "ID", "delete the rows of a suspended or deleted tenant, and prove that none is left", tenantErase},
		{"tenant limit list", "ID", "show the limits of a tenant, and which are its own", limitList},
		{"tenant limit set", "ID NAME UNITS|unlimited", "give a tenant another limit than its plan, or one more by -per; -tool, -mode", limitSet},
		{"tenant limit unset", "ID NAME", "take a limit of a tenant's own back", limitUnset},
		{"tenant webhook", "ID [URL|none|rotate|retire]", "show or set where a tenant is told of its usage; rotate adds a secret, retire drops the old ones", webhookCommand},
		{"key create", "TENANT [NAME]", "issue an API key and print it once", keyCreate},
		{"key rotate", "KEY-ID", "issue a successor and let the old key run out", keyRotate},
		{"key revoke", "KEY-ID", "refuse a key from now on", keyRevoke},
		{"billing status", "[TENANT]", "show what is not billed yet, and why", billingStatus},
		{"billing explain", "ID", "show what became of a tenant's usage (-at, -item), an invoice's (in_...), a batch or an event; -events", billingExplain},
		{"billing requeue", "BATCH...", "send parked or rejected batches again", billingVerb(billing.VerbRequeue, "billing requeue")},
		{"billing move-to-period", "BATCH...", "bill batches that were surely not applied with the present period", billingVerb(billing.VerbMove, "billing move-to-period")},
		{"billing write-off", "BATCH...", "give batches up that are sealed, parked or rejected", billingVerb(billing.VerbWriteOff, "billing write-off")},
		{"billing void", "BATCH...", "take confirmed batches back at the provider, within 24 hours", billingVerb(billing.VerbVoid, "billing void")},
		{"billing reconcile", "TENANT", "compare a tenant's usage with the provider's totals now", billingReconcile},
		{"billing accept", "DIFFERENCE", "take a difference with the provider's totals off the list", billingAccept},
		{"billing backfill", "FILE...", "add events of spool files or JSON lines that the ledger doesn't have; -dry-run", billingBackfill},
		{"billing preview", "TENANT", "show what a tenant's next invoice would be", billingPreview},
		{"billing cap", "TENANT [AMOUNT|none]", "show or set what a tenant may spend on usage in a billing period; -mode soft, -reason", billingCap},
		{"billing portal", "TENANT", "print a link by which a tenant changes card and plan and reads invoices", billingPortal},
		{"billing checkout", "TENANT PACK", "open a checkout for a pack of units and print where to pay", billingCheckout},
		{"billing grant add", "TENANT UNITS", "give a tenant units that are used before any is billed; -kind, -priority, -expires, -reference, -reason", billingGrantAdd},
		{"billing grant list", "TENANT", "show what a tenant was given, and what is left", billingGrantList},
		{"billing grant revoke", "GRANT", "take what is left of a grant; -reason", billingGrantRevoke},
		{"billing notices", "", "list the webhooks that were given up, and why", billingNotices},
		{"billing replay", "NOTICE...", "apply webhooks again", billingReplay},
		{"probe", "URL", "test an MCP endpoint from outside, as a monitor would; $PROBE_KEY is a key to call with", probeCommand},
		{"emulator", "", "run the Stripe emulator alone", emulatorCommand},
	}
}

// run is the program, without its process: tests call it too.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	cmd, args, err := pick(args)
	if err != nil {
		return err
	}
	if cmd.name == "emulator" { // the one command with flags of its own
		return cmd.run(ctx, &environment{getenv: getenv, stdout: stdout, stderr: stderr}, args)
	}
	c := new(config)
	rest, err := c.parse("server "+cmd.name, args, getenv, stderr)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	err = cmd.run(ctx, &environment{config: c, getenv: getenv, stdout: stdout, stderr: stderr}, rest)
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); connecting {
		return pgredact.Error(err) // the driver names the address
	}
	return err
}

// pick finds the command that args start with: the longest name wins, none is
// serve.
func pick(args []string) (command, []string, error) {
	all := commands()
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return all[0], args, nil
	}
	for words := min(3, len(args)); words > 0; words-- {
		name := strings.Join(args[:words], " ")
		for _, c := range all {
			if c.name == name {
				return c, args[words:], nil
			}
		}
	}
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "\n  %-18s %-28s %s", c.name, c.args, c.short)
	}
	return command{}, nil, usagef("no command %q; there are:%s", args[0], b.String())
}

// wantArgs refuses a command line with too few or too many arguments.
func wantArgs(name string, args []string, least, most int) error {
	if len(args) < least || len(args) > most {
		for _, c := range commands() {
			if c.name == name {
				return usagef("server %s %s", c.name, c.args)
			}
		}
	}
	return nil
}
