package filter_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
)

const failed = "Failed password for root from 203.0.113.7 port 4711 ssh2"

func TestWhoseWordCounts(t *testing.T) {
	users := map[string]uint32{"postfix": 107, "dovecot": 110, "www-data": 33}
	set := compile(t, shippedRules(t), filter.WithUsers(func(name string) (uint32, bool) {
		uid, ok := users[name]
		return uid, ok
	}))
	const sasl = "warning: unknown[203.0.113.7]: SASL LOGIN authentication failed: x"
	const basic = `[error] 71#71: *5 user "root": password mismatch, client: 203.0.113.7, server: _, request: "GET / HTTP/1.1", host: "a"`
	for name, tt := range map[string]struct {
		identifier, unit, container string
		uid                         uint32
		text                        string
		want                        bool
	}{
		"sshd of Debian":             {"sshd", "ssh.service", "", 0, failed, true},
		"sshd of Fedora":             {"sshd", "sshd.service", "", 0, failed, true},
		"sshd-session":               {"sshd-session", "ssh.service", "", 0, failed, true},
		"sshd by socket":             {"sshd", "ssh@12-192.0.2.10:22-203.0.113.7:4711.service", "", 0, failed, true},
		"sshd in the user's session": {"sshd", "session-12.scope", "", 0, failed, true},
		"sshd without systemd":       {"sshd", "", "", 0, failed, true},
		"postfix, its own account":   {"postfix/smtpd", "postfix@-.service", "", 107, sasl, true},
		"nginx' worker":              {"nginx", "nginx.service", "", 33, basic, true},
		"postfix as root":            {"postfix/smtpd", "postfix.service", "", 0, sasl, true},

		"a PHP script under Apache":       {"nginx", "apache2.service", "", 33, basic, false},
		"logger -t sshd":                  {"sshd", "session-12.scope", "", 1000, failed, false},
		"systemd-cat -t sshd":             {"sshd", "session-12.scope", "", 1000, failed, false},
		"systemd-run --user":              {"sshd", "user@1000.service", "", 1000, failed, false},
		"a user's own sshd":               {"sshd-session", "session-3.scope", "", 1000, failed, false},
		"a user's process without unit":   {"sshd", "", "", 1000, failed, false},
		"root, but another service":       {"sshd", "cron.service", "", 0, failed, false},
		"root in a user's manager":        {"sshd", "user@0.service", "", 0, failed, false},
		"postfix's account, session":      {"postfix/smtpd", "session-1.scope", "", 107, sasl, false},
		"another daemon's account":        {"postfix/smtpd", "postfix@-.service", "", 110, sasl, false},
		"postdrop run by a user":          {"postfix/postdrop", "session-1.scope", "", 1000, sasl, false},
		"sender not known":                {"sshd", "ssh.service", "", event.NoUID, failed, false},
		"container":                       {"sshd", "ssh.service", "web", 0, failed, false},
		"container without unit":          {"sshd", "", "web", 0, failed, false},
		"container with /dev/log":         {"sshd", "docker-0123.scope", "", 0, failed, false},
		"container of a group without":    {"sshd", "/docker/0123", "", 0, failed, false},
		"unit with a name that begins so": {"sshd", "sshd.service.d.service", "", 0, failed, false},
		"no identifier":                   {"", "ssh.service", "", 0, failed, false},
		"header in the message":           {"mallory", "ssh.service", "", 0, "Mar  1 10:00:00 h sshd[1]: " + failed, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := &event.Line{Text: []byte(tt.text), Entry: &event.Entry{
				Identifier: []byte(tt.identifier), Unit: []byte(tt.unit), Container: []byte(tt.container), UID: tt.uid, PID: 77,
			}}
			var m filter.Match
			if got := set.View(all).Match(l, &m); got != tt.want {
				t.Fatalf("Match = %v, want %v", got, tt.want)
			}
			if tt.want && string(m.Session) != "77" {
				t.Errorf("session %q, want the process ID", m.Session)
			}
		})
	}
}

// A rule that names no units believes services named like its programs.
func TestUnitsDefaultToThePrograms(t *testing.T) {
	set := compile(t, []conf.Rule{parseRule(t, "thing", "programs=thingd\nfailregex=^bad <HOST>$\n")})
	for unit, want := range map[string]bool{"thingd.service": true, "thingd@x.service": true, "other.service": false, "thingd.scope": false} {
		l := &event.Line{Text: []byte("bad 203.0.113.7"), Entry: &event.Entry{Identifier: []byte("thingd"), Unit: []byte(unit)}}
		if got := set.View(all).Match(l, new(filter.Match)); got != want {
			t.Errorf("unit %s: %v, want %v", unit, got, want)
		}
	}
}

// Where two rules know a program, an entry that only the second believes meets only the second.
func TestRuleThatBelievesGetsTheEntry(t *testing.T) {
	set := compile(t, []conf.Rule{
		parseRule(t, "a", "programs=thingd\nunits=a.service\nfailregex=^bad <HOST>$\n"),
		parseRule(t, "b", "programs=thingd\nunits=b.service\nfailregex=^bad <HOST>$\n"),
	})
	v := set.View(all)
	for _, unit := range []string{"a", "b", "a", "b"} {
		var m filter.Match
		l := &event.Line{Text: []byte("bad 203.0.113.7"), Entry: &event.Entry{Identifier: []byte("thingd"), Unit: []byte(unit + ".service")}}
		if !v.Match(l, &m) || m.Rule.Name != unit {
			t.Errorf("entry of %s.service: %+v", unit, m.Rule)
		}
	}
}

func TestOrderDecides(t *testing.T) {
	for name, tt := range map[string]struct{ rule, line, want string }{
		"failure before success":     {"okregex=^login .* <HOST>$\nfailregex=^login failed <HOST>$", "login failed 203.0.113.7", "failure 203.0.113.7"},
		"first of the file":          {"failregex=^bad (?P<user>a).* <HOST>$\nfailregex=^bad (?P<user>.*) <HOST>$", "bad ab 203.0.113.7", "failure 203.0.113.7 a"},
		"ignore wins":                {"failregex=^bad <HOST>$\nignoreregex=113", "bad 203.0.113.7", "nothing"},
		"count":                      {"failregex=^(?P<count>\\d+) times <HOST>$", "3 times 203.0.113.7", "failure 203.0.113.7 x3"},
		"count beyond reason":        {"failregex=^(?P<count>\\d+) times <HOST>$", "99999999999999999999 times 203.0.113.7", "failure 203.0.113.7 x1000"},
		"count of none":              {"failregex=^(?P<count>\\d+) times <HOST>$", "0 times 203.0.113.7", "failure 203.0.113.7"},
		"no address":                 {"failregex=^bad <HOST>$", "bad beef", "nothing"},
		"nobody's address":           {"failregex=^bad <HOST>$", "bad 0.0.0.0", "nothing"},
		"host name":                  {"failregex=^bad (?:<HOST>|(?P<host>\\S+))$", "bad host.example.net", "failure host.example.net"},
		"host name that is empty":    {"failregex=^bad (?P<host>\\S*)$", "bad ", "nothing"},
		"orphan without any session": {"failregex=^no <HOST>$\norphanregex=^bad$", "bad", "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			v := compile(t, []conf.Rule{parseRule(t, "x", tt.rule+"\n")}).View(all)
			if got := describe(v, "Mar  1 10:00:00 host x: "+tt.line); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// A pattern that matches further right comes before one that matches further left, if it is before it in order.
func TestOrderDecidesNotPlace(t *testing.T) {
	v := compile(t, []conf.Rule{{Name: "x", Service: "x", Enabled: true,
		Probe: []conf.Pattern{{Text: `y (?P<ip>\S+)$`}},
		OK:    []conf.Pattern{{Text: `^x .* (?P<ip>\S+)$`}},
	}}).View(all)
	if got := describe(v, "Mar  1 10:00:00 host x: x y 203.0.113.7"); got != "probe 203.0.113.7" {
		t.Errorf("got %s, want the probe", got)
	}
}

func TestCompileTellsAllErrors(t *testing.T) {
	at := func(n int) conf.Pos { return conf.Pos{File: "x.conf", Line: n, Col: 1} }
	_, errs := filter.Compile([]conf.Rule{{Name: "x", Enabled: true,
		Fail:   []conf.Pattern{{Text: "(", Pos: at(1)}, {Text: "^no address$", Pos: at(2)}},
		Ignore: []conf.Pattern{{Text: "[", Pos: at(3)}},
	}, {Name: "off", Fail: []conf.Pattern{{Text: "(", Pos: at(4)}}}})
	if len(errs) != 3 {
		t.Fatalf("errors %v, want three, none of a rule that is off", errs)
	}
	for i, e := range errs {
		if e.Line != i+1 {
			t.Errorf("error %v, want line %d", e, i+1)
		}
	}
}

func TestViewHasOnlyItsRules(t *testing.T) {
	v := compile(t, shippedRules(t)).View(func(r *conf.Rule) bool { return r.Name != "sshd" })
	if got := describe(v, "Mar  1 10:00:00 host sshd[1]: "+failed); got != "nothing" {
		t.Errorf("a view without sshd says %s", got)
	}
}

// What an orphan line waits for must come soon, from the same rule, and is forgotten when too many sessions wait.
func TestSessionsAreShortLived(t *testing.T) {
	const refused, closed = "User root not allowed because account is locked", "Connection closed by 203.0.113.7 port 1"
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	set := compile(t, shippedRules(t))
	say := func(v *filter.View, at time.Duration, pid int, text string) bool {
		var m filter.Match
		return v.Match(&event.Line{Time: start.Add(at), Text: fmt.Appendf(nil, "Mar  1 10:00:00 host sshd[%d]: %s", pid, text)}, &m)
	}
	t.Run("soon", func(t *testing.T) {
		v := set.View(all)
		if say(v, 0, 1, refused) || !say(v, 2*time.Minute, 1, closed) || say(v, 2*time.Minute, 1, closed) {
			t.Error("want one event, at the line that names the address")
		}
	})
	t.Run("late", func(t *testing.T) {
		v := set.View(all)
		if say(v, 0, 1, refused); say(v, time.Hour, 1, closed) {
			t.Error("an hour later the process is another")
		}
	})
	t.Run("after a login", func(t *testing.T) {
		v := set.View(all)
		say(v, 0, 1, "Accepted password for alice from 203.0.113.7 port 1 ssh2")
		if say(v, time.Second, 1, refused) {
			t.Error("the login ended the session")
		}
	})
	t.Run("many", func(t *testing.T) {
		v := set.View(all)
		for pid := range 5000 {
			say(v, 0, pid, refused)
		}
		told := 0
		for pid := 4999; pid >= 0; pid-- {
			if say(v, time.Second, pid, closed) {
				told++
			}
		}
		if told == 0 || told > 4096 {
			t.Errorf("%d sessions are remembered, want at most 4096", told)
		}
	})
}

// A view of other rules goes on with the sessions of the one before it.
func TestViewInheritsSessions(t *testing.T) {
	const text = "programs=thingd\nfailregex=^no <HOST>$\npeerregex=^hello <HOST>$\norphanregex=^bad$\n"
	thing := parseRule(t, "thing", text)
	before := compile(t, []conf.Rule{thing}).View(all)
	var m filter.Match
	if before.Match(line("Mar  1 10:00:00 h thingd[7]: hello 203.0.113.7"), &m) {
		t.Fatal("the line that names the peer says something by itself")
	}
	after := compile(t, []conf.Rule{parseRule(t, "first", "programs=other\nfailregex=^no <HOST>$\n"), thing}).View(all)
	after.Inherit(before)
	if !after.Match(line("Mar  1 10:00:01 h thingd[7]: bad"), &m) || m.Addr != netip.MustParseAddr("203.0.113.7") {
		t.Errorf("the session's next line is of %v, want the peer that the first view saw", m.Addr)
	}
}

func TestEventHoldsCopies(t *testing.T) {
	v := compile(t, shippedRules(t)).View(all)
	user := strings.Repeat("u", 300)
	text := []byte("Mar  1 10:00:00 host sshd[12]: Failed password for invalid user " + user + " from 203.0.113.7 port 4711 ssh2")
	l := &event.Line{Time: time.Unix(5, 0), Text: text, Offset: 9}
	var m filter.Match
	if !v.Match(l, &m) {
		t.Fatal("no match")
	}
	var got event.Event
	m.Event(&got, &event.Batch{Stream: "s"}, l)
	m.Texts(&got, new(filter.Names))
	got.Evidence()
	clear(text)
	want := event.Event{
		Time: time.Unix(5, 0), Rule: "sshd", Service: "sshd", Addr: netip.MustParseAddr("203.0.113.7"), User: user[:64],
		UnknownUser: true, Kind: event.Failure, Form: 1, Count: 1, Session: "12", Verified: true, Position: event.Position{Stream: "s", Offset: 9},
		Line: ("Mar  1 10:00:00 host sshd[12]: Failed password for invalid user " + user)[:256],
	}
	if got != want {
		t.Errorf("event\n got %+v\nwant %+v", got, want)
	}
}

// mixed is a log as busy servers have it: most lines tell nothing.
var mixed = []string{
	"Mar  1 10:00:00 web1 CRON[4711]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)",
	"Mar  1 10:00:00 web1 sshd[4712]: Failed password for invalid user admin from 203.0.113.7 port 40022 ssh2",
	"Mar  1 10:00:01 web1 systemd-logind[512]: New session 42 of user alice.",
	"Mar  1 10:00:01 web1 sshd[4713]: Received disconnect from 203.0.113.7 port 40022:11: Bye Bye [preauth]",
	"Mar  1 10:00:02 mx1 postfix/smtpd[99]: connect from mail.example.net[192.0.2.7]",
	"Mar  1 10:00:02 mx1 postfix/qmgr[98]: 4Vabc01: from=<a@example.net>, size=4711, nrcpt=1 (queue active)",
	"Mar  1 10:00:02 mx1 dovecot: imap-login: Login: user=<alice>, method=PLAIN, rip=203.0.113.30, lip=192.0.2.10, mpid=42, TLS, session=<a3>",
	"Mar  1 10:00:03 web1 sudo[600]:    alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/apt update",
	"Mar  1 10:00:04 web1 kernel: [970.699396] eth0: link up",
	"Mar  1 10:00:05 web1 sshd[4714]: Connection closed by 203.0.113.7 port 40023 [preauth]",
}

func TestMatchAllocatesNothing(t *testing.T) {
	v := compile(t, shippedRules(t)).View(all)
	var m filter.Match
	for _, text := range append([]string{
		"Mar  1 10:00:01 web1 sshd[1014]: Invalid user x from 198.51.100.1 port 22 from 2001:db8::7 port 4715",
		"Mar  1 10:00:02 web1 sshd[1101]: User backup not allowed because account is locked",
		"Mar  1 10:00:03 web1 sshd[1101]: Connection closed by 203.0.113.21 port 1",
		"nothing that has a header",
	}, mixed...) {
		l := line(text)
		v.Match(l, &m) // the first line of a kind builds states
		if n := testing.AllocsPerRun(100, func() { v.Match(l, &m) }); n > 0 {
			t.Errorf("%v allocations for %s", n, text)
		}
	}
	l := &event.Line{Text: []byte(failed), Entry: &event.Entry{Identifier: []byte("sshd"), Unit: []byte("ssh.service"), PID: 4711}}
	v.Match(l, &m)
	if n := testing.AllocsPerRun(100, func() { v.Match(l, &m) }); n > 0 {
		t.Errorf("%v allocations for a journal entry", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	v := compile(b, shippedRules(b)).View(all)
	for name, texts := range map[string][]string{
		"other program": mixed[:1],
		"no match":      mixed[4:5],
		"match":         mixed[1:2],
		"mixed":         mixed,
	} {
		b.Run(name, func(b *testing.B) {
			var lines []*event.Line
			bytes := 0
			for _, text := range texts {
				lines = append(lines, line(text))
				bytes += len(text)
			}
			b.SetBytes(int64(bytes / len(texts)))
			b.ReportAllocs()
			var m filter.Match
			for i := 0; b.Loop(); i++ {
				v.Match(lines[i%len(lines)], &m)
			}
		})
	}
}

// FuzzMatch feeds any bytes, as a file's line and as a journal entry. The slices of a match lie in the line, its address is one
// that can be banned or there is a host name, and what is reported stands in the line.
func FuzzMatch(f *testing.F) {
	rules := shippedRules(f)
	for _, rule := range rules {
		for _, s := range readSamples(f, rule.Name) {
			f.Add([]byte(s.text))
		}
	}
	v := compile(f, rules).View(all)
	var names filter.Names
	f.Fuzz(func(t *testing.T, text []byte) {
		var m filter.Match
		for _, l := range []*event.Line{
			{Text: text},
			{Text: text, Entry: &event.Entry{Identifier: []byte("sshd"), Unit: []byte("ssh.service"), PID: 1}},
			{Text: text, Entry: &event.Entry{Identifier: []byte("dovecot")}},
		} {
			if !v.Match(l, &m) {
				continue
			}
			switch {
			case m.Rule == nil || m.Kind < event.Failure || m.Kind > event.Probe || m.Count < 1 || m.Count > 1000:
				t.Errorf("match %+v", m)
			case m.Addr.IsValid() == (len(m.Host) > 0):
				t.Errorf("address %v and host %q", m.Addr, m.Host)
			case m.Addr.Is4In6() || m.Addr.Zone() != "" || m.Addr.IsValid() && m.Addr.IsUnspecified():
				t.Errorf("address %v", m.Addr)
			case !strings.Contains(string(text), string(m.Host)):
				t.Errorf("host %q is not in the line", m.Host)
			}
			m.Texts(new(event.Event), &names)
		}
	})
}
