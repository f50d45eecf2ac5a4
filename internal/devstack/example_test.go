package devstack_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

func Example() {
	ctx := context.Background()
	stack, err := devstack.Start(ctx, devstack.Options{Postgres: true, Redis: true})
	if err != nil {
		fmt.Println(err) // such as a MissingError with the line to type
		return
	}
	defer stack.Close(ctx)
	for _, line := range stack.Banner {
		fmt.Println(line)
	}
	conn, err := pgx.Connect(ctx, stack.DatabaseURL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close(ctx)
}
