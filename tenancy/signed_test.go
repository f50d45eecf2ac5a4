package tenancy_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// signer makes a database accept a key of its own.
func (b *bundle) signer(t testing.TB, id string) *tenancy.Signer {
	t.Helper()
	key, err := tenancy.NewSigningKey(id)
	require.NoError(t, err)
	require.NoError(t, tenancy.AddSigningKey(t.Context(), b.Conn(t, devstack.OwnerRole), key))
	s, err := tenancy.NewSigner(key, nil)
	require.NoError(t, err)
	return s
}

// vault is a database with anna's and bert's secrets, in the shared tables and in
// a schema of each.
type vault struct {
	*bundle
	signer     *tenancy.Signer
	anna, bert tenant.ID
	inSchema   bool // anna's own place
	super      *pgx.Conn
}

const bertsSecret = "bert's own"

func newVault(t *testing.T, signed, inSchema bool) *vault {
	t.Helper()
	v := &vault{bundle: &bundle{Database: devtest.DB(t, shop)}, anna: tenant.NewID(), bert: tenant.NewID(), inSchema: inSchema}
	ctx := t.Context()
	conn := v.Conn(t, devstack.OwnerRole)
	v.signer = v.bundle.signer(t, "k1")
	v.owner(t, `create table secrets (tenant_id uuid not null, id uuid not null default gen_random_uuid(), body text, primary key (tenant_id, id))`)
	require.NoError(t, tenancy.Protect(ctx, conn, "secrets"))
	for _, id := range []tenant.ID{v.anna, v.bert} {
		name := tenancy.SchemaName(id)
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := tenancy.CreateSchema(ctx, tx, id); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, fmt.Sprintf(`create table %[1]s.secrets (like public.secrets including all); create table %[1]s.bare (id int generated always as identity, body text)`, name))
			if err != nil {
				return err
			}
			return tenancy.ProtectSchema(ctx, tx, id)
		})
		require.NoError(t, err)
	}
	v.super = v.Conn(t, "postgres")
	v.reset(t)
	if signed {
		require.NoError(t, tenancy.SignContext(ctx, conn, true))
	}
	// What would make it easier: it must hold all the same.
	v.superuser(t, fmt.Sprintf(`grant temporary on database %s to public; grant create on schema public to public`, v.Name))
	return v
}

// reset puts everything back.
func (v *vault) reset(t *testing.T) {
	t.Helper()
	sql := `drop function if exists public.sha256(bytea), public.now(), public.encode(bytea, text), public.yes(text, text), public.yes(bytea, bytea) cascade; truncate public.secrets;`
	for id, body := range map[tenant.ID]string{v.anna: "anna''s own", v.bert: "bert''s own"} {
		sql += strings.NewReplacer("{schema}", tenancy.SchemaName(id), "{id}", id.String(), "{body}", body).Replace(`
truncate {schema}.secrets, {schema}.bare;
insert into public.secrets (tenant_id, body) values ('{id}', '{body}'); insert into {schema}.secrets (tenant_id, body) values ('{id}', '{body}');
insert into {schema}.bare (body) values ('{body}');`)
	}
	_, err := v.super.Exec(t.Context(), `set client_min_messages = warning; `+sql)
	require.NoError(t, err)
}

func (v *vault) fill(sql, token string) string {
	mac := token[strings.LastIndex(token, ".")+1:]
	return strings.NewReplacer("{anna}", v.anna.String(), "{bert}", v.bert.String(), "{home}", tenancy.SchemaName(v.anna), "{place}", tenancy.SchemaName(v.bert),
		"{token}", token, "{mac}", mac, "{far}", v.bert.String()+".99999999999.k1."+mac).Replace(sql)
}

// enter is what a tenant's transaction begins with.
func (v *vault) enter(token string) string {
	sql := v.fill(`select mcpsaas_app.enter('{anna}', 0, true, false), set_config('app.current_tenant_token', '{token}', true)`, token)
	if v.inSchema {
		sql += v.fill(`, set_config('role', '{home}', true), set_config('search_path', '{home}, pg_temp', true)`, token)
	}
	return sql
}

// bertsRows is all that is bert's, as nobody but a superuser sees it, and all
// that anyone has put where only bert's is.
func (v *vault) bertsRows(t *testing.T) (rows string) {
	t.Helper()
	sql := v.fill(`select string_agg(x, ' ' order by x) from (
select tenant_id || body as x from public.secrets where tenant_id = '{bert}' union all
select tenant_id || body from {place}.secrets union all select body from {place}.bare) x`, ".")
	require.NoError(t, v.super.QueryRow(t.Context(), sql).Scan(&rows))
	return rows
}

// said collects everything that the server answers: rows, notices and errors.
type said struct{ strings.Builder }

func (s *said) answers(results []*pgconn.Result, err error) {
	for _, r := range results {
		for _, row := range r.Rows {
			for _, cell := range row {
				s.Write(cell)
				s.WriteByte('\n')
			}
		}
	}
	if failure, ok := err.(*pgconn.PgError); ok {
		fmt.Fprintln(s, failure.Message, failure.Detail, failure.Hint, failure.Where)
	} else if err != nil {
		fmt.Fprintln(s, err)
	}
}

func (v *vault) connect(t *testing.T, out *said) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(v.As(tenancy.AppRole))
	require.NoError(t, err)
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { fmt.Fprintln(out, n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	return conn
}

// inTransaction runs the statements within one transaction of anna's, by the
// protocol that lets one string carry several. What fails is undone and gone on
// from.
func (v *vault) inTransaction(t *testing.T, statements []string) string {
	var out said
	conn := v.connect(t, &out).PgConn()
	defer conn.Close(t.Context())
	token := v.signer.Token(v.anna)
	run := func(sql string) error {
		results, err := conn.Exec(t.Context(), sql).ReadAll()
		out.answers(results, err)
		return err
	}
	require.NoError(t, run(`begin`))
	require.NoError(t, run(v.enter(token)))
	for _, sql := range statements {
		if conn.TxStatus() == 'T' {
			require.NoError(t, run(`savepoint mine`))
		}
		err := run(v.fill(sql, token))
		if copied := v.fill(sql, token); strings.HasPrefix(copied, "copy ") && err == nil {
			_, err := conn.CopyTo(t.Context(), &out, copied)
			require.NoError(t, err)
		}
		if conn.TxStatus() == 'E' {
			require.NoError(t, run(`rollback to mine`))
		}
	}
	run(`commit`)
	return out.String()
}

// asOneShots runs each statement as a transaction of its own, begun as anna's, on
// one connection: what one leaves to the session the next one finds.
func (v *vault) asOneShots(t *testing.T, statements []string) string {
	var out said
	conn := v.connect(t, &out)
	defer conn.Close(t.Context())
	token := v.signer.Token(v.anna)
	for _, sql := range statements {
		batch := &pgconn.Batch{}
		batch.ExecParams(v.enter(token), nil, nil, nil, nil)
		batch.ExecParams(v.fill(sql, token), nil, nil, nil, nil)
		out.answers(conn.PgConn().ExecBatch(t.Context(), batch).ReadAll())
		if conn.PgConn().TxStatus() != 'I' {
			_, err := conn.PgConn().Exec(t.Context(), `rollback`).ReadAll()
			require.NoError(t, err)
		}
	}
	return out.String()
}

// Whoever can have any statement run in a tenant's transaction, or in place of
// one, reads nothing of another tenant's and writes nothing there, from the shared
// tables, from a schema and in a database of its own kind, where the role may also
// make tables, functions and temporary ones. The control is that the same goes
// through where the context isn't signed.
//
// Mutations, each seen here, by the injection in brackets. Of the migration:
// without the comparison of the codes (forged), without a name in full (shadow),
// with keys that the application may read (keys to sign with). Of the policies: the
// shared tables' unsigned (set_config), the guard of theirs a plain equality (changes
// while it is compared), the access unwrapped (within the statement, while the guard
// was plain), the guard in a schema by tenant_id alone
// (nothing: anna's litter in bert's table), none where there is no tenant_id.
// TestToken sees the rest.
func TestInjection(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(injections), 30)
	for _, tier := range []string{"shared", "schema", "database"} {
		t.Run(tier, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, true, tier == "schema")
			if tier == "database" {
				// What the home database has signed is nothing in another.
				home := newVault(t, true, false)
				require.Error(t, v.probe(t, home.signer.Token(v.bert)))
			}
			before := v.bertsRows(t)
			require.Equal(t, 3, strings.Count(before, bertsSecret))
			for _, attack := range injections {
				// Under whatever role it left, as the application's, and as bert's.
				statements := slices.Concat(attack.sql, take, []string{`reset role`}, take, []string{`set role {place}`}, take)
				for form, run := range map[string]func(*testing.T, []string) string{"transaction": v.inTransaction, "one-shots": v.asOneShots} {
					out := run(t, statements)
					require.NotContains(t, out, bertsSecret, "%s, %s", attack.name, form)
					require.Equal(t, before, v.bertsRows(t), "%s, %s", attack.name, form)
				}
				v.reset(t)
			}
			require.Contains(t, v.inTransaction(t, take), "anna's own", "anna sees her own")
		})
	}
	t.Run("unsigned", func(t *testing.T) {
		t.Parallel()
		v := newVault(t, false, false)
		for _, attack := range injections {
			before := v.bertsRows(t)
			out := v.inTransaction(t, slices.Concat(attack.sql, take))
			require.Equal(t, attack.crosses, strings.Contains(out, bertsSecret) || before != v.bertsRows(t), "%s: %s", attack.name, out)
			v.reset(t)
		}
	})
}

// probe asks who a token is of.
func (v *vault) probe(t *testing.T, token string) error {
	t.Helper()
	var out said
	var id string
	conn := v.connect(t, &out)
	defer conn.Close(t.Context())
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `select set_config('app.current_tenant_token', $1, true)`, token)
	require.NoError(t, err)
	if err := tx.QueryRow(t.Context(), `select mcpsaas_app.current_tenant()::text`).Scan(&id); err != nil {
		return err
	}
	if id != v.bert.String() {
		return fmt.Errorf("it is %s", id)
	}
	return nil
}

// A token is good while its key is and until it expires, by the database's
// clock; a transaction that has begun goes on.
//
// Mutations that it saw: the verifier without the expiry, and with clock_timestamp in
// place of now; a token that isn't sound taken for none.
func TestToken(t *testing.T) {
	t.Parallel()
	v := newVault(t, true, false)
	ctx := t.Context()
	owner := v.Conn(t, devstack.OwnerRole)
	key, err := tenancy.NewSigningKey("k2")
	require.NoError(t, err)
	var now time.Time
	s, err := tenancy.NewSigner(key, &tenancy.SignerOptions{Now: func() time.Time { return now }})
	require.NoError(t, err)

	now = time.Now()
	require.ErrorContains(t, v.probe(t, s.Token(v.bert)), "TN003", "the key is not known")
	require.NoError(t, tenancy.AddSigningKey(ctx, owner, key))
	require.NoError(t, tenancy.AddSigningKey(ctx, owner, key), "again")
	require.NoError(t, v.probe(t, s.Token(v.bert)))
	require.NoError(t, v.probe(t, v.signer.Token(v.bert)), "both are valid")
	require.ErrorContains(t, v.probe(t, s.Token(v.anna)), "it is "+v.anna.String())
	other, err := tenancy.NewSigningKey("k2")
	require.NoError(t, err)
	require.ErrorContains(t, tenancy.AddSigningKey(ctx, owner, other), `another key "k2"`)

	for skew, good := range map[time.Duration]bool{-50 * time.Second: true, -70 * time.Second: false, time.Hour: true} {
		now = time.Now().Add(skew)
		err := v.probe(t, s.Token(v.bert))
		if good {
			require.NoError(t, err, skew)
		} else {
			require.ErrorContains(t, err, "TN003", skew)
		}
	}

	// As a transaction sees it that outlives its token.
	now = time.Now().Add(2*time.Second - time.Minute)
	token := s.Token(v.anna)
	var out said
	conn := v.connect(t, &out)
	defer conn.Close(ctx)
	for _, sql := range []string{`begin`, v.enter(token), `select pg_sleep(2.5)`, `select count(*) from public.secrets`} {
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err, sql)
	}
	_, err = conn.Exec(ctx, `commit`)
	require.NoError(t, err)
	require.ErrorContains(t, v.probe(t, token), "TN003")
	_, err = conn.Exec(ctx, `begin; `+v.enter(token)+`; select count(*) from public.secrets`)
	require.ErrorContains(t, err, "TN003", "not no rows, which would pass for the truth")
	_, err = conn.Exec(ctx, `rollback`)
	require.NoError(t, err)

	// And one that outlives its key.
	now = time.Now()
	for _, sql := range []string{`begin`, v.enter(s.Token(v.anna)), `select count(*) from public.secrets`} {
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err, sql)
	}
	require.NoError(t, tenancy.RetireSigningKey(ctx, owner, "k2"))
	_, err = conn.Exec(ctx, `select count(*) from public.secrets`)
	require.ErrorContains(t, err, "TN003")
	require.ErrorContains(t, v.probe(t, s.Token(v.bert)), "TN003")
	require.NoError(t, v.probe(t, v.signer.Token(v.bert)), "the other is as good as before")
	require.NoError(t, tenancy.RetireSigningKey(ctx, owner, "k2"), "again")
	require.ErrorContains(t, tenancy.RetireSigningKey(ctx, owner, "k1"), "there would be no key")
	require.NoError(t, v.probe(t, v.signer.Token(v.bert)))
}

// In every tier a call is signed by the way, and what works on a tenant's data for
// the owner signs for itself.
func TestSigned(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	ctx := t.Context()
	key, err := tenancy.NewSigningKey("k1")
	require.NoError(t, err)
	unsigned := b.dial(t, nil)
	for _, at := range []*bundle{b.bundle, b.other} {
		conn := at.Conn(t, devstack.OwnerRole)
		require.ErrorContains(t, tenancy.SignContext(ctx, conn, true), "no key")
		require.NoError(t, tenancy.AddSigningKey(ctx, conn, key))
	}
	signer, err := tenancy.NewSigner(key, nil)
	require.NoError(t, err)
	db := b.dial(t, &tenancy.Options{Signer: signer})
	work := func(db *tenancy.DB) error {
		for tier, id := range b.one {
			ctx := as(ctx, id)
			if _, err := db.Exec(ctx, `insert into products (name) values (gen_random_uuid()::text)`); err != nil {
				return fmt.Errorf("%s: %w", tier, err)
			}
			if err := inTx(ctx, db, `update products set name = name || $1`, "x"); err != nil {
				return fmt.Errorf("%s: %w", tier, err)
			}
			var n int
			if err := db.QueryRow(ctx, `select count(*) from products`).Scan(&n); err != nil || n == 0 {
				return fmt.Errorf("%s: %d rows, %w", tier, n, err)
			}
			if err := db.Canary(ctx, id.String()); err != nil {
				return fmt.Errorf("%s: %w", tier, err)
			}
		}
		return db.CheckRoles(ctx)
	}
	require.NoError(t, work(unsigned))
	require.NoError(t, work(db), "unsigned policies take no notice of a signature")
	for _, signed := range []bool{true, false, true} {
		for _, at := range []*bundle{b.bundle, b.other} {
			require.NoError(t, tenancy.SignContext(ctx, at.Conn(t, devstack.OwnerRole), signed))
		}
		require.NoError(t, work(db))
	}
	require.Error(t, work(unsigned))

	open := func(s *tenancy.Signer) error {
		db, err := tenancy.Open(ctx, b.As(tenancy.AppRole), &tenancy.Options{Signer: s})
		if err == nil {
			db.Close()
		}
		return err
	}
	require.NoError(t, open(signer))
	require.ErrorContains(t, open(nil), "Options.Signer")
	other, err := tenancy.NewSigningKey("k2")
	require.NoError(t, err)
	stranger, err := tenancy.NewSigner(other, nil)
	require.NoError(t, err)
	require.ErrorContains(t, open(stranger), `signing key "k2"`)
	late, err := tenancy.NewSigner(key, &tenancy.SignerOptions{Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	require.NoError(t, err)
	require.ErrorContains(t, open(late), "clock is 1h0m0s behind")

	// A key takes another's place under load of one.
	for _, at := range []*bundle{b.bundle, b.other} {
		require.NoError(t, tenancy.AddSigningKey(ctx, at.Conn(t, devstack.OwnerRole), other))
	}
	require.NoError(t, work(db))
	require.NoError(t, signer.Use(other))
	require.NoError(t, work(db))
	for _, at := range []*bundle{b.bundle, b.other} {
		require.NoError(t, tenancy.RetireSigningKey(ctx, at.Conn(t, devstack.OwnerRole), "k1"))
	}
	require.NoError(t, work(db))

	config, err := tenancy.ControlConfig(b.URL)
	require.NoError(t, err)
	control, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(control.Close)
	data, err := tenancy.NewData(control, nil)
	require.NoError(t, err)
	t.Cleanup(data.Close)
	for _, tier := range []tenancy.Tier{tenancy.TierShared, tenancy.TierSchema} {
		id := b.one[tier]
		marker, err := data.Prepare(ctx, id)
		require.NoError(t, err, tier)
		require.NoError(t, data.Configure(ctx, id, map[string]string{"a": "b"}), tier)
		require.NoError(t, data.Prove(ctx, id, marker), tier)
		receipt, err := data.Erase(ctx, id)
		require.NoError(t, err, tier)
		require.NotEmpty(t, receipt, tier)
	}
	require.Empty(t, audited(t, b.Conn(t, devstack.OwnerRole), nil).Findings)
}

// A key shows its secret to whom it is told to, and else to nobody. Mutation
// seen: the bytes in the struct itself are printed for %d, and from within a
// struct that has the key.
func TestSigningKey(t *testing.T) {
	t.Parallel()
	key, err := tenancy.NewSigningKey("2026-11")
	require.NoError(t, err)
	text := key.Encode()
	back, err := tenancy.ParseSigningKey(text)
	require.NoError(t, err)
	require.Equal(t, text, back.Encode())
	secret := strings.TrimPrefix(text, "2026-11:")
	raw, err := base64.RawURLEncoding.DecodeString(secret)
	require.NoError(t, err)
	decimal := strings.Trim(fmt.Sprint(raw), "[]")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		for _, v := range []any{key, &key, struct{ key tenancy.SigningKey }{key}, []tenancy.SigningKey{key}} {
			text := fmt.Sprintf(format, v)
			require.NotContains(t, text, secret)
			require.NotContains(t, text, decimal)
			require.NotContains(t, text, hex.EncodeToString(raw))
		}
	}
	for _, bad := range []string{"", "x", "x:", ":" + secret, "x:" + secret[:20], "a b:" + secret, "x:" + secret + secret + secret, "x:" + secret + "!"} {
		_, err := tenancy.ParseSigningKey(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), secret[:20])
	}
	_, err = tenancy.NewSigningKey("a.b")
	require.Error(t, err)
	_, err = tenancy.NewSigner(tenancy.SigningKey{}, nil)
	require.Error(t, err)
	_, err = tenancy.NewSigner(key, &tenancy.SignerOptions{Life: time.Second})
	require.ErrorContains(t, err, "Life")
}
