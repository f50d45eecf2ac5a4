package mcptenant

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// maxNesting is how deep arguments may nest. The SDK's own bound is 1000.
const maxNesting = 200

// badArguments says what is wrong with the raw arguments of a tool call that
// the SDK would hand to the handler changed or as they are: NUL, which
// PostgreSQL's text can't hold; text that isn't Unicode, which becomes U+FFFD;
// and a key that stands twice, of which the last would count here and perhaps
// the first elsewhere. It returns "" if nothing is. Whether the arguments fit
// the tool's schema is the SDK's to say.
func badArguments(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	s := scanner{data: raw}
	s.space()
	if s.value() {
		s.space()
		if s.pos == len(s.data) {
			return ""
		}
		s.fail("malformed JSON")
	}
	return s.path() + s.problem
}

// badParams is badArguments for the decoded text fields of other methods.
func badParams(params mcp.Params) string {
	check := func(name, text string) string {
		if strings.IndexByte(text, 0) >= 0 {
			return strconv.Quote(clip(name)) + " contains a NUL character"
		}
		return ""
	}
	switch p := params.(type) {
	case *mcp.ReadResourceParams:
		return check("uri", p.URI)
	case *mcp.SubscribeParams:
		return check("uri", p.URI)
	case *mcp.CompleteParams:
		return check("argument.value", p.Argument.Value)
	case *mcp.GetPromptParams:
		for name, text := range p.Arguments {
			if bad := check(name, text); bad != "" {
				return bad
			}
		}
	}
	return ""
}

// scanner walks over JSON text once and without allocating, unless it finds
// something or an object is large.
type scanner struct {
	data    []byte
	pos     int
	depth   int
	problem string
	where   []string // the path to the problem, innermost first
}

func (s *scanner) fail(problem string) bool {
	s.problem = problem
	return false
}

// path names the argument that the problem is in.
func (s *scanner) path() string {
	if len(s.where) == 0 {
		return ""
	}
	var b strings.Builder
	for i := len(s.where) - 1; i >= 0; i-- {
		if b.Len() > 0 && s.where[i][0] != '[' {
			b.WriteByte('.')
		}
		b.WriteString(s.where[i])
		if b.Len() > 128 {
			break
		}
	}
	return strconv.Quote(strings.ToValidUTF8(clip(b.String()), "\uFFFD")) + " "
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// next consumes c if it comes next.
func (s *scanner) next(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) value() bool {
	if s.pos >= len(s.data) {
		return s.fail("malformed JSON")
	}
	switch c := s.data[s.pos]; c {
	case '{':
		return s.nested(s.object)
	case '[':
		return s.nested(s.array)
	case '"':
		_, _, ok := s.text()
		return ok
	default:
		start := s.pos
		for s.pos < len(s.data) && !strings.ContainsRune(" \t\r\n,]}:\"{[", rune(s.data[s.pos])) {
			s.pos++
		}
		if s.pos == start {
			return s.fail("malformed JSON")
		}
		return true // the SDK decodes it
	}
}

func (s *scanner) nested(read func() bool) bool {
	if s.depth++; s.depth > maxNesting {
		return s.fail(fmt.Sprintf("nests deeper than %d levels", maxNesting))
	}
	s.pos++
	ok := read()
	s.depth--
	return ok
}

func (s *scanner) array() bool {
	s.space()
	if s.next(']') {
		return true
	}
	for i := 0; ; i++ {
		s.space()
		if !s.value() {
			s.where = append(s.where, "["+strconv.Itoa(i)+"]")
			return false
		}
		s.space()
		if s.next(']') {
			return true
		}
		if !s.next(',') {
			return s.fail("malformed JSON")
		}
	}
}

func (s *scanner) object() bool {
	s.space()
	if s.next('}') {
		return true
	}
	var keys keySet
	for {
		s.space()
		if s.pos >= len(s.data) || s.data[s.pos] != '"' {
			return s.fail("malformed JSON")
		}
		raw, escaped, ok := s.text()
		if !ok {
			s.where = append(s.where, "(a key)")
			return false
		}
		if escaped {
			var plain string
			if json.Unmarshal(s.data[s.pos-len(raw)-2:s.pos], &plain) != nil {
				return s.fail("malformed JSON")
			}
			raw = []byte(plain)
		}
		if !keys.add(raw) {
			s.where = append(s.where, name(raw))
			return s.fail("is given twice")
		}
		s.space()
		if !s.next(':') {
			return s.fail("malformed JSON")
		}
		s.space()
		if !s.value() {
			s.where = append(s.where, name(raw))
			return false
		}
		s.space()
		if s.next('}') {
			return true
		}
		if !s.next(',') {
			return s.fail("malformed JSON")
		}
	}
}

func name(key []byte) string {
	if len(key) == 0 {
		return "(empty key)"
	}
	return string(key)
}

// text consumes a string and returns what stands between its quotes.
func (s *scanner) text() (raw []byte, escaped, ok bool) {
	s.pos++
	start, ascii := s.pos, true
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			raw = s.data[start:s.pos]
			s.pos++
			if !ascii && !utf8.Valid(raw) {
				return nil, false, s.fail("is not valid UTF-8")
			}
			return raw, escaped, true
		case c == '\\':
			escaped = true
			if !s.escape() {
				return nil, false, false
			}
		case c < ' ':
			return nil, false, s.fail("contains an unescaped control character")
		default:
			ascii = ascii && c < utf8.RuneSelf
			s.pos++
		}
	}
	return nil, false, s.fail("malformed JSON")
}

// escape consumes a backslash and what belongs to it.
func (s *scanner) escape() bool {
	if s.pos+1 >= len(s.data) {
		return s.fail("malformed JSON")
	}
	if s.data[s.pos+1] != 'u' {
		s.pos += 2
		return true
	}
	u, ok := s.hex4(s.pos)
	switch {
	case !ok:
		return s.fail("malformed JSON")
	case u == 0:
		return s.fail("contains a NUL character")
	case u < 0xd800 || u > 0xdfff:
		s.pos += 6
		return true
	}
	low, ok := s.hex4(s.pos + 6)
	if u > 0xdbff || !ok || low < 0xdc00 || low > 0xdfff {
		return s.fail("contains half of a surrogate pair")
	}
	s.pos += 12
	return true
}

// hex4 reads \uXXXX at pos.
func (s *scanner) hex4(pos int) (uint64, bool) {
	if pos+6 > len(s.data) || s.data[pos] != '\\' || s.data[pos+1] != 'u' {
		return 0, false
	}
	u, err := strconv.ParseUint(string(s.data[pos+2:pos+6]), 16, 32)
	return u, err == nil
}

// keySet remembers the keys of one object: the first few in place, more in a
// map, so that an object of a hundred thousand keys takes no quadratic time.
type keySet struct {
	few  [8][]byte
	n    int
	many map[string]struct{}
}

// add reports whether key is new.
func (k *keySet) add(key []byte) bool {
	if k.many != nil {
		if _, known := k.many[string(key)]; known {
			return false
		}
		k.many[string(key)] = struct{}{}
		return true
	}
	for _, other := range k.few[:k.n] {
		if string(other) == string(key) {
			return false
		}
	}
	if k.n < len(k.few) {
		k.few[k.n] = key
		k.n++
		return true
	}
	k.many = make(map[string]struct{}, 2*len(k.few))
	for _, other := range k.few {
		k.many[string(other)] = struct{}{}
	}
	k.many[string(key)] = struct{}{}
	return true
}
