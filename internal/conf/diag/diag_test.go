package diag_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"mef/internal/conf/diag"
)

func TestPosString(t *testing.T) {
	for want, p := range map[string]diag.Pos{
		`"/etc/a\nb.conf":7:2`:   {File: "/etc/a\nb.conf", Line: 7, Col: 2},
		`"\x1b[31m\xff.rules":7`: {File: "\x1b[31m\xff.rules", Line: 7},
		"/etc/größe 1.conf":      {File: "/etc/größe 1.conf"},
		"a.conf":                 {File: "a.conf"},
		"a.conf:3":               {File: "a.conf", Line: 3},
		"a.conf:3:7":             {File: "a.conf", Line: 3, Col: 7},
	} {
		if got := p.String(); got != want {
			t.Errorf("%+v is %s, want %s", p, got, want)
		}
	}
}

// All mistakes are reported at once, in order of place, each with its hint.
func TestErrors(t *testing.T) {
	at := func(file string, line, col int) diag.Pos { return diag.Pos{File: file, Line: line, Col: col} }
	es := diag.Errors{
		{Pos: at("b.conf", 1, 1), Msg: "fourth"},
		{Pos: at("a.conf", 10, 1), Msg: "third"},
		{Pos: at("a.conf", 2, 9), Msg: "second", Hint: "write it"},
		{Pos: at("a.conf", 2, 1), Msg: "first"},
	}
	want := "a.conf:2:1: first\na.conf:2:9: second; write it\na.conf:10:1: third\nb.conf:1:1: fourth"
	err := fmt.Errorf("read: %w", es.Err())
	var got diag.Errors
	if !errors.As(err, &got) || got.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := (diag.Errors{}).Err(); err != nil {
		t.Errorf("no mistakes: %v", err)
	}
}

// What a message repeats of a file is quoted and bounded.
func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":                        `""`,
		"a\x1b[2J":                `"a\x1b[2J"`,
		"\"":                      `"\""`,
		strings.Repeat("x", 80):   `"` + strings.Repeat("x", 80) + `"`,
		strings.Repeat("x", 5000): `"` + strings.Repeat("x", 80) + `…"`,
	} {
		if got := diag.Quote(in); got != want {
			t.Errorf("Quote(%.20q) = %s, want %s", in, got, want)
		}
	}
	if got := diag.DidYouMean(strings.Repeat("a", 1000), []string{strings.Repeat("a", 999)}); got != "" {
		t.Errorf("very long words are compared: %.40s", got)
	}
}
