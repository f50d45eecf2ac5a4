package tenancy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

// What must not be seen in any error or log.
var secrets = []string{"s3cr3t-passw0rd", "db7.internal.example", "hidden_user", "hidden_database", "postgres://"}

const secretURL = "postgres://hidden_user:s3cr3t-passw0rd@db7.internal.example/hidden_database"

// clean requires that a text tells no secret.
func clean(t testing.TB, text string) {
	t.Helper()
	for _, secret := range secrets {
		require.NotContains(t, text, secret)
	}
}

func TestEnvResolver(t *testing.T) {
	t.Setenv("TEST_URL_ACME_EU2", secretURL)
	r := tenancy.EnvResolver("TEST_URL_")
	url, err := r.Resolve(t.Context(), "acme-eu2")
	require.NoError(t, err)
	require.Equal(t, secretURL, url)
	for _, ref := range []string{"acme", "", "acme_eu2", "ACME-EU2", "acme eu2", "acme=eu2", "acme-eu2\x00"} {
		_, err := r.Resolve(t.Context(), ref)
		require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable, "%q", ref)
		clean(t, err.Error())
	}
	_, err = r.Resolve(t.Context(), "acme")
	require.EqualError(t, err, `tenancy: resolve database "acme": the environment variable TEST_URL_ACME is not set`)
}

// TestFileResolver reads a directory as Kubernetes mounts a secret: each file is
// a link through a link, which is swapped when the secret changes.
//
// Mutation that it saw: os.ReadFile of the joined path, which follows links out
// of the directory.
func TestFileResolver(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := filepath.Join(base, "secrets")
	mount := func(version, content string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, version), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, version, "acme"), []byte(content), 0o600))
		next := filepath.Join(dir, "..data_tmp")
		require.NoError(t, os.Symlink(version, next))
		require.NoError(t, os.Rename(next, filepath.Join(dir, "..data")))
	}
	mount("..2026_01", secretURL+"\n")
	require.NoError(t, os.Symlink(filepath.Join("..data", "acme"), filepath.Join(dir, "acme")))
	r := tenancy.FileResolver(dir)
	url, err := r.Resolve(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, secretURL, url)

	mount("..2026_02", "postgres://other\r\n")
	url, err = r.Resolve(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, "postgres://other", url)

	outside := filepath.Join(base, "outside")
	require.NoError(t, os.WriteFile(outside, []byte(secretURL), 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "absolute")))
	require.NoError(t, os.Symlink("../outside", filepath.Join(dir, "relative")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "empty"), []byte(" \n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "long"), bytes.Repeat([]byte("x"), 70<<10), 0o600))
	for _, ref := range []string{
		"nothing", "", ".", "..", "../outside", "..data/acme", "./acme", outside, "acme/../../outside", "sub\\acme", "C:acme", "acme\x00",
		"absolute", "relative", "empty", "long",
	} {
		url, err := r.Resolve(t.Context(), ref)
		require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable, "%q", ref)
		require.Empty(t, url)
		require.NotContains(t, err.Error(), base+string(filepath.Separator)+"secrets")
		clean(t, err.Error())
	}
}

// manager is a secrets manager: what it holds, how it fails, and how often it was
// asked.
type manager struct {
	mu    sync.Mutex
	url   string
	err   error
	asked atomic.Int64
	gate  chan struct{} // if set, each question waits
}

func (v *manager) Resolve(ctx context.Context, _ string) (string, error) {
	v.asked.Add(1)
	if v.gate != nil {
		select {
		case <-v.gate:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.url, v.err
}

func (v *manager) set(url string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.url, v.err = url, err
}

// cache is a cached resolver whose clock is the test's.
type cache struct {
	*tenancy.CachedResolver
	ahead atomic.Int64
	log   bytes.Buffer
}

func newCache(t testing.TB, inner tenancy.Resolver) *cache {
	t.Helper()
	c := &cache{}
	start := time.Now()
	var err error
	c.CachedResolver, err = tenancy.NewCachedResolver(inner, &tenancy.CachedResolverOptions{
		TTL: time.Minute, MaxStale: time.Hour, Logger: slog.New(slog.NewTextHandler(&c.log, nil)),
		Now: func() time.Time { return start.Add(time.Duration(c.ahead.Load())) },
	})
	require.NoError(t, err)
	return c
}

// want requires what a question is answered with, and how often the manager has
// been asked by then.
func (c *cache) want(t testing.TB, v *manager, url string, asked int64) {
	t.Helper()
	got, err := c.Resolve(t.Context(), "acme")
	if url == "" {
		require.Error(t, err)
		clean(t, err.Error())
	} else {
		require.NoError(t, err)
	}
	require.Equal(t, url, got)
	require.Equal(t, asked, v.asked.Load())
}

// TestCachedResolver lets time pass, and the manager fail.
//
// Mutations that it saw: an age that isn't bounded; a failure that isn't
// remembered; a Forget that keeps the old URL.
func TestCachedResolver(t *testing.T) {
	t.Parallel()
	v := &manager{url: "one"}
	c := newCache(t, v)
	c.want(t, v, "one", 1)
	v.set("two", nil)
	c.want(t, v, "one", 1)
	c.ahead.Add(int64(time.Minute))
	c.want(t, v, "two", 2)

	v.set("", fmt.Errorf("can't reach %s", secretURL))
	c.want(t, v, "two", 2)
	c.ahead.Add(int64(time.Minute))
	c.want(t, v, "two", 3) // stale
	c.want(t, v, "two", 3) // and not asked again at once
	c.ahead.Add(int64(10 * time.Second))
	c.want(t, v, "two", 4)
	require.Equal(t, 1, strings.Count(c.log.String(), "\n"), "%s", &c.log)
	require.Contains(t, c.log.String(), "acme")
	clean(t, c.log.String())
	c.ahead.Add(int64(time.Hour))
	c.want(t, v, "", 5)
	v.set("three", nil)
	c.want(t, v, "three", 6)

	v.set("four", nil)
	c.Forget("acme")
	c.want(t, v, "four", 7)
	v.set("", errors.New(secretURL))
	c.Forget("acme")
	c.want(t, v, "", 8)
	v.set("", nil)
	c.want(t, v, "", 9)
}

// TestCachedResolverAsksOnce has many callers at once, one of whom asks; while
// an old URL will do, the others don't wait for it; and one whose patience ends
// takes nobody else's.
//
// Mutations that it saw: everybody asks; callers wait although there is an old
// URL; an old URL that has no age; a caller's cancellation is everybody's error.
func TestCachedResolverAsksOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testCachedResolverAsksOnce)
}

func testCachedResolverAsksOnce(t *testing.T) {
	v := &manager{url: "one", gate: make(chan struct{})}
	c := newCache(t, v)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := c.Resolve(ctx, "acme")
		first <- err
	}()
	synctest.Wait()
	require.EqualValues(t, 1, v.asked.Load())
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			url, err := c.Resolve(t.Context(), "acme")
			if err != nil || url != "one" {
				t.Error(url, err)
			}
		})
	}
	synctest.Wait() // until all are waiting for the first
	require.EqualValues(t, 1, v.asked.Load())
	cancel()
	err := <-first
	require.ErrorIs(t, err, context.Canceled)
	require.EqualError(t, err, `tenancy: resolve database "acme": context canceled`)
	synctest.Wait()
	require.EqualValues(t, 2, v.asked.Load())
	v.gate <- struct{}{}
	callers.Wait()
	require.EqualValues(t, 2, v.asked.Load())

	c.ahead.Add(int64(2 * time.Minute))
	go func() {
		_, err := c.Resolve(t.Context(), "acme")
		first <- err
	}()
	synctest.Wait()
	c.want(t, v, "one", 3)
	c.ahead.Add(int64(time.Hour)) // too old now, even while somebody asks
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Resolve(cancelled, "acme")
	require.ErrorIs(t, err, context.Canceled)
	close(v.gate)
	require.NoError(t, <-first)
}

// TestCachedResolverForgetsTheOld doesn't keep databases for ever that nobody
// asks for.
func TestCachedResolverForgetsTheOld(t *testing.T) {
	t.Parallel()
	v := &manager{url: "one"}
	c := newCache(t, v)
	for i := range 5000 {
		_, err := c.Resolve(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		c.ahead.Add(int64(time.Minute))
	}
	require.Less(t, c.Known(), 2500)
}

func TestCachedResolverOptions(t *testing.T) {
	t.Parallel()
	_, err := tenancy.NewCachedResolver(nil, nil)
	require.ErrorContains(t, err, "resolver is nil")
	_, err = tenancy.NewCachedResolver(&manager{}, &tenancy.CachedResolverOptions{TTL: -1})
	require.ErrorContains(t, err, "CachedResolverOptions.TTL")
	_, err = tenancy.NewCachedResolver(&manager{}, &tenancy.CachedResolverOptions{MaxStale: -1})
	require.ErrorContains(t, err, "CachedResolverOptions.MaxStale")
}

func ExampleEnvResolver() {
	os.Setenv("DATABASE_URL_ACME_EU", "postgres://app_user@eu.example/acme")
	url, err := tenancy.EnvResolver("DATABASE_URL_").Resolve(context.Background(), "acme-eu")
	fmt.Println(url, err)
	_, err = tenancy.EnvResolver("DATABASE_URL_").Resolve(context.Background(), "globex")
	fmt.Println(err)
	// Output:
	// postgres://app_user@eu.example/acme <nil>
	// tenancy: resolve database "globex": the environment variable DATABASE_URL_GLOBEX is not set
}

// Secrets that are mounted as files need no cache: a file is read each time a
// connection is opened.
func ExampleFileResolver() {
	_ = &tenancy.Options{Databases: &tenancy.DatabasesOptions{Resolver: tenancy.FileResolver("/run/secrets/databases")}}
}

func ExampleNewCachedResolver() {
	manager := tenancy.ResolverFunc(func(_ context.Context, ref string) (string, error) {
		fmt.Println("asked for", ref)
		return "postgres://app_user@eu.example/" + ref, nil
	})
	resolver, err := tenancy.NewCachedResolver(manager, nil)
	if err != nil {
		panic(err)
	}
	for range 3 {
		url, err := resolver.Resolve(context.Background(), "acme")
		fmt.Println(url, err)
	}
	// Output:
	// asked for acme
	// postgres://app_user@eu.example/acme <nil>
	// postgres://app_user@eu.example/acme <nil>
	// postgres://app_user@eu.example/acme <nil>
}
