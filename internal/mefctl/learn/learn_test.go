package learn_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mef/internal/mefctl/learn"
)

// ruleOf makes a rule of lines.
func ruleOf(t *testing.T, lines ...string) string {
	t.Helper()
	var groups learn.Groups
	for _, raw := range lines {
		l, ok := learn.Read(raw, netip.Addr{})
		if !ok {
			t.Fatalf("%q contains no address", raw)
		}
		groups.Add(raw, l)
	}
	text, err := learn.Rule("shop", groups.Sorted(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPatternsOfLines(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  string // the patterns
	}{
		"quoted user": {[]string{`shopd[1]: login refused for 'root' from 192.0.2.7 port 4021`},
			`failregex=^login refused for '(?P<user>.*)' from <HOST> port \d+$`},
		"user by key": {[]string{`shopd[1]: auth failure: user=bob rhost=2001:db8::7`},
			`failregex=^auth failure: user=(?P<user>.*) rhost=<HOST>$`},
		"no such user": {[]string{`shopd[1]: invalid user bob from 192.0.2.7`},
			`failregex=^invalid user (?P<user>.*) from <HOST>$`},
		"a verb is no user": {[]string{`shopd[1]: login denied from [192.0.2.7]:5000`},
			`failregex=^login denied from \[<HOST>\]:\d+$`},
		"identifiers": {[]string{`shopd[1]: session 4f3a99: wrong password, client 192.0.2.7`},
			`failregex=^session [\w.:@+-]+: wrong password, client <HOST>$`},
		"success": {[]string{`shopd[1]: accepted password for alice from 192.0.2.7`},
			`okregex=^accepted password for (?P<user>.*) from <HOST>$`},
		"one shape": {[]string{`shopd[1]: denied bob (192.0.2.7)`, `shopd[1]: denied eve (192.0.2.8)`, `shopd[1]: denied joe (192.0.2.9)`},
			`failregex=^denied [\w.:@+-]+ \(<HOST>\)$`},
		"two shapes": {[]string{`shopd[1]: bad password from 192.0.2.7`, `shopd[1]: bad token from 192.0.2.7`},
			"failregex=^bad password from <HOST>$\nfailregex=^bad token from <HOST>$"},
		"metacharacters": {[]string{`shopd[1]: auth (step 1) failed: a.b*c? from 192.0.2.7`},
			`failregex=^auth \(step \d+\) failed: a\.b\*c\? from <HOST>$`},
	} {
		t.Run(name, func(t *testing.T) {
			want := "[rule]\nname=shop\nservice=shop\nprograms=shopd\n" + tt.want + "\n"
			if got := ruleOf(t, tt.lines...); got != want {
				t.Errorf("rule\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Free text on both sides of the address would let a client choose it: the user name is narrowed, or there is no rule.
func TestUnsafeShapesAreNarrowed(t *testing.T) {
	got := ruleOf(t, `shopd[1]: refused 192.0.2.7 as "Mozilla 5" for user bob at shop`)
	if strings.Contains(got, ".*") && strings.Count(got, ".*") > 1 {
		t.Errorf("rule %s has free text on both sides", got)
	}
}

// An attacker invents shapes of lines; there is room for a bounded number.
func TestGroupsAreBounded(t *testing.T) {
	var groups learn.Groups
	for i := range 20_000 {
		raw := "shopd[1]: login refused " + strings.Repeat("x", 1+i%97) + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)) + " from 192.0.2.7"
		l, _ := learn.Read(raw, netip.Addr{})
		groups.Add(raw, l)
	}
	if n := len(groups.Sorted()); n > 5000 || groups.Left == 0 {
		t.Errorf("%d shapes are kept, %d lines left out", n, groups.Left)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("Jan  2 03:04:05 host shopd[71]: login refused for 'root' from 192.0.2.7 port 4021")
	f.Add("x: '\"' 1::2: \xff 192.0.2.7")
	f.Fuzz(func(t *testing.T, raw string) {
		l, ok := learn.Read(raw, netip.Addr{})
		if !ok {
			return
		}
		var groups learn.Groups
		groups.Add(raw, l)
		_ = fmt.Sprint(groups.Sorted())
		_, _ = learn.Rule("shop", groups.Sorted(), nil) // an error is as good; it must not panic
	})
}

// A name of several words looks like another shape, but the pattern of the first reads it too.
func TestOnePatternReadsNamesOfSeveralWords(t *testing.T) {
	var groups learn.Groups
	for _, raw := range []string{
		"shopd[1]: user bob: bad credentials (client 192.0.2.7)", "shopd[1]: user eve: bad credentials (client 192.0.2.7)",
		"shopd[1]: user al ice: bad credentials (client 192.0.2.8)",
	} {
		l, ok := learn.Read(raw, netip.Addr{})
		if !ok {
			t.Fatalf("%q names no address", raw)
		}
		groups.Add(raw, l)
	}
	rule, err := learn.Rule("shop", groups.Sorted(), nil)
	if err != nil || strings.Count(rule, "failregex=") != 1 {
		t.Errorf("rule:\n%s%v; want one failregex", rule, err)
	}
}
