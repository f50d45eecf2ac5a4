package stripetest

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// params are the form of a request: "items[0][price]=price_1".
type params url.Values

func (p params) str(name string) string { return url.Values(p).Get(name) }

func (p params) has(name string) bool {
	for key := range p {
		if key == name || strings.HasPrefix(key, name+"[") {
			return true
		}
	}
	return false
}

// number reads an integer; def where the parameter is absent.
func (p params) number(name string, def int64) (int64, error) {
	text := p.str(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, invalid(name, fmt.Sprintf("Invalid integer: %s", text))
	}
	return n, nil
}

// boolean reads a switch; set is false where the parameter is absent.
func (p params) boolean(name string) (value, set bool, err error) {
	switch text := p.str(name); text {
	case "":
		return false, false, nil
	case "true", "false":
		return text == "true", true, nil
	default:
		return false, false, invalid(name, fmt.Sprintf("Invalid boolean: %s", text))
	}
}

// object returns the values under name[...]: "metadata".
func (p params) object(name string) map[string]string {
	out := map[string]string{}
	for key, values := range p {
		if inner, ok := strings.CutPrefix(key, name+"["); ok && strings.HasSuffix(inner, "]") {
			out[strings.TrimSuffix(inner, "]")] = values[0]
		}
	}
	return out
}

// strings returns the values of name[] and name[0], name[1], ...
func (p params) strings(name string) []string {
	out := slices.Clone(p[name+"[]"])
	for i := 0; ; i++ {
		values, ok := p[name+"["+strconv.Itoa(i)+"]"]
		if !ok {
			return out
		}
		out = append(out, values...)
	}
}

// list returns the objects under name[0], name[1], ..., each with its own
// names.
func (p params) list(name string) []params {
	byIndex := map[int]params{}
	for key, values := range p {
		rest, ok := strings.CutPrefix(key, name+"[")
		if !ok {
			continue
		}
		index, inner, ok := strings.Cut(rest, "]")
		i, err := strconv.Atoi(index)
		if !ok || err != nil || !strings.HasPrefix(inner, "[") {
			continue
		}
		first, more, _ := strings.Cut(inner[1:], "]") // "[metadata][a]" -> "metadata[a]"
		if byIndex[i] == nil {
			byIndex[i] = params{}
		}
		byIndex[i][first+more] = values
	}
	out := make([]params, 0, len(byIndex))
	for _, i := range slices.Sorted(maps.Keys(byIndex)) {
		out = append(out, byIndex[i])
	}
	return out
}

// allow refuses a parameter that is none of names.
func (p params) allow(names []string) error {
	for _, key := range slices.Sorted(maps.Keys(p)) {
		top, _, _ := strings.Cut(key, "[")
		if top != "expand" && !slices.Contains(names, top) {
			return &apiError{Status: http.StatusBadRequest, Code: "parameter_unknown", Param: top,
				Message: "Received unknown parameter: " + top}
		}
	}
	return nil
}

// require refuses a request that lacks one of names.
func (p params) require(names ...string) error {
	for _, name := range names {
		if !p.has(name) {
			return &apiError{Status: http.StatusBadRequest, Code: "parameter_missing", Param: name,
				Message: "Missing required param: " + name + "."}
		}
	}
	return nil
}

// mergeMetadata applies an update as Stripe does: an empty value unsets.
func mergeMetadata(old, update map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, old)
	for k, v := range update {
		if v == "" {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out
}
