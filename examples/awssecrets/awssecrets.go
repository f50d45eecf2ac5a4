// Package awssecrets finds the URLs of tenants' databases in AWS Secrets
// Manager. It is a module of its own: who imports tenancy doesn't pay for the
// SDK. Copy it, or import it.
//
//	config, err := awsconfig.LoadDefaultConfig(ctx)
//	secrets, err := awssecrets.New(secretsmanager.NewFromConfig(config), &awssecrets.Options{Prefix: "shop/databases/"})
//	cached, err := tenancy.NewCachedResolver(secrets, nil) // each call costs money, and there is a rate limit
//	db, err := tenancy.Open(ctx, url, &tenancy.Options{Directory: directory, Databases: &tenancy.DatabasesOptions{Resolver: cached}})
//
// The secret of database "acme" is then "shop/databases/acme", in the version
// AWSCURRENT. It is the URL as it is, or a JSON object: either with a member
// "url", or as the rotation of Secrets Manager wants it for a database, with
// host, port, username, password and dbname.
//
// Its rotation changes the password in the database first, and what is
// AWSCURRENT moments later. In between, and until the cached URL has expired, the
// database refuses new connections; tenancy then asks again, for five seconds if
// need be, before any call hears of it. The process needs
// secretsmanager:GetSecretValue on these secrets, and kms:Decrypt on their key.
//
// No error tells anything of a secret but the reference and what was wrong.
package awssecrets

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

// API is what is called of a *secretsmanager.Client.
type API interface {
	GetSecretValue(ctx context.Context, in *secretsmanager.GetSecretValueInput, opts ...func(*secretsmanager.Options)) (*secretsmanager.GetSecretValueOutput, error)
}

// Options configure [New]. The zero value is the default.
type Options struct {
	// Prefix stands before the reference in a secret's name.
	// Defaults to none.
	Prefix string

	// Query is the query of a URL that is made from a JSON object with host,
	// username and so on.
	// Defaults to "sslmode=verify-full".
	Query string
}

// Resolver is a [tenancy.Resolver]. It is safe for concurrent use.
type Resolver struct {
	client API
	opts   Options
}

var _ tenancy.Resolver = (*Resolver)(nil)

// New returns a resolver that asks by this client, whose retries and time-outs
// hold.
func New(client API, opts *Options) (*Resolver, error) {
	if client == nil {
		return nil, errors.New("awssecrets: new: the client is nil")
	}
	r := &Resolver{client: client}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Query == "" {
		r.opts.Query = "sslmode=verify-full"
	}
	return r, nil
}

// Resolve returns the URL in the current version of the secret. Its errors are
// each a [*tenancy.ResolveError].
func (r *Resolver) Resolve(ctx context.Context, ref string) (string, error) {
	if ref == "" || strings.HasPrefix(ref, "arn:") || strings.Contains(ref, "/") {
		return "", &tenancy.ResolveError{Ref: ref, Reason: "the reference must not be empty, an ARN or a path"}
	}
	out, err := r.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{
		SecretId:     aws.String(r.opts.Prefix + ref),
		VersionStage: aws.String("AWSCURRENT"),
	})
	if err != nil {
		return "", &tenancy.ResolveError{Ref: ref, Reason: reason(err), Err: err}
	}
	secret := strings.TrimSpace(aws.ToString(out.SecretString))
	if secret == "" {
		return "", &tenancy.ResolveError{Ref: ref, Reason: "the secret is empty, or isn't text"}
	}
	if !strings.HasPrefix(secret, "{") {
		return secret, nil
	}
	return r.fromJSON(ref, secret)
}

// fromJSON makes a URL of an object. What is wrong with one isn't said in
// detail: the decoder quotes it.
func (r *Resolver) fromJSON(ref, secret string) (string, error) {
	var s struct {
		URL      string      `json:"url"`
		Host     string      `json:"host"`
		Port     json.Number `json:"port"` // a number, or a string with one
		Username string      `json:"username"`
		Password string      `json:"password"`
		Database string      `json:"dbname"`
	}
	if err := json.Unmarshal([]byte(secret), &s); err != nil {
		return "", &tenancy.ResolveError{Ref: ref, Reason: "the secret is malformed JSON"}
	}
	switch {
	case s.URL != "":
		return s.URL, nil
	case s.Host == "" || s.Username == "":
		return "", &tenancy.ResolveError{Ref: ref, Reason: `the secret has neither "url" nor "host" and "username"`}
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(s.Username, s.Password), Host: s.Host, Path: "/" + s.Database, RawQuery: r.opts.Query}
	if s.Port != "" {
		u.Host = net.JoinHostPort(s.Host, s.Port.String())
	}
	return u.String(), nil
}

// reason says what went wrong in words of our own: the service's name accounts
// and roles, and the transport's its host.
func reason(err error) string {
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, cause) {
			return cause.Error()
		}
	}
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return "the secrets manager is unreachable"
	}
	switch api.ErrorCode() {
	case "ResourceNotFoundException":
		return "there is no such secret"
	case "AccessDeniedException":
		return "access to the secret is denied"
	case "ThrottlingException", "TooManyRequestsException":
		return "the secrets manager wants fewer requests"
	case "DecryptionFailure":
		return "the secret can't be decrypted"
	case "InvalidRequestException":
		return "the secret is being deleted, or has no current version"
	}
	return "the secrets manager failed"
}
