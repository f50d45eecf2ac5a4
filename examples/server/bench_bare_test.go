package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
)

// bareServer is the value of asServer that makes this test binary the server
// that BenchmarkCall compares with.
const bareServer = "bare"

// bareSchema is a shop of one owner: no tenant, no policies.
const bareSchema = `
create schema bare;
create table bare.products (id uuid primary key default gen_random_uuid(), name text not null unique, price_cents bigint not null);
insert into bare.products (name, price_cents) values ('Anvil', 1000), ('Birdseed', 2000), ('Catapult', 3000)`

// serveBare serves search_products on the SDK and a pool alone: no
// authentication, no tenants, no quota, no usage.
func serveBare() {
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Title: "Shop catalogue", Version: "v1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "search_products", Description: "Finds products of your catalogue by a part of their name.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(ctx context.Context, _ *mcp.CallToolRequest, in searchInput) (*mcp.CallToolResult, searchOutput, error) {
			if in.Limit == 0 {
				in.Limit = 20
			}
			rows, err := pool.Query(ctx, `
				select id::text, name, price_cents from bare.products
				where position(lower($1) in lower(name)) > 0
				order by name limit $2`, in.Query, in.Limit)
			if err != nil {
				return nil, searchOutput{}, err
			}
			products, err := pgx.CollectRows(rows, pgx.RowToStructByPos[product])
			return nil, searchOutput{Products: products}, err
		})
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/mcp", mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server },
		&mcp.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true}))
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	log.Fatal(http.ListenAndServe(os.Getenv("ADDR"), mux))
}

// spawnBare runs the bare server in a process of its own, on the world's
// database, until the test ends.
func (w *world) spawnBare() (base string) {
	w.t.Helper()
	_, err := w.db.Exec(w.t.Context(), bareSchema)
	require.NoError(w.t, err)
	addr := freeAddr(w.t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asServer+"="+bareServer, "ADDR="+addr, "DATABASE_URL="+w.env["DATABASE_URL"])
	cmd.Stderr = os.Stderr
	require.NoError(w.t, cmd.Start())
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	base = "http://" + addr
	eventually(w.t, fmt.Sprintf("bare server answers at %s", base), func() bool {
		res, err := http.Get(base + "/metrics")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return base
}
