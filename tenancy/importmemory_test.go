package tenancy_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// archiveChild exports a tenant into a directory, or imports it from there, and
// says how much memory the process has had at the most.
func archiveChild() error {
	ctx := context.Background()
	config, err := tenancy.ControlConfig(os.Getenv("CHILD_URL"))
	if err != nil {
		return err
	}
	control, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	data, err := tenancy.NewData(control, nil)
	if err != nil {
		return err
	}
	dir, id := os.Getenv("CHILD_DIR"), tenant.MustParseID(os.Getenv("CHILD_TENANT"))
	if os.Getenv("CHILD_IMPORT") != "" {
		_, err = data.Import(ctx, id, os.DirFS(dir), nil)
	} else {
		err = data.Export(ctx, id, func(name string, write func(io.Writer) (int64, error)) error {
			f, err := os.Create(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			if _, err := write(f); err != nil {
				return err
			}
			return f.Close()
		})
	}
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if peak, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Println("peak", strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(peak), "kB")))
		}
	}
	return nil
}
