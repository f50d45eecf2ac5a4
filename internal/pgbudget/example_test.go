package pgbudget_test

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgbudget"
)

// Every database is reached under one budget of 50 connections.
func Example() {
	budget, err := pgbudget.Open(func(_ context.Context, key string, _ bool) (*pgx.ConnConfig, error) {
		return pgx.ParseConfig("postgres://app_user@db.internal/" + key)
	}, &pgbudget.Options{MaxConns: 50})
	if err != nil {
		log.Fatal(err)
	}
	defer budget.Close()

	conn, err := budget.Acquire(context.Background(), "acme")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Release()
	_, err = conn.Conn().Exec(context.Background(), `select 1`)
	if err != nil {
		log.Fatal(err)
	}
}
