package apikey_test

import (
	"context"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestNewNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none") // never dialled
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	for _, tc := range []struct {
		name    string
		pool    *pgxpool.Pool
		dir     apikey.Directory
		peppers [][]byte
		opts    *apikey.Options
		want    string
	}{
		{"no pool", nil, &directory{}, [][]byte{pepper}, nil, "pool"},
		{"no directory", pool, nil, [][]byte{pepper}, nil, "directory"},
		{"no pepper", pool, &directory{}, nil, nil, "peppers"},
		{"short pepper", pool, &directory{}, [][]byte{pepper, []byte("short")}, nil, "number 2"},
		{"bad env", pool, &directory{}, [][]byte{pepper}, &apikey.Options{Env: "Live_"}, "Options.Env"},
		{"long env", pool, &directory{}, [][]byte{pepper}, &apikey.Options{Env: strings.Repeat("a", 17)}, "Options.Env"},
		{"negative ttl", pool, &directory{}, [][]byte{pepper}, &apikey.Options{HandoffTTL: -1}, "HandoffTTL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := apikey.New(tc.pool, tc.dir, tc.peppers, tc.opts)
			require.ErrorContains(t, err, tc.want)
			require.NotContains(t, err.Error(), "short\"")
		})
	}
}

func TestKeyIdentifiesItsTenant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	key := b.issue(t, id, apikey.Spec{Name: "ci", Scopes: []string{"tool:search", tenant.ScopeHealthRead}})
	require.Regexp(t, `^mtk_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}$`, key.Token)

	got, err := b.keys.Authenticate(t.Context(), key.Token)
	require.NoError(t, err)
	require.Equal(t, tenant.Tenant{
		ID: id, Plan: tenant.Pro, Status: tenant.Active,
		Subject: key.ID, Scopes: []string{"tool:search", tenant.ScopeHealthRead},
	}, got)

	// Plan and status are those of now, whatever they were at issue.
	for _, status := range []tenant.Status{tenant.Suspended, tenant.Provisioning, tenant.DeprovisionScheduled} {
		b.directory.set(tenant.Tenant{ID: id, Plan: tenant.Free, Status: status})
		got, err = b.keys.Authenticate(t.Context(), key.Token)
		require.NoError(t, err)
		require.Equal(t, status, got.Status)
		require.Equal(t, tenant.Free, got.Plan)
	}
	for _, status := range []tenant.Status{tenant.Purging, tenant.Cancelled, tenant.Deleted} {
		b.directory.set(tenant.Tenant{ID: id, Plan: tenant.Free, Status: status})
		_, err = b.keys.Authenticate(t.Context(), key.Token)
		require.ErrorIs(t, err, tenant.ErrUnauthenticated, status)
	}
}

// Mutations seen by this test: the checksum not compared, the MAC compared over
// half its length, expiry checked with After instead of Before.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	good := b.issue(t, id, apikey.Spec{})
	other := b.issue(t, id, apikey.Spec{})
	brief := b.issue(t, id, apikey.Spec{ExpiresAt: b.clock.Now().Add(time.Minute)})
	revoked := b.issue(t, id, apikey.Spec{})
	require.NoError(t, b.keys.Revoke(t.Context(), revoked.ID))
	stray := b.issue(t, tenant.NewID(), apikey.Spec{})

	_, err := b.keys.Authenticate(t.Context(), brief.Token)
	require.NoError(t, err)
	b.clock.move(time.Minute)

	secret := func(token string) int { return strings.LastIndexByte(token, '_') + 1 }
	for name, tc := range map[string]struct {
		token string
		want  error
	}{
		"empty":             {"", apikey.ErrMalformed},
		"prefix alone":      {"mtk_live_", apikey.ErrMalformed},
		"huge":              {"mtk_live_" + strings.Repeat("a", 1<<20), apikey.ErrMalformed},
		"one byte short":    {good.Token[:len(good.Token)-1], apikey.ErrMalformed},
		"one byte long":     {good.Token + "0", apikey.ErrMalformed},
		"wrong checksum":    {good.Token[:len(good.Token)-1] + flip(good.Token[len(good.Token)-1]), apikey.ErrMalformed},
		"other env":         {resum("mtk_test_" + good.Token[len("mtk_live_"):len(good.Token)-6]), apikey.ErrMalformed},
		"not base62":        {resum(good.Token[:secret(good.Token)] + "-" + good.Token[secret(good.Token)+1:len(good.Token)-6]), apikey.ErrMalformed},
		"NUL":               {strings.Replace(good.Token, "_", "\x00", 1), apikey.ErrMalformed},
		"unknown id":        {resum("mtk_live_" + strings.Repeat("0", 12) + good.Token[len("mtk_live_")+12:len(good.Token)-6]), apikey.ErrUnknown},
		"wrong first digit": {resum(good.Token[:secret(good.Token)] + flip(good.Token[secret(good.Token)]) + good.Token[secret(good.Token)+1:len(good.Token)-6]), apikey.ErrUnknown},
		"wrong last digit":  {resum(good.Token[:len(good.Token)-7] + flip(good.Token[len(good.Token)-7])), apikey.ErrUnknown},
		"another's secret":  {resum(good.Token[:secret(good.Token)] + other.Token[secret(other.Token):len(other.Token)-6]), apikey.ErrUnknown},
		"expired":           {brief.Token, apikey.ErrExpired},
		"revoked":           {revoked.Token, apikey.ErrRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := b.keys.Authenticate(t.Context(), tc.token)
			require.ErrorIs(t, err, tc.want)
			require.ErrorIs(t, err, tenant.ErrUnauthenticated)
			require.Zero(t, got)
			if tc.token != "" {
				require.NotContains(t, err.Error(), tc.token)
			}
		})
	}
	t.Run("tenant not in the directory", func(t *testing.T) {
		_, err := b.keys.Authenticate(t.Context(), stray.Token)
		require.ErrorIs(t, err, apikey.ErrNotReady)
		require.NotErrorIs(t, err, tenant.ErrUnauthenticated)
	})
}

// resum puts the right checksum behind the body of a token: whoever knows the
// format can.
func resum(body string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum, c := crc32.ChecksumIEEE([]byte(body)), make([]byte, 6)
	for i := 5; i >= 0; i-- {
		c[i] = digits[sum%62]
		sum /= 62
	}
	return body + string(c)
}

func flip(c byte) string {
	if c == '0' {
		return "1"
	}
	return "0"
}

func TestNoDatabaseOnTheCallPath(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	key := b.issue(t, id, apikey.Spec{})
	b.pool.Close() // from here on any query would fail
	_, err := b.keys.Authenticate(t.Context(), key.Token)
	require.NoError(t, err)
	_, err = b.keys.Authenticate(t.Context(), resum("mtk_live_"+strings.Repeat("z", 12)+"_"+strings.Repeat("z", 32)))
	require.ErrorIs(t, err, apikey.ErrUnknown)
}

func TestNotReadyBeforeTheFirstLoad(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	old := b.issue(t, id, apikey.Spec{})
	cold, err := apikey.New(b.pool, b.directory, b.peppers, nil)
	require.NoError(t, err)
	_, err = cold.Authenticate(t.Context(), old.Token)
	require.ErrorIs(t, err, apikey.ErrNotReady)
	require.NotErrorIs(t, err, tenant.ErrUnauthenticated)
	require.Error(t, cold.Check(t.Context()))
	require.NoError(t, b.keys.Check(t.Context()))

	// What it issued itself works all the same.
	key, err := cold.Issue(t.Context(), id, apikey.Spec{})
	require.NoError(t, err)
	_, err = cold.Authenticate(t.Context(), key.Token)
	require.NoError(t, err)
}

// Mutation seen by this test: revokeSQL without "changed = ...".
func TestReplicasFollow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	replica, _ := b.start(t)
	id := b.directory.add(tenant.Active)
	accepts := func(store *apikey.Store, token string) bool {
		_, err := store.Authenticate(t.Context(), token)
		require.True(t, err == nil || errors.Is(err, tenant.ErrUnauthenticated), err)
		return err == nil
	}
	key := b.issue(t, id, apikey.Spec{})
	require.True(t, accepts(b.keys, key.Token), "at once where it was issued")
	require.Eventually(t, func() bool { return accepts(replica, key.Token) }, 30*time.Second, time.Millisecond)

	require.NoError(t, replica.Revoke(t.Context(), key.ID))
	require.False(t, accepts(replica, key.Token), "at once where it was revoked")
	require.Eventually(t, func() bool { return !accepts(b.keys, key.Token) }, 30*time.Second, time.Millisecond)
	require.NoError(t, b.keys.Revoke(t.Context(), key.ID), "twice is no error")
	require.ErrorIs(t, b.keys.Revoke(t.Context(), "000000000000"), apikey.ErrNotFound)
	require.ErrorIs(t, b.keys.Revoke(t.Context(), "'; drop table"), apikey.ErrNotFound)

	first, second := b.issue(t, id, apikey.Spec{}), b.issue(t, id, apikey.Spec{})
	foreign := b.issue(t, b.directory.add(tenant.Active), apikey.Spec{})
	require.Eventually(t, func() bool { return accepts(replica, second.Token) }, 30*time.Second, time.Millisecond)
	n, err := b.keys.RevokeAll(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	for _, store := range []*apikey.Store{b.keys, replica} {
		require.Eventually(t, func() bool {
			return !accepts(store, first.Token) && !accepts(store, second.Token) && accepts(store, foreign.Token)
		}, 30*time.Second, time.Millisecond)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	old := b.issue(t, id, apikey.Spec{Name: "ci", Scopes: []string{"tool:x"}, ExpiresAt: b.clock.Now().Add(48 * time.Hour)})
	next, err := b.keys.Rotate(t.Context(), old.ID, time.Hour)
	require.NoError(t, err)
	require.NotEqual(t, old.Token, next.Token)
	for _, key := range []apikey.Key{old, next} {
		got, err := b.keys.Authenticate(t.Context(), key.Token)
		require.NoError(t, err, "both work during the overlap")
		require.Equal(t, []string{"tool:x"}, got.Scopes)
	}
	b.clock.move(time.Hour)
	_, err = b.keys.Authenticate(t.Context(), old.Token)
	require.ErrorIs(t, err, apikey.ErrExpired)
	_, err = b.keys.Authenticate(t.Context(), next.Token)
	require.NoError(t, err)

	infos, err := b.keys.List(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, infos, 2)
	for _, info := range infos {
		require.Equal(t, "ci", info.Name)
		require.False(t, info.ExpiresAt.IsZero(), "a bounded key is not rotated into an unbounded one")
	}
	_, err = b.keys.Rotate(t.Context(), old.ID, time.Hour)
	require.ErrorIs(t, err, apikey.ErrNotFound, "expired")
	require.NoError(t, b.keys.Revoke(t.Context(), next.ID))
	_, err = b.keys.Rotate(t.Context(), next.ID, time.Hour)
	require.ErrorIs(t, err, apikey.ErrNotFound, "revoked")
	_, err = b.keys.Rotate(t.Context(), next.ID, -time.Hour)
	require.ErrorContains(t, err, "overlap")
}

func TestPepperRotation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	old := b.issue(t, id, apikey.Spec{})
	_, err := b.keys.IssueFirst(t.Context(), id, apikey.Spec{})
	require.NoError(t, err)

	b.peppers = [][]byte{newPepper, pepper}
	both, _ := b.start(t)
	_, err = both.Authenticate(t.Context(), old.Token)
	require.NoError(t, err)
	key, err := both.Issue(t.Context(), id, apikey.Spec{})
	require.NoError(t, err)

	b.peppers = [][]byte{newPepper}
	after, _ := b.start(t)
	_, err = after.Authenticate(t.Context(), key.Token)
	require.NoError(t, err)
	_, err = after.Authenticate(t.Context(), old.Token)
	require.ErrorIs(t, err, apikey.ErrUnknown)
	require.ErrorContains(t, after.Check(t.Context()), "2 live keys")
	_, err = after.Claim(t.Context(), id)
	require.ErrorContains(t, err, "pepper")
	require.NoError(t, both.Check(t.Context()))
	token, err := both.Claim(t.Context(), id)
	require.NoError(t, err, "a claim that failed took nothing away")
	_, err = both.Authenticate(t.Context(), token)
	require.NoError(t, err)
}

func TestIssueValidates(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	now := b.clock.Now()
	for name, tc := range map[string]struct {
		tenant tenant.ID
		spec   apikey.Spec
		want   string
	}{
		"no tenant":            {tenant.ID{}, apikey.Spec{}, "tenant"},
		"long name":            {id, apikey.Spec{Name: strings.Repeat("ä", 101)}, "Spec.Name"},
		"NUL in name":          {id, apikey.Spec{Name: "a\x00b"}, "Spec.Name"},
		"broken name":          {id, apikey.Spec{Name: "\xff"}, "Spec.Name"},
		"newline in creator":   {id, apikey.Spec{CreatedBy: "a\nb"}, "Spec.CreatedBy"},
		"empty scope":          {id, apikey.Spec{Scopes: []string{""}}, "Spec.Scopes"},
		"too many scopes":      {id, apikey.Spec{Scopes: make([]string, 65)}, "Spec.Scopes"},
		"past":                 {id, apikey.Spec{ExpiresAt: now}, "Spec.ExpiresAt"},
		"unbounded canary":     {id, apikey.Spec{Scopes: []string{tenant.ScopeCanary}}, "Spec.ExpiresAt"},
		"canary of two months": {id, apikey.Spec{Scopes: []string{tenant.ScopeCanary}, ExpiresAt: now.AddDate(0, 2, 0)}, "Spec.ExpiresAt"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.keys.Issue(t.Context(), tc.tenant, tc.spec)
			require.ErrorContains(t, err, tc.want)
			_, err = b.keys.IssueFirst(t.Context(), tc.tenant, tc.spec)
			require.ErrorContains(t, err, tc.want)
		})
	}
	infos, err := b.keys.List(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, infos)
}

func TestListShowsNoSecret(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	foreign := b.issue(t, b.directory.add(tenant.Active), apikey.Spec{Name: "foreign"})
	probe := b.issue(t, id, apikey.Spec{Name: "probe", Scopes: []string{tenant.ScopeHealthRead}, CreatedBy: "op", ExpiresAt: b.clock.Now().Add(72 * time.Hour)})
	plain := b.issue(t, id, apikey.Spec{Name: "plain"})

	infos, err := b.keys.List(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, infos, 2)
	require.Equal(t, probe.ID, infos[0].ID)
	require.Equal(t, "op", infos[0].CreatedBy)
	require.Equal(t, b.clock.Now().Add(72*time.Hour), infos[0].ExpiresAt)
	require.Equal(t, plain.ID, infos[1].ID)
	require.Equal(t, []string{tenant.ScopeTools}, infos[1].Scopes)
	require.NotEqual(t, foreign.ID, infos[1].ID)

	soon, err := b.keys.Expiring(t.Context(), tenant.ScopeHealthRead, 71*time.Hour)
	require.NoError(t, err)
	require.Empty(t, soon)
	soon, err = b.keys.Expiring(t.Context(), tenant.ScopeHealthRead, 72*time.Hour)
	require.NoError(t, err)
	require.Len(t, soon, 1)
	require.Equal(t, probe.ID, soon[0].ID)

	// Neither tokens nor secrets are anywhere in the table.
	var dump string
	require.NoError(t, b.pool.QueryRow(t.Context(), `select string_agg(k::text, ' ') from mcpsaas.api_keys k`).Scan(&dump))
	require.Contains(t, dump, plain.ID)
	require.NotContains(t, dump, plain.Token[22:30])
}

func TestLastUseIsWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.directory.add(tenant.Active)
	keys, stop := b.start(t)
	key, err := keys.Issue(t.Context(), id, apikey.Spec{})
	require.NoError(t, err)
	used := func() time.Time {
		infos, err := b.keys.List(t.Context(), id)
		require.NoError(t, err)
		require.Len(t, infos, 1)
		return infos[0].LastUsedAt
	}
	start := b.clock.Now()
	for range 59 {
		_, err = keys.Authenticate(t.Context(), key.Token)
		require.NoError(t, err)
		b.clock.move(time.Second)
	}
	require.Zero(t, used())
	stop() // writes what it has noted
	require.Equal(t, start, used(), "noted once within the minute")

	var version int
	require.NoError(t, b.pool.QueryRow(t.Context(), `select version from mcpsaas.api_keys where id = $1`, key.ID).Scan(&version))
	require.Equal(t, 1, version, "a use is no news to the other replicas")
}

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, devtest.Template{Name: "empty"})
	errs := make(chan error)
	for range 4 {
		go func() {
			conn, err := pgx.Connect(t.Context(), db.URL)
			if err == nil {
				err = apikey.Migrate(t.Context(), conn)
				conn.Close(context.WithoutCancel(t.Context()))
			}
			errs <- err
		}()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
}
