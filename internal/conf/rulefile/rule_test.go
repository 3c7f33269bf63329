package rulefile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/duration"
)

// parse reads a rule behind the line [rule] and returns what the operator sees.
func parse(text string, base *conf.Rule) (conf.Rule, string) {
	rule, notices, errs := Parse("shop.conf", []byte("[rule]\n"+text+"\n"), base)
	if err := errs.Err(); err != nil {
		return rule, err.Error()
	}
	var out []string
	for _, n := range notices {
		out = append(out, n.Pos.String()+": "+n.Text)
	}
	return rule, strings.Join(out, "\n")
}

func TestRuleDefaults(t *testing.T) {
	got, said := parse("failregex=^no <HOST>$", nil)
	if said != "" {
		t.Fatal(said)
	}
	want := conf.Rule{
		Name: "shop", Service: "shop", Enabled: true, Pos: diag.Pos{File: "shop.conf", Line: 1, Col: 1},
		Fail:     []conf.Pattern{{Text: "^no " + conf.HostPattern + "$", Pos: diag.Pos{File: "shop.conf", Line: 2, Col: 11}}},
		MaxRetry: 5, FindTime: 10 * time.Minute, BanTime: 10 * time.Minute, Escalation: conf.Escalation{Window: duration.Day},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(conf.Rule{}, "Set")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRuleKeys(t *testing.T) {
	got, said := parse(`enabled=false
name=shop-login
service=shop
source=file
programs=shop, shop/*
units=shop,web@1.service,shop-*
uids=shop,1001
files=/var/log/shop/*.log
files=/srv/a.log, /srv/b.log
failregex=^refused <USER> from <HOST>$
failregex=^no # <ADDR>
echoregex=^again <HOST>$
proberegex=^hello <HOST>$
okregex=^welcome <HOST>$
orphanregex=^refused <USER>$
peerregex=^connect from <HOST>$
ignoreregex=^refused monitor
ignoreregex=
maxretry=3
findtime=1h
bantime=2d
weight=20
transport=udp
ports=443,80
action=detect
escalation_enabled=true
escalation_window=48h
permanent_threshold=7
backend=nftables`, nil)
	if said != "" {
		t.Fatal(said)
	}
	pattern := func(text string, line, col int) []conf.Pattern {
		return []conf.Pattern{{Text: conf.Expand(text), Pos: diag.Pos{File: "shop.conf", Line: line, Col: col}}}
	}
	want := conf.Rule{
		Name: "shop-login", Service: "shop", Pos: diag.Pos{File: "shop.conf", Line: 1, Col: 1}, Source: conf.SourceFile,
		Programs: []string{"shop", "shop/*"}, Units: []string{"shop.service", "web@1.service", "shop-*"}, UIDs: []string{"shop", "1001"},
		Files: []string{"/var/log/shop/*.log", "/srv/a.log", "/srv/b.log"},
		Fail:  slices.Concat(pattern("^refused <USER> from <HOST>$", 11, 11), pattern("^no # <ADDR>", 12, 11)),
		Echo:  pattern("^again <HOST>$", 13, 11), Probe: pattern("^hello <HOST>$", 14, 12), OK: pattern("^welcome <HOST>$", 15, 9),
		Orphan: pattern("^refused <USER>$", 16, 13), Peer: pattern("^connect from <HOST>$", 17, 11), Ignore: pattern("^refused monitor", 18, 13),
		MaxRetry: 3, FindTime: time.Hour, BanTime: 2 * duration.Day, Weight: 20, UDP: true, Ports: "80,443", Action: conf.ActionDetect,
		Escalation: conf.Escalation{Enabled: true, Window: 2 * duration.Day, Threshold: 7},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(conf.Rule{}, "Set")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each mistake in a rule, behind the line [rule] of shop.conf.
func TestRuleErrors(t *testing.T) {
	const fail = "failregex=^no <HOST>$\n"
	manyPorts := "10001"
	for port := 10003; port < 10100; port += 2 {
		manyPorts += fmt.Sprintf(",%d", port)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"unknown key":         {fail + "fialregex=^no", `3:1: unknown key "fialregex"; did you mean "failregex"?`},
		"maxretry":            {fail + "maxretry=1001", `3:10: maxretry: wrong value "1001"; write a number from 1 to 1000`},
		"findtime":            {fail + "findtime=31d", `3:10: findtime: wrong value "31d"; write a duration from 1s to 30d such as 90, 10m or 7d`},
		"permanent at once":   {fail + "bantime=-1", `3:9: bantime: wrong value "-1"; write a duration from 1s to 365d such as 90, 10m or 7d`},
		"action":              {fail + "action=bann", `3:8: action: wrong value "bann"; did you mean "ban"?`},
		"source":              {fail + "source=ipset:x", `3:8: source: wrong value "ipset:x"; write auto or journal or file or syslog or stdin`},
		"name":                {fail + "name=my shop", `3:6: name: wrong value "my shop"; write a name of letters, digits, and . _ - up to 64 characters`},
		"program":             {fail + "programs=shop,*shop", `3:15: programs: wrong value "*shop"; write names of programs such as sshd, postfix/* or *, with commas`},
		"relative file":       {fail + "files=/var/log/a.log,b.log", `3:22: files: wrong value "b.log"; write absolute paths, with commas, in which * ? and [ ] are wildcards`},
		"bad glob":            {fail + "files=/var/log/[a.log", `3:7: files: wrong value "/var/log/[a.log"; write absolute paths, with commas, in which * ? and [ ] are wildcards`},
		"file without files":  {fail + "source=file", `3:8: source=file without files; add files=, containers= or images=`},
		"no pattern":          {"okregex=^yes <HOST>$", `1:1: rule "shop" has no pattern, and no built-in rule has that name; add failregex= or proberegex=`},
		"empty pattern":       {"failregex=", `1:1: rule "shop" has no pattern, and no built-in rule has that name; add failregex= or proberegex=`},
		"no address":          {"failregex=^no (?P<adr>.*)$", `2:11: failregex: no address in "^no (?P<adr>.*)$"; write <HOST> or (?P<ip>...) where the address is`},
		"unnamed group":       {fail + "okregex=^yes (.*)$", `3:9: okregex: no address in "^yes (.*)$"; write <HOST> or (?P<ip>...) where the address is`},
		"lookahead":           {"failregex=^no (?=x)<HOST>$", `2:15: failregex: invalid regular expression: invalid or unsupported Perl syntax "(?="; RE2 has no lookahead: write what follows as part of the pattern`},
		"negative lookahead":  {"failregex=^no (?!x)<HOST>$", `2:15: failregex: invalid regular expression: invalid or unsupported Perl syntax "(?!"; RE2 has no lookahead: put what must not match into ignoreregex`},
		"lookbehind":          {"failregex=^no (?<=x)<HOST>$", `2:15: failregex: invalid regular expression: invalid named capture "(?<="; RE2 has no lookbehind: write what comes before as part of the pattern`},
		"negative lookbehind": {"failregex=^no (?<!x)<HOST>$", `2:15: failregex: invalid regular expression: invalid named capture "(?<!"; RE2 has no lookbehind: put what must not match into ignoreregex`},
		"back reference":      {`failregex=^no (a|b) <HOST> \1$`, `2:28: failregex: invalid regular expression: invalid escape sequence "\\1"; RE2 has no back references: repeat its expression`},
		"possessive":          {`failregex=^no a++ <HOST>$`, `2:16: failregex: invalid regular expression: invalid nested repetition operator "++"; RE2 has no possessive repetitions and needs none: remove the last +`},
		"atomic group":        {`failregex=^no (?>a) <HOST>$`, `2:15: failregex: invalid regular expression: invalid or unsupported Perl syntax "(?>"; RE2 has no atomic groups and needs none: write (?:`},
		"unclosed":            {`failregex=^no (a <HOST>$`, `2:11: failregex: invalid regular expression: missing closing )`},
		"bad class":           {`failregex=^no [z-a] <HOST>$`, `2:16: failregex: invalid regular expression: invalid character class range "z-a"`},
		"two addresses":       {`failregex=^no (?:from <HOST>|by <HOST>)$`, `2:11: failregex: group "ip" occurs twice; write two patterns`},
		"words of fail2ban":   {`failregex=^no <F-USER>\S+</F-USER> <HOST>$`, `2:15: failregex: "<F-USER>" is unknown; use <HOST>, <ADDR> or <USER>; otherwise write the expression out`},
		"too many repeats":    {`failregex=^no a{1001} <HOST>$`, `2:16: failregex: invalid regular expression: invalid repeat count "{1001}"`},
		"too many ports":      {fail + "ports=" + manyPorts, `3:7: ports: 299 characters of ports are too many for a ban; write ranges, 200 characters in all at most`},
		"other section":       {fail + "[rules]\nmaxretry=1", `3:1: unknown section "rules"; did you mean "rule"?`},
		"detection":           {fail + "[detection]\nfailregex=x", `3:1: section "detection" in a rule about single lines; for a rule about web requests, write engine=webscan under [rule]`},
		"webscan":             {"engine=webscan\n[thresholds]\nrule_1_staus_code=200\n[webscan]\nwindows=1m,2", `4:1: unknown key "rule_1_staus_code"; did you mean "rule_N_status_code"?`},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := parse(tt.text, nil)
			if want := "shop.conf:" + tt.want; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestRuleNotices(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"group":   {"failregex=^no (?P<usr>\\d+) <HOST>$", `shop.conf:2:11: failregex: group "usr" is unknown; did you mean "user"?`},
		"header":  {`failregex=^\w+ shop\[\d+\]: no <HOST>$`, `shop.conf:2:11: failregex refused: it begins with free text, so a client can send text that looks like the rest of the message; begin it with ^ and the message's first words` + "\n" + `shop.conf:1:1: rule "shop" is disabled: none of its patterns can be used`},
		"program": {`failregex=^shop\[\d+\]: no <HOST>$`, `shop.conf:2:11: failregex: messages do not begin with a date, program or process ID, so this may never match; name the program in programs=`},
		"date":    {`failregex=^\d{4}-\d\d-\d\d no <HOST>$`, ""},
		"all is well, and one pattern is refused": {"failregex=^no <HOST>$\nfailregex=no <HOST>",
			`shop.conf:3:11: failregex refused: it can match in the middle of a message, so a client can send text that looks like a complete message; begin it with ^ and the message's first words`},
		"hidden failures":              {"failregex=^no (?P<user>.*) <HOST>$\nignoreregex=monitor", `shop.conf:3:13: ignoreregex: it can match in the middle of a message, so a client can send this text as its user name, and none of its failures counts; begin it with ^ and the message's first words`},
		"forged success":               {"failregex=^no <HOST>$\nokregex=^login of (?P<user>.*) ok, .* from <HOST>$", `shop.conf:3:9: okregex refused: its words are between two free texts, so a client whose login is refused can send them and be counted as logged in; match the user name by \S+, and begin the pattern with words that only a successful login has`},
		"clients' file":                {"failregex=^no <HOST>$\nfiles=/var/log/nginx/error.log", `shop.conf:3:7: clients write whole lines into "/var/log/nginx/error.log" (by %0a in the path of a request), so they can have anybody banned; read the access log, or have nginx write its error log to the journal (error_log syslog:server=unix:/dev/log)`},
		"clients' container":           {"failregex=^no <HOST>$\nimages=shop,library/nginx", `shop.conf:3:8: clients write whole lines into the output of "library/nginx" (by %0a in the path of a request, for nginx prints its error log too), so they can have anybody banned; have nginx write its access log into a volume, and read that with files=`},
		"clients' file, nobody banned": {"failregex=^no <HOST>$\naction=detect\nfiles=/var/log/nginx/error.log", ""},
		"disabled anyway": {"enabled=false\nfailregex=no <HOST>",
			`shop.conf:3:11: failregex refused: it can match in the middle of a message, so a client can send text that looks like a complete message; begin it with ^ and the message's first words`},
	} {
		t.Run(name, func(t *testing.T) {
			rule, got := parse(tt.text, nil)
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if left := len(rule.Fail); rule.Enabled != (left > 0) {
				t.Errorf("enabled %v with %d patterns", rule.Enabled, left)
			}
		})
	}
}

func TestOverrideChangesOnlyWhatItSets(t *testing.T) {
	shipped, err := Shipped(os.DirFS("../mefconf/testdata/shipped"))
	if err != nil {
		t.Fatal(err)
	}
	base := shipped[0]
	before := clone(base)
	got, said := parse("name=sshd\nmaxretry=2\nfiles=/a.log\nfiles=/b.log\nfailregex=^also <HOST>$\nokregex=^yes <HOST>$", &base)
	if said != "" {
		t.Fatal(said)
	}
	want := clone(before)
	want.Pos = diag.Pos{File: "shop.conf", Line: 1, Col: 1}
	want.MaxRetry = 2
	want.Files = []string{"/a.log", "/b.log"}
	want.Fail = append(want.Fail, conf.Pattern{Text: conf.Expand("^also <HOST>$"), Pos: diag.Pos{File: "shop.conf", Line: 6, Col: 11}})
	want.OK = append(want.OK, conf.Pattern{Text: conf.Expand("^yes <HOST>$"), Pos: diag.Pos{File: "shop.conf", Line: 7, Col: 9}})
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(conf.Rule{}, "Set")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, base); diff != "" {
		t.Errorf("the shipped rule itself has changed:\n%s", diff)
	}
}

func TestLoadRuleRefusesSteerablePatterns(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good.conf": "[rule]\nfailregex=^no <HOST>$\n", "bad.conf": "[rule]\nfailregex=no <HOST>\nmaxretry=x\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rule, err := Load(dir + "/good.conf")
	if err != nil || rule.Name != "good" || rule.BanTime != 10*time.Minute {
		t.Errorf("%+v, %v", rule, err)
	}
	_, err = Load(dir + "/bad.conf")
	want := `bad.conf:2:11: failregex refused: it can match in the middle of a message, so a client can send text that looks like a complete message; begin it with ^ and the message's first words
bad.conf:3:10: maxretry: wrong value "x"; write a number from 1 to 1000`
	if err == nil || strings.ReplaceAll(err.Error(), dir+"/", "") != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := Load(dir + "/none.conf"); err == nil || !strings.HasSuffix(err.Error(), "none.conf: no such file or directory") {
		t.Errorf("missing file: %v", err)
	}
}
