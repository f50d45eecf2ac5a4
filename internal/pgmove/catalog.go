package pgmove

import (
	"context"
	_ "embed"
	"encoding/json"
	"slices"
)

// relation is a table of a place as its catalog has it.
type relation struct {
	OID         uint32       `json:"oid"`
	Name        string       `json:"name"`
	Kind        string       `json:"kind"`
	Persistence string       `json:"persistence"`
	Protected   bool         `json:"protected"`
	Inherits    bool         `json:"inherits"` // or is inherited from, other than by partitions
	Columns     []column     `json:"columns"`
	Key         []string     `json:"key"` // of the primary key
	Unique      []string     `json:"unique"`
	Constraints []constraint `json:"constraints"`
	Triggers    []string     `json:"triggers"` // the application's own that would fire on a row that is carried over
	Rules       []string     `json:"rules"`
	Rows        float64      `json:"rows"`
}

type column struct {
	Name      string `json:"name"`
	Type      string `json:"type"`
	TypeOID   uint32 `json:"type_oid"`
	Base      uint32 `json:"base"` // of a domain, the type below it
	BaseType  string `json:"base_type"`
	NotNull   bool   `json:"not_null"`
	Identity  string `json:"identity"`
	Generated bool   `json:"generated"`
	Textual   bool   `json:"textual"` // the binary form has numbers of this database's catalog in it
	Sequence  string `json:"sequence"`
	Down      bool   `json:"down"` // the sequence counts down
}

// constraint is one of a table's but the primary key.
type constraint struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Definition string   `json:"definition"`
	Deferrable bool     `json:"deferrable"`
	Columns    []string `json:"columns"`
	Indexed    bool     `json:"indexed"` // the columns of a foreign key
	Target     uint32   `json:"target"`  // of a foreign key
	TargetName string   `json:"target_name"`
	References []string `json:"references"`
}

//go:embed catalog.sql
var catalogSQL string

// relations reads the tables of a place.
func relations(ctx context.Context, t *tx, p *Place) ([]*relation, error) {
	// Types and tables of the place itself, and of extensions, are written
	// without their schema, as they are in the other place.
	if _, err := t.Exec(ctx, `select set_config('search_path', $1, true)`, quote(p.Schema)+", public, pg_temp"); err != nil {
		return nil, err
	}
	var text []byte
	if err := t.QueryRow(ctx, catalogSQL, p.Schema, Moving).Scan(&text); err != nil {
		return nil, err
	}
	var all []*relation
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	return all, nil
}

func (r *relation) column(name string) *column {
	i := slices.IndexFunc(r.Columns, func(c column) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Columns[i]
}

// scoped reports whether the rows say whose they are.
func (r *relation) scoped() bool { return r.column(tenantColumn) != nil }

const tenantColumn = "tenant_id"

func find(all []*relation, name string) *relation {
	i := slices.IndexFunc(all, func(r *relation) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return all[i]
}
