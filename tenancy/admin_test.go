package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// support is a login for administrators, and an Admin that uses it.
type support struct {
	*bundle
	role   string
	admin  *tenancy.Admin
	access tenancy.Access
}

func newSupport(t testing.TB) *support {
	t.Helper()
	b := setup(t)
	s := &support{bundle: b, role: "support_" + b.Name, access: tenancy.Access{Actor: "anna", Reason: "ticket 7", TTL: time.Minute}}
	b.superuser(t, `create role `+s.role+` login nosuperuser bypassrls nocreaterole nocreatedb`)
	b.superuser(t, `grant mcpsaas_admin, pg_read_all_data to `+s.role)
	var err error
	s.admin, err = tenancy.NewAdmin(b.As(s.role), nil)
	require.NoError(t, err)
	return s
}

const countProducts = `select count(*) from public.products`

// log is what the record says, the newest first.
func (s *support) log(t testing.TB) []tenancy.AdminRecord {
	t.Helper()
	records, err := tenancy.AdminLog(t.Context(), s.control, time.Time{}, 100)
	require.NoError(t, err)
	return records
}

// TestAdminTx reads every tenant's rows, with the record committed before.
//
// Mutations seen: begin called after run, the transaction not read only.
func TestAdminTx(t *testing.T) {
	t.Parallel()
	s := newSupport(t)
	ctx := t.Context()
	s.add(t, tenant.NewID(), "apple")
	s.add(t, tenant.NewID(), "pear")
	var n int
	require.NoError(t, tenancy.AdminTx(ctx, s.admin, s.access, func(ctx context.Context, tx pgx.Tx) error {
		log := s.log(t) // from another connection
		require.Len(t, log, 1)
		require.Equal(t, s.access, log[0].Access)
		require.Equal(t, s.role, log[0].Login)
		require.Empty(t, log[0].Outcome)
		require.WithinDuration(t, time.Now(), log[0].Began, time.Hour)
		return tx.QueryRow(ctx, countProducts).Scan(&n)
	}))
	require.Equal(t, 2, n)
	log := s.log(t)
	require.Equal(t, "committed", log[0].Outcome)
	require.False(t, log[0].Ended.Before(log[0].Began))

	// Reading only, unless asked for; the privilege is another matter.
	write := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `update public.products set name = name`)
		return err
	}
	require.ErrorContains(t, tenancy.AdminTx(ctx, s.admin, s.access, write), "25006")
	require.Equal(t, "rolled_back", s.log(t)[0].Outcome)
	s.access.Write = true
	require.ErrorContains(t, tenancy.AdminTx(ctx, s.admin, s.access, write), "42501")
	s.superuser(t, `grant pg_write_all_data to `+s.role)
	require.NoError(t, tenancy.AdminTx(ctx, s.admin, s.access, write))
	require.True(t, s.log(t)[0].Write)

	// The record stays when the transaction doesn't.
	failed := errors.New("failed")
	require.ErrorIs(t, tenancy.AdminTx(ctx, s.admin, s.access, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `delete from public.products`)
		require.NoError(t, err)
		return failed
	}), failed)
	require.Equal(t, "rolled_back", s.log(t)[0].Outcome)
	require.Equal(t, 2, super[int](t, s.Database, countProducts))
	require.Panics(t, func() {
		tenancy.AdminTx(ctx, s.admin, s.access, func(context.Context, pgx.Tx) error { panic("p") })
	})
	require.Equal(t, "failed", s.log(t)[0].Outcome)
	require.ErrorIs(t, tenancy.AdminTx(ctx, s.admin, s.access, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `commit`)
		return err
	}), tenancy.ErrTampered)
	require.Len(t, s.log(t), 7)
	require.Zero(t, super[int](t, s.Database, `select count(*) from pg_stat_activity where usename = $1`, s.role), "no standing access")
}

// TestAdminNeedsTheRecord: what can't be put on record doesn't happen. Mutation
// seen: the error of begin ignored.
func TestAdminNeedsTheRecord(t *testing.T) {
	t.Parallel()
	s := newSupport(t)
	never := func(context.Context, pgx.Tx) error { t.Error("fn was called"); return nil }
	for name, a := range map[string]tenancy.Access{
		"Actor":                               {Actor: " ", Reason: "r", TTL: time.Minute},
		"Reason":                              {Actor: "a", TTL: time.Minute},
		"TTL":                                 {Actor: "a", Reason: "r"},
		"TTL must be positive and at most 1h": {Actor: "a", Reason: "r", TTL: 2 * time.Hour},
	} {
		require.ErrorContains(t, tenancy.AdminTx(t.Context(), s.admin, a, never), name)
	}
	s.owner(t, `create function no() returns trigger language plpgsql as 'begin raise exception ''the disk is full''; end'`)
	s.owner(t, `create trigger no before insert on mcpsaas.admin_access for each row execute function no()`)
	require.ErrorContains(t, tenancy.AdminTx(t.Context(), s.admin, s.access, never), "the disk is full")
	require.Empty(t, s.log(t))
}

// TestAdminRoles: a login that could change the record, or has no use, is told
// apart before anything is read.
func TestAdminRoles(t *testing.T) {
	t.Parallel()
	for class, grant := range map[string]string{
		"superuser":    `alter role {} superuser`,
		"createrole":   `alter role {} createrole`,
		"member":       `grant ` + devstack.OwnerRole + ` to {}`,
		"app":          `grant app_user to {}`,
		"no_bypassrls": `alter role {} nobypassrls`,
		"no_member":    `revoke mcpsaas_admin from {}`,
	} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newSupport(t)
			s.superuser(t, strings.ReplaceAll(grant, "{}", s.role))
			err := tenancy.AdminTx(t.Context(), s.admin, s.access, func(context.Context, pgx.Tx) error { t.Error("fn was called"); return nil })
			require.ErrorIs(t, err, tenancy.ErrUnsafeRole)
			fault, ok := errors.AsType[*tenancy.RoleError](err)
			require.True(t, ok)
			require.Equal(t, class, fault.Faults[0].Class)
			require.Empty(t, s.log(t))
			s.superuser(t, fault.Faults[0].Mend)
			require.NoError(t, tenancy.AdminTx(t.Context(), s.admin, s.access, func(context.Context, pgx.Tx) error { return nil }))
		})
	}
	s := newSupport(t)
	for _, url := range []string{s.URL, s.As(tenancy.AppRole)} {
		admin, err := tenancy.NewAdmin(url, nil)
		require.NoError(t, err)
		err = tenancy.AdminTx(t.Context(), admin, s.access, func(context.Context, pgx.Tx) error { t.Error("fn was called"); return nil })
		require.ErrorIs(t, err, tenancy.ErrUnsafeRole)
	}
}

// TestAdminLogStays has each role that could have a hand in it try to change the
// record. Mutations seen: each trigger left out.
func TestAdminLogStays(t *testing.T) {
	t.Parallel()
	s := newSupport(t)
	s.superuser(t, `grant pg_write_all_data to `+s.role)
	require.NoError(t, tenancy.AdminTx(t.Context(), s.admin, s.access, func(context.Context, pgx.Tx) error { return nil }))
	for _, role := range []string{s.role, devstack.OwnerRole, tenancy.AppRole, "control"} {
		conn := s.Conn(t, devstack.OwnerRole)
		if role == "control" {
			_, err := conn.Exec(t.Context(), `set role mcpsaas_control`)
			require.NoError(t, err)
		} else {
			conn = s.Conn(t, role)
		}
		for _, sql := range []string{
			`update mcpsaas.admin_access set actor = 'nobody'`, `delete from mcpsaas.admin_access`, `truncate mcpsaas.admin_access cascade`,
			`update mcpsaas.admin_access_end set outcome = 'failed'`, `delete from mcpsaas.admin_access_end`, `truncate mcpsaas.admin_access_end`,
			`insert into mcpsaas.admin_access_end (access, outcome, ended_at) values (1, 'committed', now())`,
		} {
			_, err := conn.Exec(t.Context(), sql)
			require.Error(t, err, "%s: %s", role, sql)
		}
	}
	log := s.log(t)
	require.Len(t, log, 1)
	require.Equal(t, "anna", log[0].Actor)
	require.Equal(t, "committed", log[0].Outcome)

	// Who may insert can't say who they are, or when it was.
	_, err := s.Conn(t, s.role).Exec(t.Context(), `insert into mcpsaas.admin_access (login, actor, reason, write, ttl, began_at)
		values ('somebody', 'a', 'r', false, '1 s', '2000-01-01')`)
	require.NoError(t, err)
	require.Equal(t, s.role, s.log(t)[0].Login)
	require.False(t, s.log(t)[0].Began.Before(log[0].Began))
}

// TestAdminExpires: the time is up whatever fn does. Mutation seen: without kill
// the last two never end.
func TestAdminExpires(t *testing.T) {
	t.Parallel()
	for name, fn := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"a statement":     func(ctx context.Context, tx pgx.Tx) error { return sleep(ctx, tx) },
		"another context": func(_ context.Context, tx pgx.Tx) error { return sleep(context.Background(), tx) },
		"limits lifted": func(_ context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(context.Background(), `set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0`)
			return errors.Join(err, sleep(context.Background(), tx))
		},
		"between statements": func(_ context.Context, tx pgx.Tx) error {
			for {
				if _, err := tx.Exec(context.Background(), `set local statement_timeout = 0`); err != nil {
					return nil // it makes nothing of it
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSupport(t)
			s.access.TTL = 300 * time.Millisecond
			require.ErrorIs(t, tenancy.AdminTx(t.Context(), s.admin, s.access, fn), tenancy.ErrAccessExpired)
			log := s.log(t)
			require.Equal(t, "expired", log[0].Outcome)
			require.Equal(t, 300*time.Millisecond, log[0].TTL)
			require.GreaterOrEqual(t, log[0].Ended.Sub(log[0].Began), 300*time.Millisecond)
			require.Zero(t, super[int](t, s.Database, `select count(*) from pg_stat_activity where usename = $1 and state = 'active'`, s.role))
		})
	}
	t.Run("a context that ends", func(t *testing.T) {
		t.Parallel()
		s := newSupport(t)
		ctx, cancel := context.WithCancel(t.Context())
		require.ErrorIs(t, tenancy.AdminTx(ctx, s.admin, s.access, func(ctx context.Context, tx pgx.Tx) error { cancel(); return sleep(ctx, tx) }), context.Canceled)
		require.Equal(t, "failed", s.log(t)[0].Outcome)
	})
}

func sleep(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `select pg_sleep(600)`)
	return err
}

// adminChild reads and is killed meanwhile.
func adminChild() error {
	admin, err := tenancy.NewAdmin(os.Getenv("CHILD_URL"), nil)
	if err != nil {
		return err
	}
	access := tenancy.Access{Actor: "bert", Reason: "curiosity", TTL: time.Minute}
	return tenancy.AdminTx(context.Background(), admin, access, func(ctx context.Context, tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, countProducts).Scan(&n); err != nil {
			return err
		}
		fmt.Println("read", n)
		<-ctx.Done()
		return nil
	})
}

// TestAdminKilled: who has read is on record, however it ended. Mutation seen:
// begin called after run.
func TestAdminKilled(t *testing.T) {
	t.Parallel()
	s := newSupport(t)
	s.add(t, tenant.NewID(), "apple")
	c := startChild(t, "admin", "CHILD_URL="+s.As(s.role))
	c.until("read 1")
	c.kill()
	log := s.log(t)
	require.Len(t, log, 1)
	require.Equal(t, "bert", log[0].Actor)
	require.Empty(t, log[0].Outcome)
	require.Eventually(t, func() bool {
		return super[int](t, s.Database, `select count(*) from pg_stat_activity where usename = $1`, s.role) == 0
	}, 10*time.Second, 10*time.Millisecond)
}
