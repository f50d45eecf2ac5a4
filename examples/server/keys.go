package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// keyOverlap is how long a rotated key goes on working.
const keyOverlap = 24 * time.Hour

func (env *environment) printKey(key apikey.Key) error {
	return env.print(map[string]string{"id": key.ID, "api_key": key.Token}, func() {
		fmt.Fprintf(env.stdout, "%s  (shown this once)\n", key.Token)
	})
}

func keyCreate(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("key create", args, 1, 2); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	for _, scope := range env.config.scopeList() {
		if !grantable(scope) {
			return usagef("-scopes: no scope %s", quote(scope))
		}
	}
	spec := apikey.Spec{CreatedBy: operator(), Scopes: env.config.scopeList()}
	if len(args) > 1 {
		spec.Name = args[1]
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		record, err := o.provisioner.Tenant(ctx, id)
		if err != nil {
			return named(id, err)
		}
		if !record.State.Serves() && record.State != tenant.Suspended {
			return fmt.Errorf("tenant %s is %s: it gets no key", id, record.State)
		}
		key, err := o.keys.Issue(ctx, id, spec)
		if err != nil {
			return err
		}
		return env.printKey(key)
	})
}

// grantable says whether a key may be given the scope: any but the platform's
// own.
func grantable(scope string) bool {
	switch scope {
	case tenant.ScopeTools, tenant.ScopeHealthRead, tenant.ScopeExport:
		return true
	}
	name, ok := strings.CutPrefix(scope, "tool:")
	_, known := tools[name]
	return ok && known
}

func keyRotate(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("key rotate", args, 1, 1); err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		key, err := o.keys.Rotate(ctx, args[0], keyOverlap)
		if err != nil {
			return fmt.Errorf("key %s: %w", quote(args[0]), err)
		}
		return env.printKey(key)
	})
}

func keyRevoke(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("key revoke", args, 1, 1); err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if err := o.keys.Revoke(ctx, args[0]); err != nil {
			return fmt.Errorf("key %s: %w", quote(args[0]), err)
		}
		return env.print(map[string]string{"id": args[0], "state": "revoked"}, func() {
			fmt.Fprintln(env.stdout, "revoked")
		})
	})
}
