package mcptenant_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Arguments that the SDK would hand on changed, or that a database would choke
// on, never reach a handler, and the answer names the argument.
// Mutation seen by this test: badArguments returning "".
func TestBadArguments(t *testing.T) {
	t.Parallel()
	w := open(t, config{})
	w.keys.add("a")
	many := func(n int, last string) string {
		var b strings.Builder
		b.WriteString(`{"list":[`)
		for range n {
			b.WriteString(`"x",`)
		}
		return b.String() + last + `]}`
	}
	keysOf := func(n int, last string) string {
		var b strings.Builder
		b.WriteByte('{')
		for i := range n {
			b.WriteString(`"k` + strings.Repeat("i", i) + `":1,`)
		}
		return b.String() + last + `}`
	}
	for _, tc := range []struct {
		name, arguments, want string // want "" if the handler runs
	}{
		{"plain", `{"text":"a\n\t\"\\ \u00e9 \ud83d\ude00 é 😀"}`, ""},
		{"none", `{}`, ""},
		{"NUL", `{"text":"a\u0000b"}`, `"text" contains a NUL character`},
		{"NUL in a list", `{"list":["x","\u0000"]}`, `"list[1]" contains a NUL character`},
		{"NUL in a key", `{"a\u0000":1}`, `"(a key)" contains a NUL character`},
		{"escaped backslash before u0000", `{"text":"\\u0000"}`, ""},
		{"broken UTF-8", "{\"text\":\"a\xff\"}", `"text" is not valid UTF-8`},
		{"overlong NUL", "{\"text\":\"\xc0\x80\"}", `"text" is not valid UTF-8`},
		{"half a pair", `{"text":"\ud83d"}`, `"text" contains half of a surrogate pair`},
		{"pair reversed", `{"text":"\ude00\ud83d"}`, `"text" contains half of a surrogate pair`},
		{"twice", `{"text":"a","text":"b"}`, `"text" is given twice`},
		{"twice, spelled apart", `{"text":"a","t\u0065xt":"b"}`, `"text" is given twice`},
		{"twice, deep", `{"list":[{"a":{"b":1,"b":2}}]}`, `"list[0].a.b" is given twice`},
		{"twice among many", keysOf(50, `"kiii":2`), `"kiii" is given twice`},
		{"same key in two objects", `{"list":[{"a":1},{"a":1}]}`, `type`},
		{"long list", many(5000, `"x"`), ""},
		{"deep", strings.Repeat(`{"a":`, 500) + `1` + strings.Repeat(`}`, 500), `nests deeper than 200 levels`},
		{"extra", `{"tenant_id":"x"}`, `tenant_id`},
		{"wrong type", `{"text":{}}`, `text`},
		{"no number of Go's", `{"count":1e400}`, `invalid arguments`},
		{"too large for the field", `{"count":99999999999999999999999}`, `"count" can't be`},
		{"not an object", `[]`, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := w.runs.Load()
			got := w.post(t, "a", toolCall("whoami", tc.arguments), "Mcp-Protocol-Version", "2025-11-25")
			require.Equal(t, http.StatusOK, got.status, got.body)
			require.NotContains(t, got.body, "SQLSTATE")
			if tc.want == "" && tc.name != "not an object" {
				require.NotContains(t, got.body, `"isError":true`)
				require.Equal(t, before+1, w.runs.Load())
				return
			}
			require.Equal(t, before, w.runs.Load(), "the handler ran")
			require.Contains(t, got.body, `"isError":true`)
			quoted, err := json.Marshal(tc.want)
			require.NoError(t, err)
			require.Contains(t, got.body, string(quoted[1:len(quoted)-1]))
		})
	}
	require.Empty(t, w.seen(), "none of it is a fault of the server's")
}

func TestBadParamsOfOtherMethods(t *testing.T) {
	t.Parallel()
	w := open(t, config{})
	w.keys.add("a")
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"data://mine\u0000"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"greet","arguments":{"who":"\u0000"}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"greet"},"argument":{"name":"who","value":"\u0000"}}}`,
	} {
		got := w.post(t, "a", body)
		require.Contains(t, got.body, "contains a NUL character")
		require.Contains(t, got.body, "-32602")
	}
}

// Whatever is sent, the answer is an answer and the server lives.
func TestOddMessages(t *testing.T) {
	t.Parallel()
	for _, stateful := range []bool{false, true} {
		w := open(t, config{stateful: stateful})
		w.keys.add("a")
		for _, body := range []string{
			``, ` `, `{`, `null`, `0`, `"x"`, `{}`, "\xff\xfe", "\x00", `{"jsonrpc":"2.0"}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","arguments":null}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","arguments":"{}"}}`,
			`{"jsonrpc":"2.0","id":{},"method":"ping"}`,
			`{"jsonrpc":"2.0","method":"notifications/cancelled","params":null}`,
			`{"jsonrpc":"2.0","method":"notifications/progress"}`,
			`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}`,
			`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}`,
			`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{}}`,
			`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{}}`,
			`{"jsonrpc":"2.0","id":1,"method":"no/such","params":{}}`,
			`{"jsonrpc":"2.0","id":1,"result":{}}`,
			strings.Repeat(`{"a":`, 100_000),
			toolCall(strings.Repeat("x", 100_000), `{}`),
		} {
			got := w.post(t, "a", body)
			require.Less(t, got.status, 500, body[:min(len(body), 80)])
			got = w.post(t, "a", body, "Mcp-Protocol-Version", "no such version")
			require.Less(t, got.status, 500, body[:min(len(body), 80)])
		}
		if !stateful {
			require.Contains(t, w.post(t, "a", toolCall("whoami", `{}`)).body, `"structuredContent"`)
		}
		for _, f := range w.seen() {
			require.NotEqual(t, "panic", f.Class, f.Err)
		}
	}
}
