package stripetest

import (
	"slices"
	"strconv"
)

// page answers a list: the rows that keep allows, newest first, from where the
// caller left off (https://docs.stripe.com/api/pagination).
func page[T any](c *call, rows []*T, id func(*T) string, keep func(*T) bool, view func(*T) any) (any, error) {
	limit, err := c.p.number("limit", 10)
	if err == nil && (limit < 1 || limit > 100) {
		err = invalid("limit", "This value must be between 1 and 100 (inclusive).")
	}
	if err != nil {
		return nil, err
	}
	kept := make([]*T, 0, len(rows))
	for _, row := range slices.Backward(rows) {
		if keep == nil || keep(row) {
			kept = append(kept, row)
		}
	}
	find := func(param string) (int, error) {
		i := slices.IndexFunc(kept, func(row *T) bool { return id(row) == c.p.str(param) })
		if i < 0 {
			return 0, missing("object", c.p.str(param), param)
		}
		return i, nil
	}
	from, to := 0, len(kept)
	if c.p.has("starting_after") {
		i, err := find("starting_after")
		if err != nil {
			return nil, err
		}
		from = i + 1
	}
	more := to-from > int(limit)
	if c.p.has("ending_before") {
		if to, err = find("ending_before"); err != nil {
			return nil, err
		}
		more = to > int(limit)
		from = max(0, to-int(limit))
	}
	data := []any{}
	for _, row := range kept[from:min(to, from+int(limit))] {
		data = append(data, view(row))
	}
	return listOf(c.r.URL.Path, data, more), nil
}

func listOf(url string, data []any, more bool) object {
	return object{"object": "list", "url": url, "data": data, "has_more": more}
}

// since keeps what is at or after created[gte] and after created[gt].
func (c *call) since(created int64) bool {
	bounds := c.p.object("created")
	if at, err := strconv.ParseInt(bounds["gte"], 10, 64); err == nil && created < at {
		return false
	}
	if at, err := strconv.ParseInt(bounds["gt"], 10, 64); err == nil && created <= at {
		return false
	}
	return true
}

// orNull is text that is null where it is empty.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// timeOrNull is a time that is null where it is 0.
func timeOrNull(t int64) any {
	if t == 0 {
		return nil
	}
	return t
}

// metadataOf is never null.
func metadataOf(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
