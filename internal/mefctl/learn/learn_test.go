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
	return ruleOfFile(t, nil, lines...)
}

// ruleOfFile makes a rule of lines of files.
func ruleOfFile(t *testing.T, files []string, lines ...string) string {
	t.Helper()
	var groups learn.Groups
	for _, raw := range lines {
		l, ok := learn.Read(raw, netip.Addr{})
		if !ok {
			t.Fatalf("%q contains no address", raw)
		}
		groups.Add(raw, l)
	}
	var where []string
	for _, f := range files {
		where = append(where, "files="+f)
	}
	text, err := learn.Rule("shop", groups.Sorted(), where)
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
		"success in short": {[]string{`shopd[1]: login ok user=alice ip=192.0.2.7`},
			`okregex=^login ok user=(?P<user>.*) ip=<HOST>$`},
		"a reason in quotes": {[]string{`shopd[1]: login failed user=bob ip=192.0.2.7 reason="bad password"`, `shopd[1]: login failed user=eve ip=192.0.2.8 reason="no such user"`},
			"failregex=^login failed user=(?P<user>.*) ip=<HOST> reason=\"bad password\"$\nfailregex=^login failed user=(?P<user>.*) ip=<HOST> reason=\"no such user\"$"},
		"what it is about in quotes": {[]string{`shopd[1]: level=warn msg="login failed" agent="browser 7" user=bob ip=192.0.2.7`},
			`failregex=^level=warn msg="login failed" agent="[^"]*" user=(?P<user>.*) ip=<HOST>$`},
		"a hexadecimal number behind": {[]string{`shopd[1]: invalid credentials for bob; client=192.0.2.7; session=af31`},
			`failregex=^invalid credentials for (?P<user>.*); client=<HOST>; session=[0-9A-Fa-f-]+$`},
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
	f.Add(`{"log":"{\\"msg\\":\\"login failed\\",\\"ip\\":\\"192.0.2.7\\"}\n","stream":"stdout","time":"x"}`)
	f.Add(`{"a":[{"b":"192.0.2.7"}],"msg":"bad \u00e9 192.0.2.8"}`)
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

func TestRulesOfObjects(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  string // the rule from format= on
	}{
		"a message": {[]string{`{"level":"warn","msg":"login failed","remote_ip":"192.0.2.7","user":"bob"}`},
			"addr=remote_ip\nuser=user\nwhen=msg==\"login failed\"\n"},
		"an event and a word": {[]string{`{"event":"user.login","time":"2026-03-01T10:00:00Z","success":false,"user":"bob","addr":{"remote":"192.0.2.7:4711"}}`,
			`{"event":"user.login","time":"2026-03-01T10:00:00Z","success":true,"user":"alice","addr":{"remote":"[2001:db8::7]:4711"}}`},
			"addr=addr.remote\nuser=user\nwhen=success==false && event==\"user.login\"\nokwhen=success==true && event==\"user.login\"\n"},
		"a status needs a name": {[]string{`{"request":{"remote_ip":"192.0.2.7","uri":"/?u=198.51.100.1"},"status":401,"user_id":"bob"}`},
			"addr=request.remote_ip\nuser=user_id\nwhen=status==401 && user_id\n"},
		"a text that varies": {[]string{`{"t":1,"ip":"192.0.2.7","message":"password for bob refused after 3 tries"}`},
			"addr=ip\nmessage=message\nfailregex=^password for (?P<user>.*) refused after \\d+ tries$\n"},
		"a text with the address": {[]string{`{"t":1,"message":"login for 'bob' failed (192.0.2.7)"}`},
			"message=message\nfailregex=^login for '(?P<user>.*)' failed \\(<HOST>\\)$\n"},
		"the client and ourselves": {[]string{`{"server_addr":"198.51.100.1:443","client":"192.0.2.7:4711","error":"invalid credentials","login":"bob"}`},
			"addr=client\nuser=login\nwhen=error==\"invalid credentials\"\n"},
		"what Docker puts around it": {[]string{`{"log":"{\"msg\":\"login failed\",\"ip\":\"192.0.2.7\"}\n","stream":"stdout","time":"2026-03-01T10:00:00Z"}`},
			"addr=ip\nwhen=msg==\"login failed\"\n"},
		"other members": {[]string{`{"msg":"login failed","ip":"192.0.2.7"}`, `{"msg":"login failed","ip":"192.0.2.8","trace":"x"}`},
			"addr=ip\nwhen=msg==\"login failed\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			want := "[rule]\nname=shop\nservice=shop\nsource=file\nfiles=/var/log/shop.log\nformat=json\n" + tt.want
			if got := ruleOfFile(t, []string{"/var/log/shop.log"}, tt.lines...); got != want {
				t.Errorf("rule\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Of lines that do not say which address is the client's, or whether a login was refused, no rule is made.
func TestObjectsThatMakeNoRule(t *testing.T) {
	l, ok := learn.Read(`{"msg":"login failed","a":"192.0.2.7","b":"192.0.2.8"}`, netip.Addr{})
	if !ok || !l.Several {
		t.Errorf("two addresses are not reported: %+v", l)
	}
	if l, ok = learn.Read(`{"msg":"login failed","a":"192.0.2.7","b":"192.0.2.8"}`, netip.MustParseAddr("192.0.2.8")); !ok || l.Several || l.Addr != netip.MustParseAddr("192.0.2.8") {
		t.Errorf("the client's address is not taken: %+v", l)
	}
	for _, lines := range [][]string{
		{`{"msg":"hello","ip":"192.0.2.7"}`},
		{`{"status":401,"ip":"192.0.2.7"}`},
		{`{"msg":"login failed","ip":"192.0.2.7"}`, `{"msg":"login failed","peer":"192.0.2.7"}`},
		{`{"msg":"login failed","ip":"192.0.2.7"}`, `shopd: login failed from 192.0.2.7`},
	} {
		var groups learn.Groups
		for _, raw := range lines {
			l, _ := learn.Read(raw, netip.Addr{})
			groups.Add(raw, l)
		}
		if rule, err := learn.Rule("shop", groups.Sorted(), []string{"files=/var/log/shop.log"}); err == nil {
			t.Errorf("%q became the rule\n%s", lines, rule)
		}
	}
}
