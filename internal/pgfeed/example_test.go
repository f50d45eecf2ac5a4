package pgfeed_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgfeed"
)

func ExampleFeed() {
	var (
		ctx  context.Context
		pool *pgxpool.Pool
	)
	prices := make(map[string]int) // guarded by a lock in earnest
	feed, err := pgfeed.New(pool, pgfeed.Source[item]{
		Query: `select id, value from items where changed >= $1`,
		Scan:  pgx.RowToStructByPos[item],
		Apply: func(rows []item, full bool) {
			if full {
				clear(prices)
			}
			for _, row := range rows {
				prices[row.Value] = row.ID
			}
		},
		Channel: "items",
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	go feed.Run(ctx)      // in an errgroup
	err = feed.Ready(ctx) // the first load
	fmt.Println(prices["anvil"], err)
}
