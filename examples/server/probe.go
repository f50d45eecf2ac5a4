package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/onboarding/monitor"
)

// errProbe makes the command's exit code say what the probe saw.
var errProbe = errors.New("the server is not as it should be")

// probeCommand looks at a server as a monitor would: without a credential, and
// with PROBE_KEY, if that is set, as a tenant.
func probeCommand(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("probe", args, 1, 1); err != nil {
		return err
	}
	report, err := monitor.Probe(ctx, monitor.ProbeOptions{URL: args[0], Key: env.getenv("PROBE_KEY")})
	if err != nil {
		return err
	}
	if err := env.print(report, func() {
		for _, c := range report.Checks {
			mark := "ok    "
			if !c.OK {
				mark = "FAILED"
			}
			fmt.Fprintf(env.stdout, "%s  %-24s  %8s  %s\n", mark, c.Name, c.Duration.Round(time.Millisecond), c.Detail)
		}
		fmt.Fprintf(env.stdout, "%s is %s\n", report.URL, report.State)
	}); err != nil {
		return err
	}
	if report.State != monitor.Live {
		return errProbe
	}
	return nil
}
