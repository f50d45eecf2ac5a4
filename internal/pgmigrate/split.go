package pgmigrate

import (
	"regexp"
	"strings"
)

// split cuts SQL at the semicolons that end its statements, because outside of
// a transaction each has to be sent by itself. It knows strings, quoted names,
// dollar quotes and comments; what stands between goose's StatementBegin and
// StatementEnd is one statement whatever it holds. Comments before a statement
// are dropped.
func split(sql string) []string {
	var all []string
	add := func(s string) {
		if s = strings.TrimSuffix(skipComments(s), ";"); strings.TrimSpace(s) != "" {
			all = append(all, strings.TrimSpace(s))
		}
	}
	start, whole := 0, false
	for i := 0; i < len(sql); {
		if at := statementMark.FindStringSubmatchIndex(sql[i:]); at != nil && (i == 0 || sql[i-1] == '\n') {
			add(sql[start:i])
			whole = strings.EqualFold(sql[i+at[2]:i+at[3]], "begin")
			i += at[1]
			start = i
			continue
		}
		if n := token(sql[i:]); n > 1 {
			i += n
			continue
		}
		if sql[i] == ';' && !whole {
			add(sql[start : i+1])
			start = i + 1
		}
		i++
	}
	add(sql[start:])
	return all
}

var (
	statementMark = regexp.MustCompile(`^(?i:--[ \t]*\+goose[ \t]+statement(begin|end))[ \t]*(?:\n|$)`)
	dollarQuote   = regexp.MustCompile(`^\$([A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$`)
	word          = regexp.MustCompile(`^[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*`)
)

// token returns the length of the comment, string, quoted name or word that s
// begins with, of which no part may be looked at as something else.
func token(s string) int {
	rest := func(n int) int { // to the end of s where n is "not found"
		if n < 0 {
			return len(s)
		}
		return n
	}
	switch {
	case strings.HasPrefix(s, "--"):
		return rest(strings.IndexByte(s, '\n'))
	case strings.HasPrefix(s, "/*"):
		return blockComment(s)
	case s[0] == '\'' || s[0] == '"':
		return quoted(s, 1, false)
	case len(s) > 1 && (s[0] == 'e' || s[0] == 'E') && s[1] == '\'':
		return quoted(s, 2, true)
	}
	if w := word.FindString(s); w != "" {
		return len(w) // a dollar sign in a name begins no quote
	}
	if tag := dollarQuote.FindString(s); tag != "" {
		if end := strings.Index(s[len(tag):], tag); end >= 0 {
			return len(tag) + end + len(tag)
		}
		return len(s)
	}
	return 1
}

// quoted returns the length of a string or name whose text starts at from. A
// doubled quote needs no care: it ends one string and begins the next.
func quoted(s string, from int, escapes bool) int {
	quote := s[from-1]
	for i := from; i < len(s); i++ {
		switch {
		case escapes && s[i] == '\\':
			i++
		case s[i] == quote:
			return i + 1
		}
	}
	return len(s)
}

// blockComment returns the length of a comment, which may hold others.
func blockComment(s string) int {
	depth := 0
	for i := 0; i+1 < len(s); i++ {
		switch s[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

func skipComments(s string) string {
	for {
		s = strings.TrimSpace(s)
		if !strings.HasPrefix(s, "--") && !strings.HasPrefix(s, "/*") {
			return s
		}
		s = s[token(s):]
	}
}
