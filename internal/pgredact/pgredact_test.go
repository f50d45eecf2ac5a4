package pgredact_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

func TestError(t *testing.T) {
	t.Parallel()
	_, err := pgx.Connect(t.Context(), "postgres://anna:secret@127.0.0.1:1/books")
	require.ErrorContains(t, err, "anna")
	shown := pgredact.Error(fmt.Errorf("anna's books: %w", err))
	require.EqualError(t, shown, "connect to the database: unreachable")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = pgx.Connect(ctx, "postgres://anna:secret@127.0.0.1:1/books")
	shown = pgredact.Error(err)
	require.ErrorIs(t, shown, context.Canceled)
	require.NotContains(t, shown.Error(), "anna")

	broken := &net.OpError{Op: "read", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 5432}, Err: errors.New("connection reset by peer")}
	shown = pgredact.Error(fmt.Errorf("receive: %w", broken))
	require.EqualError(t, shown, "connect to the database: unreachable")

	network := new(net.OpError)
	require.ErrorAs(t, shown, &network, "it is told from other faults")
	require.EqualError(t, network, "dial: unreachable")
	again := fmt.Errorf("read: %w", shown)
	require.Equal(t, again, pgredact.Error(again), "what was added stays")

	// The driver's own text shows what it takes for no password.
	_, err = pgx.Connect(t.Context(), "postgres://anna:sec/ret@127.0.0.1:port/books")
	require.ErrorContains(t, err, "anna")
	require.EqualError(t, pgredact.Error(fmt.Errorf("DATABASE_URL: %w", err)), "connect to the database: malformed URL")

	other := errors.New("other")
	require.Equal(t, other, pgredact.Error(other))
	require.NoError(t, pgredact.Error(nil))
}

func ExampleError() {
	_, err := pgx.Connect(context.Background(), "postgres://anna:secret@127.0.0.1:1/books")
	fmt.Println(pgredact.Error(err))
	// Output: connect to the database: unreachable
}
