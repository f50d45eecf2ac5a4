package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// AdminRole is the role whose members may have an [Admin] log in as them.
const AdminRole = "mcpsaas_admin"

// Admin reads what all tenants have, on record: for support and for operators. It
// has no connection until [AdminTx] is called, and none afterwards. It is safe
// for concurrent use.
//
// Its login is one that nothing else uses. Only a superuser can make it:
//
//	create role support login nosuperuser bypassrls nocreaterole nocreatedb password '...';
//	grant mcpsaas_admin, pg_read_all_data to support;
//
// To let it write too, add pg_write_all_data. What is in a tenant's own database
// is read, and recorded, by an Admin of that database.
type Admin struct {
	config *pgx.ConnConfig
	most   time.Duration
}

// AdminOptions configure [NewAdmin]. The zero value is the default.
type AdminOptions struct {
	// MaxTTL is the longest that an access may be granted for.
	// Defaults to 1 h.
	MaxTTL time.Duration
}

// NewAdmin reads the URL. It does not connect.
func NewAdmin(url string, opts *AdminOptions) (*Admin, error) {
	if opts == nil {
		opts = &AdminOptions{}
	}
	if opts.MaxTTL < 0 {
		return nil, errors.New("tenancy: new admin: AdminOptions.MaxTTL must not be negative")
	}
	config, err := parseURL(url)
	if err != nil {
		return nil, fmt.Errorf("tenancy: new admin: %w", err)
	}
	return &Admin{config: config.ConnConfig, most: orDefault(opts.MaxTTL, time.Hour)}, nil
}

// Access says who wants to see what and why.
type Access struct {
	// Actor is the person, as the operator knows them: not the database's login.
	Actor string

	// Reason is what will be read in the record, such as the number of a ticket.
	Reason string

	// TTL is when the access ends at the latest, whatever is running. It is rounded
	// up to a millisecond, and must be positive.
	TTL time.Duration

	// Write allows more than reading.
	Write bool
}

// ErrAccessExpired means that the time of an [Access] was up before its
// function had returned. Nothing it wrote was kept.
var ErrAccessExpired = errors.New("tenancy: the access has expired")

func (a Access) validate(most time.Duration) error {
	var errs []error
	if strings.TrimSpace(a.Actor) == "" {
		errs = append(errs, errors.New("Access.Actor is empty"))
	}
	if strings.TrimSpace(a.Reason) == "" {
		errs = append(errs, errors.New("Access.Reason is empty"))
	}
	if a.TTL <= 0 || a.TTL > most {
		errs = append(errs, fmt.Errorf("Access.TTL must be positive and at most %v", most))
	}
	return errors.Join(errs...)
}

// milliseconds is the TTL as the database counts it.
func (a Access) milliseconds() int64 {
	return int64((a.TTL + time.Millisecond - 1) / time.Millisecond)
}

// AdminTx runs fn in a transaction that no policy binds: it sees every tenant's
// rows of the database. Names need their schema. Who is behind it, and why, is
// written to mcpsaas.admin_access and committed before fn is called; if that
// fails, fn isn't. How it ended is written afterwards. No role but a superuser can
// change either, or do without.
//
// The transaction is read only unless Access.Write is set, commits if fn returns
// nil, and is rolled back else. When the TTL is over, fn's context ends, the
// database ends what is running, and AdminTx returns [ErrAccessExpired] as soon as
// fn has returned.
//
// A login that a superuser's or the owner's powers are within reach of, or that
// the policies bind, is refused with a [*RoleError] and nothing is read.
func AdminTx(ctx context.Context, admin *Admin, access Access, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if err := access.validate(admin.most); err != nil {
		return fmt.Errorf("tenancy: admin transaction: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, admin.config)
	if err != nil {
		return fmt.Errorf("tenancy: admin transaction: %w", redact(err))
	}
	defer hangUp(conn)
	if err := checkAdmin(ctx, conn); err != nil {
		return err
	}
	s := &adminSession{admin: admin, access: access, conn: conn}
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("tenancy: admin transaction: %w", err)
	}
	outcome, err := s.run(ctx, fn)
	// The caller's context may have ended, and the connection with it.
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminBound)
	defer cancel()
	if e := s.end(detached, outcome); e != nil {
		err = errors.Join(err, fmt.Errorf("tenancy: admin transaction: the record has no end: %w", redact(e)))
	}
	return err
}

// adminBound is how long putting things in order may take after an access.
const adminBound = 10 * time.Second

// hangUp closes a connection for good: nothing of a session may serve another.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), adminBound)
	defer cancel()
	conn.Close(ctx)
}
