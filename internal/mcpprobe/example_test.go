package mcpprobe_test

import (
	"context"
	"fmt"

	"github.com/mcpsaas/mcpsaas/internal/mcpprobe"
)

func ExampleIn() {
	receive := func(ctx context.Context) string {
		if mcpprobe.In(ctx) {
			return "let through"
		}
		return "turned away: no credential"
	}
	fmt.Println(receive(context.Background()))
	fmt.Println(receive(mcpprobe.NewContext(context.Background())))
	// Output:
	// turned away: no credential
	// let through
}
