package printable_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"mef/internal/printable"
)

func TestWhatIsNotPrintableIsShown(t *testing.T) {
	for name, tt := range map[string]struct{ text, want, json string }{
		"plain":               {"a b\tc\n", "a b\tc\n", "a b\tc\n"},
		"other scripts":       {"Müller 王 e\u0301\n", "Müller 王 e\u0301\n", "Müller 王 e\u0301\n"},
		"escape sequence":     {"\x1b[2J", `\x1b[2J`, `\u001b[2J`},
		"carriage return":     {"a\rb\x00\x7f", `a\x0db\x00\x7f`, `a\u000db\u0000\u007f`},
		"C1 in UTF-8":         {"\u009b2J", `\u009b2J`, `\u009b2J`},
		"C1 as one byte":      {"\x9b2J", `\x9b2J`, `\ufffd2J`},
		"right to left":       {"\u202eabc\u2066", `\u202eabc\u2066`, `\u202eabc\u2066`},
		"line separator":      {"\u2028\u00a0\ufeff", `\u2028\u00a0\ufeff`, `\u2028\u00a0\ufeff`},
		"tags":                {"\U000e0041", `\U000e0041`, `\udb40\udc41`},
		"surrogate as UTF-8":  {"\xed\xa0\x80", `\xed\xa0\x80`, `\ufffd\ufffd\ufffd`},
		"half a character":    {"a\xe2\x80", `a\xe2\x80`, `a\ufffd\ufffd`},
		"replacement is text": {"\ufffd", "\ufffd", "\ufffd"},
	} {
		t.Run(name, func(t *testing.T) {
			for size := 1; size <= 4; size++ { // however it is cut
				var text, js bytes.Buffer
				people, programs := printable.Text(&text), printable.JSON(&js)
				for rest := []byte(tt.text); len(rest) > 0; {
					n := min(size, len(rest))
					for _, w := range []*printable.Writer{people, programs} {
						if got, err := w.Write(rest[:n]); got != n || err != nil {
							t.Fatalf("Write = %d, %v", got, err)
						}
					}
					rest = rest[n:]
				}
				people.Flush()
				programs.Flush()
				if text.String() != tt.want || js.String() != tt.json {
					t.Errorf("in pieces of %d: text %q, JSON %q; want %q and %q", size, text.String(), js.String(), tt.want, tt.json)
				}
			}
		})
	}
}

func FuzzWriters(f *testing.F) {
	f.Add("x\u009b2J\u202e\x1b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var text, js bytes.Buffer
		people := printable.Text(&text)
		people.Write([]byte(s))
		people.Flush()
		json.NewEncoder(printable.JSON(&js)).Encode(s)
		for _, out := range []string{text.String(), strings.TrimSuffix(js.String(), "\n")} {
			for _, r := range out {
				if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
					t.Errorf("%q lets %q through", out, r)
				}
			}
		}
		var back string
		if err := json.Unmarshal(js.Bytes(), &back); err != nil || utf8.ValidString(s) && back != s {
			t.Errorf("JSON %q reads as %q, %v; want %q", js.String(), back, err, s)
		}
	})
}
