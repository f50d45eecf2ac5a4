package awssecrets_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/examples/awssecrets"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// What must not be seen in any error.
var hidden = []string{"s3cr3t", "db7.internal", "hidden_user", "postgres://", "arn:aws", "AKIATEST", "127.0.0.1", "123456789012"}

// manager is Secrets Manager as far as GetSecretValue goes: the AWS JSON 1.1
// protocol.
type manager struct {
	*httptest.Server
	mu      sync.Mutex
	secrets map[string]string // current versions
	fail    []string          // error codes of the next answers
	asked   int
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{secrets: make(map[string]string)}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	answer := func(status int, v map[string]any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	refuse := func(code string) {
		status := http.StatusBadRequest
		if code == "InternalServiceError" {
			status = http.StatusInternalServerError
		}
		answer(status, map[string]any{"__type": code, "message": "User: arn:aws:sts::123456789012:assumed-role/hidden_user may not read s3cr3t"})
	}
	var in struct{ SecretId, VersionStage string }
	switch {
	case r.Method != http.MethodPost || r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue",
		r.Header.Get("Content-Type") != "application/x-amz-json-1.1",
		!strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIATEST/"):
		refuse("UnknownOperationException")
		return
	case json.NewDecoder(r.Body).Decode(&in) != nil || in.VersionStage != "AWSCURRENT":
		refuse("InvalidParameterException")
		return
	case len(m.fail) > 0:
		code := m.fail[0]
		m.fail = m.fail[1:]
		refuse(code)
		return
	}
	secret, ok := m.secrets[in.SecretId]
	if !ok {
		refuse("ResourceNotFoundException")
		return
	}
	answer(http.StatusOK, map[string]any{"ARN": "arn:aws:secretsmanager:eu-1:123456789012:secret:" + in.SecretId, "Name": in.SecretId,
		"SecretString": secret, "VersionId": "1", "VersionStages": []string{"AWSCURRENT"}})
}

func (m *manager) put(name, secret string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets[name] = secret
}

func (m *manager) failNext(codes ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = codes
}

func (m *manager) resolver(t *testing.T, opts *awssecrets.Options) *awssecrets.Resolver {
	t.Helper()
	client := secretsmanager.New(secretsmanager.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(m.URL),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: "s3cr3t"}, nil
		}),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond }),
	})
	r, err := awssecrets.New(client, opts)
	require.NoError(t, err)
	return r
}

func clean(t *testing.T, err error) {
	t.Helper()
	for _, secret := range hidden {
		require.NotContains(t, fmt.Sprintf("%v %+v %q", err, err, err), secret)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	r := m.resolver(t, &awssecrets.Options{Prefix: "shop/databases/"})
	for name, test := range map[string]struct{ secret, url, reason string }{
		"plain":      {secret: "postgres://app_user:s3cr3t@db7.internal/acme\n", url: "postgres://app_user:s3cr3t@db7.internal/acme"},
		"url":        {secret: `{"url": "postgres://db7.internal/acme"}`, url: "postgres://db7.internal/acme"},
		"rds":        {secret: `{"engine": "postgres", "host": "db7.internal", "port": 5433, "username": "hidden_user", "password": "s3cr3t/@:?", "dbname": "acme"}`, url: "postgres://hidden_user:s3cr3t%2F%40%3A%3F@db7.internal:5433/acme?sslmode=verify-full"},
		"text port":  {secret: `{"host": "db7.internal", "port": "5433", "username": "u", "password": "p"}`, url: "postgres://u:p@db7.internal:5433/?sslmode=verify-full"},
		"no port":    {secret: `{"host": "db7.internal", "username": "u", "password": "p", "dbname": "acme"}`, url: "postgres://u:p@db7.internal/acme?sslmode=verify-full"},
		"empty":      {secret: " ", reason: "the secret is empty, or isn't text"},
		"no members": {secret: `{"password": "s3cr3t"}`, reason: `the secret has neither "url" nor "host" and "username"`},
		"malformed":  {secret: `{"password": s3cr3t}`, reason: "the secret is malformed JSON"},
	} {
		m.put("shop/databases/acme", test.secret)
		url, err := r.Resolve(t.Context(), "acme")
		require.Equal(t, test.url, url, name)
		if test.reason == "" {
			require.NoError(t, err, name)
			continue
		}
		require.EqualError(t, err, `tenancy: resolve database "acme": `+test.reason, name)
		clean(t, err)
	}
	for _, ref := range []string{"", "arn:aws:secretsmanager:eu-1:1:secret:other", "../other", "a/b"} {
		_, err := r.Resolve(t.Context(), ref)
		require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable)
	}
}

// TestErrors has the service answer in every way in which it refuses.
//
// Mutation that it saw: the service's message shown.
func TestErrors(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	r := m.resolver(t, nil)
	m.put("acme", "postgres://db7.internal/acme")
	for code, reason := range map[string]string{
		"ResourceNotFoundException": "there is no such secret",
		"AccessDeniedException":     "access to the secret is denied",
		"DecryptionFailure":         "the secret can't be decrypted",
		"InvalidRequestException":   "the secret is being deleted, or has no current version",
		"UnknownOperationException": "the secrets manager failed",
	} {
		m.failNext(code)
		_, err := r.Resolve(t.Context(), "acme")
		require.EqualError(t, err, `tenancy: resolve database "acme": `+reason)
		require.ErrorIs(t, err, tenancy.ErrDatabaseUnavailable)
		clean(t, err)
	}
	// The client tries again by itself.
	m.failNext("ThrottlingException", "InternalServiceError")
	_, err := r.Resolve(t.Context(), "acme")
	require.NoError(t, err)
	m.failNext("ThrottlingException", "ThrottlingException", "ThrottlingException")
	_, err = r.Resolve(t.Context(), "acme")
	require.EqualError(t, err, `tenancy: resolve database "acme": the secrets manager wants fewer requests`)
	clean(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Resolve(ctx, "acme")
	require.ErrorIs(t, err, context.Canceled)
	clean(t, err)
	m.Close()
	_, err = r.Resolve(t.Context(), "acme")
	require.EqualError(t, err, `tenancy: resolve database "acme": the secrets manager is unreachable`)
	clean(t, err)
}

// TestRotation changes a secret behind the cache: it is found as soon as the old
// one is refused, and the old one serves while there is no other.
func TestRotation(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.put("acme", "postgres://old")
	ahead := time.Duration(0)
	start := time.Now()
	cached, err := tenancy.NewCachedResolver(m.resolver(t, nil), &tenancy.CachedResolverOptions{Now: func() time.Time { return start.Add(ahead) }})
	require.NoError(t, err)
	want := func(url string, asked int) {
		t.Helper()
		got, err := cached.Resolve(t.Context(), "acme")
		require.NoError(t, err)
		require.Equal(t, url, got)
		require.Equal(t, asked, m.asked)
	}
	want("postgres://old", 1)
	m.put("acme", "postgres://new")
	want("postgres://old", 1)
	cached.Forget("acme") // the database refused it
	want("postgres://new", 2)
	ahead = 10 * time.Minute
	m.failNext("ThrottlingException", "ThrottlingException", "ThrottlingException")
	want("postgres://new", 5)
	ahead += time.Minute
	m.put("acme", "postgres://newer")
	want("postgres://newer", 6)
}

func TestNew(t *testing.T) {
	t.Parallel()
	_, err := awssecrets.New(nil, nil)
	require.EqualError(t, err, "awssecrets: new: the client is nil")
}

func ExampleNew() {
	client := secretsmanager.New(secretsmanager.Options{Region: "eu-central-1"}) // or NewFromConfig
	secrets, err := awssecrets.New(client, &awssecrets.Options{Prefix: "shop/databases/"})
	if err != nil {
		panic(err)
	}
	cached, err := tenancy.NewCachedResolver(secrets, nil)
	if err != nil {
		panic(err)
	}
	_ = &tenancy.Options{Databases: &tenancy.DatabasesOptions{Resolver: cached}}
}
