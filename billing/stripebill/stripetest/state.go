package stripetest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// state is everything that the account holds, in the form in which it is kept
// in a file. Times are Unix seconds.
type state struct {
	SecretKey     string        `json:"secret_key"`
	WebhookSecret string        `json:"webhook_secret"`
	OldSecrets    []oldSecret   `json:"old_secrets,omitempty"`
	Offset        time.Duration `json:"offset"` // of the clock

	Clocks        table[testClock]     `json:"clocks"`
	Customers     table[customer]      `json:"customers"`
	Products      table[product]       `json:"products"`
	Features      table[feature]       `json:"features"`
	Prices        table[price]         `json:"prices"`
	Meters        table[meter]         `json:"meters"`
	Sessions      table[session]       `json:"sessions"`
	Subscriptions table[subscription]  `json:"subscriptions"`
	Invoices      table[invoice]       `json:"invoices"`
	InvoiceItems  table[invoiceItem]   `json:"invoice_items"`
	Payments      table[payment]       `json:"payments"`
	Refunds       table[refund]        `json:"refunds"`
	Portals       table[portal]        `json:"portals"`
	PortalConfigs table[portalConfig]  `json:"portal_configs"`
	Events        table[event]         `json:"events"`
	Received      map[string]*received `json:"received"` // meter events, by their identifier

	Usage    map[string]map[int64]int64 `json:"usage"`    // meter and customer -> minute -> sum
	Arrivals []arrival                  `json:"arrivals"` // what summaries don't show yet
	Keys     map[string]*savedAnswer    `json:"keys"`     // idempotency keys
}

// table keeps objects of one kind in the order in which they were made.
type table[T any] struct {
	Order []string      `json:"order"`
	Rows  map[string]*T `json:"rows"`

	rows []*T // in that order; made again after a load
}

func (t *table[T]) put(id string, row *T) {
	if t.Rows == nil {
		t.Rows = map[string]*T{}
	}
	if t.Rows[id] == nil {
		rows := t.all()
		t.Order, t.rows = append(t.Order, id), append(rows, row)
	}
	t.Rows[id] = row
}

func (t *table[T]) get(id string) (*T, bool) {
	row, ok := t.Rows[id]
	return row, ok
}

// all returns the rows, oldest first. The slice is the table's.
func (t *table[T]) all() []*T {
	if len(t.rows) != len(t.Order) {
		t.rows = make([]*T, 0, len(t.Order))
		for _, id := range t.Order {
			t.rows = append(t.rows, t.Rows[id])
		}
	}
	return t.rows
}

// remove forgets the rows for which f is true.
func (t *table[T]) remove(f func(*T) bool) {
	order := make([]string, 0, len(t.Order))
	for _, id := range t.Order {
		if f(t.Rows[id]) {
			delete(t.Rows, id)
		} else {
			order = append(order, id)
		}
	}
	t.Order, t.rows = order, nil
}

// file is where the state is kept; without a path, nowhere.
type file struct{ path string }

func (f *file) load() (*state, error) {
	s := &state{}
	if f.path != "" {
		data, err := os.ReadFile(f.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			if err := json.Unmarshal(data, s); err != nil {
				return nil, errors.Join(errors.New(f.path+" is not a state file"), err)
			}
		}
	}
	if s.Usage == nil {
		s.Usage = map[string]map[int64]int64{}
	}
	if s.Received == nil {
		s.Received = map[string]*received{}
	}
	if s.Keys == nil {
		s.Keys = map[string]*savedAnswer{}
	}
	return s, nil
}

// save replaces the file as a whole, so that a killed process leaves the old
// state or the new one. It isn't synced to the disk: the operating system
// keeps what a killed process has written.
func (f *file) save(s *state) error {
	if f.path == "" {
		return nil
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.path)+".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), f.path) // CreateTemp made it for the owner alone: it holds secrets
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}
