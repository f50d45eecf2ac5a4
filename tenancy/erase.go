package tenancy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Counts are numbers of rows by table.
type Counts map[string]int64

// Receipt says what an erasure did and what it found afterwards.
type Receipt struct {
	Tenant tenant.ID `json:"tenant"`

	// Places are those that the tenant had rows in or could have had.
	Places []ErasedPlace `json:"places"`

	// Proved is when the last of them was found empty, by the clock of the
	// database. It is zero if the erasure failed.
	Proved time.Time `json:"proved"`
}

// ErasedPlace is a place that nothing is left in.
type ErasedPlace struct {
	Placement string `json:"placement"` // as [ParsePlacement] reads it
	Deleted   Counts `json:"deleted"`   // rows by table, in this run
	Left      Counts `json:"left"`      // rows by table, when all had been deleted: zero for each
	Dropped   string `json:"dropped"`   // the tenant's own schema, which is gone with its tables; or empty
}

// Deleted returns what the erasure has deleted, in all places.
func (r *Receipt) Deleted() Counts {
	all := make(Counts)
	for _, p := range r.Places {
		for table, n := range p.Deleted {
			all[table] += n
		}
	}
	return all
}

// Erase deletes all the rows of one tenant, in batches, those that refer to
// others first, and then reads every table again, while no transaction of the
// tenant's is running: it returns nil only if nothing is left. A schema of the
// tenant's own is dropped then. A database of its own is the operator's to drop.
//
// It looks wherever the tenant can have rows: at its place, in the shared tables,
// and where a move has left a copy. The receipt says what it deleted, also when
// it fails; a second call goes on where the first stopped.
func (d *Data) Erase(ctx context.Context, id tenant.ID) (*Receipt, error) {
	r := &Receipt{Tenant: id, Places: []ErasedPlace{}}
	err := d.hold(ctx, id, holdExclusive, func(tx pgx.Tx, _ home, p place) error {
		places, err := d.traces(ctx, tx, p)
		if err != nil {
			return err
		}
		for _, p := range places {
			r.Places = append(r.Places, ErasedPlace{Placement: p.at.String(), Deleted: make(Counts), Left: make(Counts)})
			if err := d.erase(ctx, p, &r.Places[len(r.Places)-1]); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, `select clock_timestamp()`).Scan(&r.Proved)
	})
	if err != nil {
		return r, fmt.Errorf("tenancy: erase tenant: %w", err)
	}
	return r, nil
}

const schemaExistsSQL = `select exists (select from pg_namespace where nspname = $1)`

// traces returns the places that the tenant can have rows in, its own last: as
// long as that has some, the erasure isn't done.
func (d *Data) traces(ctx context.Context, tx pgx.Tx, own place) ([]place, error) {
	candidates := []Placement{{Tier: TierShared}, {Tier: TierSchema}}
	kept, err := keptCopies(ctx, tx, own.tenant)
	if err != nil {
		return nil, err
	}
	candidates = append(candidates, kept...)
	candidates = slices.DeleteFunc(candidates, func(at Placement) bool { return at == own.at })
	var all []place
	for _, at := range append(candidates, own.at) {
		if at.Tier == TierSchema {
			var exists bool
			if err := tx.QueryRow(ctx, schemaExistsSQL, SchemaName(own.tenant)).Scan(&exists); err != nil {
				return nil, err
			}
			if !exists {
				continue
			}
		}
		p, err := d.placeAt(own.tenant, at)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(all, func(other place) bool { return other.at == p.at }) {
			all = append(all, p)
		}
	}
	return all, nil
}

func (d *Data) erase(ctx context.Context, p place, done *ErasedPlace) error {
	var tables []dataTable
	err := p.within(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		tables, err = p.tables(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	for _, group := range deletionOrder(tables) {
		if err := d.eraseGroup(ctx, p, group, done.Deleted); err != nil {
			return err
		}
	}
	if err := p.proveEmpty(ctx, done.Left); err != nil || p.at.Tier != TierSchema {
		return err
	}
	err = p.asOwner(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockTimeoutSQL); err != nil {
			return err
		}
		return dropSchema(ctx, tx, p.tenant)
	})
	if err == nil {
		done.Dropped = p.schema
	}
	return err
}

// aloneSQL waits until no transaction of the tenant's is running, and keeps new
// ones waiting: it takes the lock that they share.
const aloneSQL = `select pg_advisory_xact_lock(hashtextextended($1, 7310868735423373166))`

// proveEmpty reads every table, over the catalog as it is now: a partitioned one
// with all its partitions, and of one that others inherit from each for itself.
func (p place) proveEmpty(ctx context.Context, left Counts) error {
	return p.within(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockTimeoutSQL); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, aloneSQL, p.tenant.String()); err != nil {
			return err
		}
		tables, err := p.tables(ctx, tx)
		if err != nil {
			return err
		}
		var some []string
		for _, t := range tables {
			var n int64
			if err := tx.QueryRow(ctx, fmt.Sprintf(`select count(*) from %s where %s`, t.from(), t.where()), p.tenant).Scan(&n); err != nil {
				return err
			}
			if left[t.name()] = n; n > 0 {
				some = append(some, t.name())
			}
		}
		if len(some) > 0 {
			return fmt.Errorf("rows are left in %s", strings.Join(some, ", "))
		}
		return nil
	})
}
