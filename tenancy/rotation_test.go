package tenancy_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// passwords makes the cluster ask a role for its password, by a method of
// pg_hba.conf, until the test ends. Everybody else's logins stay as they are.
func passwords(t testing.TB, super *pgx.Conn, role, method string) {
	t.Helper()
	var file string
	require.NoError(t, super.QueryRow(t.Context(), `show hba_file`).Scan(&file))
	edit := func(change func(string) string) {
		hbaMu.Lock()
		defer hbaMu.Unlock()
		old, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, []byte(change(string(old))), 0o600))
		_, err = super.Exec(context.Background(), `select pg_reload_conf()`)
		require.NoError(t, err)
	}
	line := fmt.Sprintf("host all %s 127.0.0.1/32 %s\n", role, method)
	edit(func(old string) string { return line + old })
	t.Cleanup(func() { edit(func(old string) string { return strings.Replace(old, line, "", 1) }) })
}

var hbaMu sync.Mutex

// TestRotation changes the password of the role that calls log in as, again and
// again, while 8 callers of 6 databases share 4 connections, so that connections
// are opened all the time. First the database knows the new password, and a
// moment later, when somebody has been refused more than once, the place where
// it is kept: no call fails, and what is cached is found anew long before
// its time.
//
// Mutations that it saw: no second attempt after a refusal; a second attempt
// with what is cached; no more than one attempt.
func TestRotation(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"scram-sha-256", "md5"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			testRotation(t, method)
		})
	}
}

func testRotation(t *testing.T, method string) {
	const rounds, callers = 5, 8
	db := devtest.DB(t, shop)
	o := newOwn(t, 6, db)
	super := o.Conn(t, "postgres")
	role := "rotating_" + db.Name
	run := func(sql string, args ...any) {
		_, err := super.Exec(t.Context(), fmt.Sprintf(sql, args...))
		require.NoError(t, err)
	}
	run(`set password_encryption = '%s'`, method)
	run(`create role %s login in role %s password 'secret-0'`, role, tenancy.AppRole)
	t.Cleanup(func() { // after the database
		_, err := super.Exec(context.Background(), `drop role `+role)
		require.NoError(t, err)
	})
	passwords(t, super, role, method)
	secret := func(round int) {
		u, err := url.Parse(db.URL)
		require.NoError(t, err)
		u.User = url.UserPassword(role, fmt.Sprint("secret-", round))
		for i := range o.ids {
			o.set(ref(i), u.String())
		}
	}
	secret(0)
	var asked atomic.Int64
	cached, err := tenancy.NewCachedResolver(tenancy.ResolverFunc(func(ctx context.Context, ref string) (string, error) {
		asked.Add(1)
		return o.Resolve(ctx, ref)
	}), &tenancy.CachedResolverOptions{TTL: time.Hour})
	require.NoError(t, err)
	handle := o.dial(t, tenancy.DatabasesOptions{Resolver: cached, MaxConns: 4})
	require.Eventually(t, func() bool { // until the server has read its file
		conn, err := pgx.Connect(t.Context(), db.As(role))
		if err == nil {
			conn.Close(t.Context())
		}
		return err != nil
	}, 10*time.Second, time.Millisecond)

	ctx, stop := context.WithCancel(t.Context())
	var calls atomic.Int64
	var wait sync.WaitGroup
	for i := range callers {
		wait.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				if _, err := handle.Exec(as(t.Context(), o.ids[n%len(o.ids)]), `select 1`); err != nil {
					t.Errorf("call %d: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	progress := func() {
		enough := calls.Load() + 100
		opened := handle.DatabaseStats().Opened + 10
		require.Eventually(t, func() bool {
			return t.Failed() || calls.Load() > enough && handle.DatabaseStats().Opened > opened
		}, 60*time.Second, time.Millisecond)
	}
	progress()
	for round := 1; round <= rounds && !t.Failed(); round++ {
		before := asked.Load()
		run(`alter role %s password 'secret-%d'`, role, round)
		require.Eventually(t, func() bool { return t.Failed() || asked.Load() > before+6 }, 60*time.Second, time.Millisecond)
		secret(round) // somebody was refused more than once, and found the old one
		progress()
	}
	stop()
	wait.Wait()
	require.GreaterOrEqual(t, asked.Load(), int64(6+rounds))
	t.Logf("%d calls, %d connections, asked %d times", calls.Load(), handle.DatabaseStats().Opened, asked.Load())
}
