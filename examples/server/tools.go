package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
)

// shop is a small catalogue. Its handlers know nothing of tenants: whose rows
// they see is decided by the call's credential, in the database.
type shop struct {
	db *tenancy.DB
}

type product struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	PriceCents int64  `json:"price_cents"`
}

type searchInput struct {
	Query string `json:"query,omitempty" jsonschema:"part of the product's name; empty for all"`
	Limit int    `json:"limit,omitempty" jsonschema:"at most so many products, 1 to 100, 20 when left out"`
}

type searchOutput struct {
	Products []product `json:"products"`
}

func (s *shop) search(ctx context.Context, _ *mcp.CallToolRequest, in searchInput) (*mcp.CallToolResult, searchOutput, error) {
	if in.Limit == 0 {
		in.Limit = 20
	}
	if in.Limit < 1 || in.Limit > 100 {
		return nil, searchOutput{}, mcptenant.UserError("limit %d: want 1 to 100", in.Limit)
	}
	rows, err := s.db.Query(ctx, `
		select id::text, name, price_cents from products
		where position(lower($1) in lower(name)) > 0
		order by name limit $2`, in.Query, in.Limit)
	if err != nil {
		return nil, searchOutput{}, err
	}
	products, err := pgx.CollectRows(rows, pgx.RowToStructByPos[product])
	if err != nil {
		return nil, searchOutput{}, err
	}
	return nil, searchOutput{Products: products}, nil
}

type addInput struct {
	Name       string `json:"name" jsonschema:"the product's name, 1 to 200 characters, not in the catalogue yet"`
	PriceCents int64  `json:"price_cents" jsonschema:"the price in cents, not negative"`
}

type addOutput struct {
	ID string `json:"id"`
}

func (s *shop) add(ctx context.Context, _ *mcp.CallToolRequest, in addInput) (*mcp.CallToolResult, addOutput, error) {
	var out addOutput
	err := s.db.QueryRow(ctx, `insert into products (name, price_cents) values ($1, $2) returning id::text`,
		in.Name, in.PriceCents).Scan(&out.ID)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "23505": // unique_violation
			return nil, addOutput{}, mcptenant.UserError("name %q: there is such a product already", in.Name)
		case "23514": // check_violation
			return nil, addOutput{}, mcptenant.UserError("name must have 1 to 200 characters, price_cents must not be negative")
		}
	}
	return nil, out, err
}

type reportInput struct{}

type reportOutput struct {
	Products     int64  `json:"products"`
	TotalCents   int64  `json:"total_cents"`
	CheapestName string `json:"cheapest,omitempty"`
	DearestName  string `json:"dearest,omitempty"`
	MadeAt       string `json:"made_at"`
}

// report is the dear tool: several statements on one view of the data, with
// progress.
func (s *shop) report(ctx context.Context, req *mcp.CallToolRequest, _ reportInput) (*mcp.CallToolResult, reportOutput, error) {
	out := reportOutput{MadeAt: time.Now().UTC().Format(time.RFC3339)}
	steps := []struct {
		what string
		run  func(ctx context.Context, tx pgx.Tx) error
	}{
		{"counting products", func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, `select count(*), coalesce(sum(price_cents), 0)::bigint from products`).Scan(&out.Products, &out.TotalCents)
		}},
		{"finding the cheapest", func(ctx context.Context, tx pgx.Tx) error {
			return ignoreNoRows(tx.QueryRow(ctx, `select name from products order by price_cents, name limit 1`).Scan(&out.CheapestName))
		}},
		{"finding the dearest", func(ctx context.Context, tx pgx.Tx) error {
			return ignoreNoRows(tx.QueryRow(ctx, `select name from products order by price_cents desc, name limit 1`).Scan(&out.DearestName))
		}},
	}
	// What is true at one moment, which may have passed on a replica.
	opts := tenancy.TxOptions{ReadOnly: true, IsoLevel: pgx.RepeatableRead, Replica: true}
	err := s.db.Tx(ctx, opts, func(ctx context.Context, tx pgx.Tx) error {
		for i, step := range steps {
			progress(ctx, req, i, len(steps), step.what)
			if err := step.run(ctx, tx); err != nil {
				return fmt.Errorf("report: %s: %w", step.what, err)
			}
		}
		progress(ctx, req, len(steps), len(steps), "done")
		return nil
	})
	return nil, out, err
}

// progress tells a caller that asked for it how far a call is. A caller that
// can't be told loses only the news.
func progress(ctx context.Context, req *mcp.CallToolRequest, done, total int, what string) {
	token := req.Params.GetProgressToken()
	if token == nil {
		return
	}
	_ = req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
		ProgressToken: token, Progress: float64(done), Total: float64(total), Message: what,
	})
}

func ignoreNoRows(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}
