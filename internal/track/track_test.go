package track

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/prefixset"
	"mef/internal/track/bounded"
	"mef/internal/track/netkey"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testConfig() Config {
	rule := func(name string, maxRetry int) event.Rule {
		return event.Rule{Name: name, Service: name, MaxRetry: maxRetry, FindTime: 10 * time.Minute}
	}
	return Config{
		Rules:   []event.Rule{rule("dovecot", 5), rule("patient", 20), rule("sshd", 5)},
		Score:   conf.Score{Failure: 10, Probe: 3, Unverified: 2, HalfLife: time.Hour, Ban: 100, Days: 3, AfterBan: 75, Sprays: true},
		Known:   conf.Known{TTL: 30 * 24 * time.Hour, PerUser: 8, Total: 20000, SharedMin: 3, Burst: 15, Retries: 300, Limits: true},
		History: 30 * 24 * time.Hour,
	}
}

// line is an event told in short: at so many seconds, kind, user and session.
type line struct {
	at      float64
	kind    string // fail, echo, each or pam (two forms of attempts that other lines report as well), probe, ok
	user    string
	session string
	count   int
}

func (l line) event(rule, addr string) *event.Event {
	ev := &event.Event{
		Time: start.Add(time.Duration(l.at * float64(time.Second))), Rule: rule, Service: rule,
		Addr: netip.MustParseAddr(addr), User: l.user, Session: l.session, Count: max(1, l.count), Verified: true,
		Kind: event.Failure, Line: fmt.Sprintf("%s of %s at %gs", l.kind, l.user, l.at),
	}
	switch l.kind {
	case "echo":
		ev.Echo, ev.Form = true, 2
	case "each":
		ev.Echo, ev.Each, ev.Form = true, true, 3
	case "pam":
		ev.Echo, ev.Each, ev.Form = true, true, 4
	case "probe":
		ev.Kind = event.Probe
	case "ok":
		ev.Kind = event.Success
	}
	return ev
}

// Each case is a story of one address at sshd, and what counts at its end.
func TestWhatCounts(t *testing.T) {
	for name, tt := range map[string]struct {
		lines    []line
		attempts int
		points   int
	}{
		"a failure":                   {[]line{{0, "fail", "a", "1", 0}}, 1, 10},
		"a line of three":             {[]line{{0, "fail", "a", "1", 3}}, 3, 30},
		"a line of very many":         {[]line{{0, "fail", "a", "1", 9999}}, 5, 1000},
		"a probe":                     {[]line{{0, "probe", "", "1", 0}}, 0, 3},
		"an echo alone":               {[]line{{0, "echo", "a", "1", 0}}, 1, 10},
		"echo, line":                  {[]line{{0, "echo", "a", "1", 0}, {1, "fail", "a", "1", 0}}, 1, 10},
		"line, echo":                  {[]line{{0, "fail", "a", "1", 0}, {1, "echo", "a", "1", 0}}, 1, 10},
		"echo, line of three":         {[]line{{0, "echo", "a", "1", 0}, {1, "fail", "a", "1", 3}}, 3, 30},
		"an echo is absorbed once":    {[]line{{0, "echo", "a", "1", 0}, {1, "fail", "a", "1", 0}, {2, "fail", "a", "1", 0}}, 2, 20},
		"echoes of two sessions":      {[]line{{0, "echo", "a", "1", 0}, {1, "echo", "a", "2", 0}}, 2, 20},
		"sessions interleaved":        {[]line{{0, "echo", "a", "1", 0}, {1, "echo", "a", "2", 0}, {2, "fail", "a", "1", 0}, {3, "fail", "a", "2", 0}}, 2, 20},
		"a session much later":        {[]line{{0, "fail", "a", "1", 0}, {301, "echo", "a", "1", 0}}, 2, 19},
		"no session, soon":            {[]line{{0, "echo", "a", "", 0}, {9, "fail", "a", "", 0}}, 1, 10},
		"one side without session":    {[]line{{0, "echo", "a", "", 0}, {9, "fail", "a", "1", 0}}, 1, 10},
		"failures never hide":         {[]line{{0, "fail", "a", "1", 0}, {0, "fail", "a", "1", 0}, {0, "fail", "a", "1", 0}}, 3, 30},
		"the window slides":           {[]line{{0, "fail", "a", "1", 0}, {599, "fail", "b", "2", 0}, {601, "fail", "c", "3", 0}}, 2, 29},
		"the window's end counts":     {[]line{{0, "fail", "a", "1", 0}, {600, "fail", "b", "2", 0}}, 2, 19},
		"success takes its user back": {[]line{{0, "fail", "a", "1", 0}, {1, "fail", "b", "2", 0}, {2, "ok", "a", "3", 0}}, 1, 10},
		"success of a stranger":       {[]line{{0, "fail", "a", "1", 0}, {1, "fail", "b", "2", 0}, {2, "ok", "c", "3", 0}}, 2, 20},
		"success takes probes not":    {[]line{{0, "probe", "", "1", 0}, {2, "ok", "a", "3", 0}}, 0, 3},
		"time never goes back":        {[]line{{60, "fail", "a", "1", 0}, {0, "fail", "b", "2", 0}}, 2, 20},
		"a user the echo knew not":    {[]line{{0, "echo", "", "1", 0}, {1, "fail", "a", "1", 0}, {2, "ok", "a", "2", 0}}, 0, 0},
		"two echoes":                  {[]line{{0, "echo", "a", "1", 0}, {1, "echo", "a", "1", 0}}, 1, 10},
		"an echo of many counts one":  {[]line{{0, "echo", "a", "1", 3}}, 1, 10},
		"no session, later":           {[]line{{0, "echo", "a", "", 0}, {241, "fail", "a", "", 0}}, 2, 20},
		"the gap does not slide":      {[]line{{0, "fail", "a", "", 0}, {6, "echo", "a", "", 0}, {12, "echo", "a", "", 0}}, 2, 20},
		"each report is an attempt":   {[]line{{0, "each", "a", "", 0}, {1, "each", "a", "", 0}, {2, "each", "a", "", 0}}, 3, 30},
		"the closing line takes back": {[]line{{0, "each", "a", "", 0}, {15, "each", "a", "", 0}, {30, "each", "a", "", 0}, {40, "fail", "a", "s", 3}}, 3, 30},
		"and adds what it knows more": {[]line{{0, "each", "a", "", 0}, {40, "fail", "a", "s", 3}}, 3, 30},
		"slow closing line":           {[]line{{0, "each", "a", "", 0}, {31, "fail", "a", "s", 1}}, 1, 10},
		"guesses in one session":      {[]line{{0, "each", "a", "s", 0}, {1, "each", "b", "s", 0}, {2, "each", "a", "s", 0}, {9, "fail", "b", "s", 3}}, 3, 30},
		"two processes, one attempt":  {[]line{{0, "each", "a", "1", 0}, {2, "pam", "a", "2", 0}, {2, "echo", "a", "2", 0}}, 1, 10},
		"sessions kept apart":         {[]line{{0, "each", "a", "1", 0}, {0, "each", "a", "2", 0}, {30, "fail", "a", "1", 0}, {60, "fail", "a", "2", 0}}, 2, 20},
		"a login wipes its own name":  {[]line{{0, "each", "boss", "s", 0}, {1, "each", "boss", "s", 0}, {2, "ok", "a", "s", 0}}, 2, 20},
		"known: forgiven":             {[]line{{0, "ok", "a", "1", 0}, {1, "fail", "a", "2", 0}}, 0, 0},
		"known: other names in full":  {[]line{{0, "ok", "a", "1", 0}, {1, "fail", "b", "2", 0}}, 1, 10},
		"known: the echo knew not":    {[]line{{0, "ok", "a", "1", 0}, {1, "echo", "", "2", 0}, {2, "fail", "a", "2", 0}}, 0, 0},
		"known: echo, line":           {[]line{{0, "ok", "a", "1", 0}, {1, "echo", "a", "2", 0}, {2, "fail", "a", "2", 0}}, 0, 0},
		"known: a line of many":       {[]line{{0, "ok", "a", "1", 0}, {1, "fail", "a", "2", 50}}, 12, 475},
	} {
		t.Run(name, func(t *testing.T) {
			tr := New(testConfig())
			var tally event.Tally
			for _, l := range tt.lines {
				tally = *tr.Observe(l.event("sshd", "192.0.2.7"))
			}
			if got := tally.Attempts; got != tt.attempts {
				t.Errorf("%d attempts, want %d", got, tt.attempts)
			}
			if got := event.Points(tally.Score); got != tt.points {
				t.Errorf("%d points, want %d", got, tt.points)
			}
		})
	}
}

func TestWindowKeepsAsManyAsTheLimitNeeds(t *testing.T) {
	tr := New(testConfig())
	for i := range 1000 {
		tr.Observe(line{float64(i) / 10, "fail", "a", "1", 0}.event("patient", "192.0.2.7"))
	}
	if got := tr.Stats().Attempts; got != 20 {
		t.Errorf("%d attempts are kept, want 20", got)
	}
}

func TestEventsThatCountForNobody(t *testing.T) {
	tr := New(testConfig())
	unknown := line{0, "fail", "a", "1", 0}.event("nosuch", "192.0.2.7")
	host := line{0, "fail", "a", "1", 0}.event("sshd", "192.0.2.7")
	host.Addr = netip.Addr{}
	for _, ev := range []*event.Event{unknown, host} {
		if tally := tr.Observe(ev); tally.Rule != nil || tally.RuleReached() || tally.ScoreReached() {
			t.Errorf("%s %s: %+v, want nothing", ev.Rule, ev.Addr, tally)
		}
	}
	if n := tr.Stats().Sources; n != 0 {
		t.Errorf("%d sources", n)
	}
}

func TestSource(t *testing.T) {
	cfg := testConfig()
	cfg.OnLink = prefixset.New(netip.MustParsePrefix("2001:db8:5::/64"))
	for name, tt := range map[string]struct {
		bits       int
		addr, want string
	}{
		"v4":            {0, "192.0.2.7", "192.0.2.7/32"},
		"v6":            {0, "2001:db8:1:2:3::4", "2001:db8:1:2::/64"},
		"v6 by 56 bits": {56, "2001:db8:1:234::4", "2001:db8:1:200::/56"},
		"v6 on link":    {0, "2001:db8:5::4", "2001:db8:5::4/128"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.IPv6Prefix = tt.bits
			if got := New(cfg).Observe(line{0, "fail", "a", "1", 0}.event("sshd", tt.addr)).Source.String(); got != tt.want {
				t.Errorf("counts as %s, want %s", got, tt.want)
			}
		})
	}
}

func TestFullTableKeepsTheDangerous(t *testing.T) {
	cfg := testConfig()
	cfg.MaxSources = 1000
	tr := New(cfg)
	for n := range 400 { // above half the limit
		for i := range 4 {
			tr.Observe(line{float64(n) / 10, "fail", fmt.Sprint(i), "", 0}.event("sshd", hotAddr(n)))
		}
	}
	for i := range 100_000 {
		addr := fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
		tr.Observe(line{40 + float64(i)/1000, "fail", "root", "", 0}.event("sshd", addr))
	}
	for n := range 400 {
		a := tr.Explain(netip.MustParseAddr(hotAddr(n)), start.Add(140*time.Second))
		if len(a.Rules) == 0 || a.Rules[0].Attempts != 4 {
			t.Fatalf("source %d near its limit was dropped: %+v", n, a)
		}
	}
	st := tr.Stats()
	if st.Sources > 1000 || st.EvictedHot != 0 || st.Evicted < 99_000 {
		t.Errorf("stats %+v", st)
	}
	for i := range 2000 { // now everybody is dangerous
		tr.Observe(line{150 + float64(i)/1000, "fail", "root", "", 4}.event("sshd", fmt.Sprintf("11.0.%d.%d", i>>8, i&255)))
	}
	if st := tr.Stats(); st.Sources > 1000 || st.EvictedHot == 0 {
		t.Errorf("stats %+v, want evictions of hot sources told", st)
	}
}

func hotAddr(n int) string { return fmt.Sprintf("203.0.%d.%d", n/200, n%200) }

// Sources that were dangerous once and have cooled down make room for others.
// Whoever is banned needs no place; whoever is near his limit does.
func TestFullTableForgetsTheBannedFirst(t *testing.T) {
	cfg := testConfig()
	cfg.MaxSources = 1000
	tr := New(cfg)
	ban := func(addr string, at float64) {
		p := netip.PrefixFrom(netip.MustParseAddr(addr), 32)
		from := start.Add(time.Duration(at * float64(time.Second)))
		tr.Banned(ban.Ban{Key: ban.Key{Prefix: p}, Rule: "sshd", ID: addr, Start: from, Until: from.Add(time.Hour)})
	}
	for n := range 1000 {
		tr.Observe(line{float64(n) / 100, "fail", "a", "", 4}.event("sshd", hotAddr(n)))
		if n%2 == 0 {
			ban(hotAddr(n), float64(n)/100)
		}
	}
	for i := range 5000 { // newcomers, and lines of the banned that were under way
		tr.Observe(line{20 + float64(i)/100, "fail", "root", "", 0}.event("sshd", fmt.Sprintf("10.0.%d.%d", i>>8, i&255)))
		tr.Observe(line{20 + float64(i)/100, "fail", "b", "", 0}.event("sshd", hotAddr(i*2%1000)))
	}
	for n := 1; n < 1000; n += 2 {
		if !tr.Explain(netip.MustParseAddr(hotAddr(n)), start.Add(2*time.Minute)).Tracked {
			t.Fatalf("%s, which is not banned, was dropped: %+v", hotAddr(n), tr.Stats())
		}
	}
	if st := tr.Stats(); st.Sources > 1000 || st.EvictedHot != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestFullTableForgetsTheCooled(t *testing.T) {
	cfg := testConfig()
	cfg.MaxSources = 100
	tr := New(cfg)
	for n := range 100 {
		tr.Observe(line{0, "fail", "a", "", 4}.event("sshd", hotAddr(n)))
	}
	for i := range 1000 {
		tr.Observe(line{12*3600 + float64(i), "fail", "root", "", 0}.event("sshd", fmt.Sprintf("10.0.%d.%d", i>>8, i&255)))
	}
	for n := range 100 {
		if tr.Explain(netip.MustParseAddr(hotAddr(n)), start.Add(13*time.Hour)).Tracked {
			t.Errorf("%s is still tracked", hotAddr(n))
		}
	}
}

func TestCrowdedNetworkIsOneSource(t *testing.T) {
	tr := New(testConfig())
	for i := range 300 {
		tr.Observe(line{float64(i) / 10, "fail", "root", "", 0}.event("sshd", fmt.Sprintf("2001:db8:1:%x::1", i)))
	}
	if n := tr.Stats().Sources; n != maxChildren+1 {
		t.Errorf("%d sources, want %d and their network", n, maxChildren)
	}
	tally := tr.Observe(line{40, "fail", "root", "", 0}.event("sshd", "2001:db8:1:ffff::1"))
	if tally.Source.String() != "2001:db8:1::/48" || !tally.RuleReached() {
		t.Errorf("counts as %s, %d attempts", tally.Source, tally.Attempts)
	}
	tally = tr.Observe(line{40, "fail", "root", "", 0}.event("sshd", "2001:db8:1:7::1"))
	if tally.Source.String() != "2001:db8:1:7::/64" {
		t.Errorf("one that is tracked counts as %s", tally.Source)
	}
}

func TestMillionSources(t *testing.T) {
	tr := New(testConfig())
	for i := range 1_000_000 {
		addr := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 7})
		if i%2 == 0 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)})
		}
		ev := line{float64(i) / 1e4, "fail", "root", "", 0}.event("sshd", "192.0.2.7")
		ev.Addr = addr
		tr.Observe(ev)
	}
	st := tr.Stats()
	if st.Sources > defaultSources || st.Attempts > perSource*defaultSources || tr.index.Len() != st.Sources ||
		len(tr.children) > st.Sources || len(tr.gone) != 0 || tr.evidence.Len() > bounded.MaxLines {
		t.Errorf("stats %+v, %d indexed, %d children, %d gone", st, tr.index.Len(), len(tr.children), len(tr.gone))
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	cfg := testConfig()
	cfg.MaxSources = 100
	tr := New(cfg)
	for i := range 200 {
		for n := range 25 {
			tr.Observe(line{float64(i), "fail", fmt.Sprint(n), "", 0}.event("patient", fmt.Sprintf("10.0.0.%d", i)))
		}
	}
	if st := tr.Stats(); st.Attempts > perSource*100 || st.Attempts < 100 {
		t.Errorf("stats %+v, want at most %d attempts", st, perSource*100)
	}
}

func TestKnownLoginsAreBounded(t *testing.T) {
	cfg := testConfig()
	cfg.Known.Total = 100
	tr := New(cfg)
	ok := func(at float64, user, addr string) { tr.Observe(line{at, "ok", user, "", 0}.event("sshd", addr)) }
	known := func(addr string) (users []string) {
		for _, l := range tr.Explain(netip.MustParseAddr(addr), start).Known {
			users = append(users, l.User)
		}
		return users
	}
	for i := range 9 {
		ok(float64(i), "alice", fmt.Sprintf("192.0.2.%d", i+1))
	}
	if known("192.0.2.1") != nil || known("192.0.2.2") == nil {
		t.Error("of nine addresses of one user, not the oldest went")
	}
	ok(20, "alice", "192.0.2.2") // seen again
	for i := range 99 {
		ok(30+float64(i), fmt.Sprintf("user%02d", i), "198.51.100.1")
	}
	if known("192.0.2.2") == nil || known("192.0.2.3") != nil {
		t.Error("of more than 100 logins, not the oldest went")
	}
	if st := tr.Stats(); st.Logins != 100 {
		t.Errorf("%d logins, want 100", st.Logins)
	}
	if users := known("198.51.100.1"); len(users) != 99 || users[0] != "user00" {
		t.Errorf("known at the office: %d, first %q", len(users), users[:1])
	}
	if n := tr.KnownWithin(netip.MustParsePrefix("198.51.100.0/24")); n != 99 {
		t.Errorf("%d logins within the network, want 99", n)
	}
	tr.Observe(line{31 * 24 * 3600, "fail", "root", "", 0}.event("sshd", "203.0.113.1"))
	if st := tr.Stats(); st.Logins != 0 || tr.logins.Within(netkey.OfPrefix(netip.MustParsePrefix("198.51.100.0/24"))) != 0 {
		t.Errorf("a month later: %+v", st)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	cfg := testConfig()
	cfg.MaxHistory = 10
	tr := New(cfg)
	for i := range 25 {
		at := start.Add(time.Duration(i) * time.Hour)
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 3)}), 32)
		tr.Banned(ban.Ban{Key: ban.Key{Prefix: p}, Rule: "sshd", ID: fmt.Sprint(i), Start: at, Until: at.Add(time.Minute)})
	}
	total := 0
	for i := range 3 {
		h := tr.Explain(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), start.Add(25*time.Hour)).History
		total += len(h)
		if len(h) > 1 && !h[0].Start.Before(h[1].Start) {
			t.Errorf("not oldest first: %v", h)
		}
	}
	if total != 10 {
		t.Errorf("%d bans are remembered, want 10", total)
	}
}

func TestExplain(t *testing.T) {
	tr := New(testConfig())
	for _, l := range []line{{0, "ok", "alice", "", 0}, {1, "fail", "root", "", 0}, {2, "fail", "admin", "", 0}, {3, "fail", "alice", "", 0}} {
		tr.Observe(l.event("sshd", "192.0.2.7"))
	}
	tr.Observe(line{4, "probe", "", "", 0}.event("dovecot", "192.0.2.7"))
	before := tr.Explain(netip.MustParseAddr("192.0.2.7"), start.Add(5*time.Second))
	if !before.Tracked || before.Score != 23 || before.ScoreLimit != 200 || len(before.Rules) != 1 ||
		before.Rules[0].Attempts != 2 || before.Rules[0].Limit != 12 || len(before.Known) != 1 {
		t.Errorf("account %+v", before)
	}
	// Of 23 points, two failures made 20 and the probe the rest; the first ones are some seconds old. The known user's is forgiven.
	if r := before.Rules[0]; r.Points > 20 || r.Points < 19.9 {
		t.Errorf("attempts are worth %v points, want a little less than 20", r.Points)
	}
	if got, want := strings.Join(before.Evidence, "; "), "fail of root at 1s; fail of admin at 2s; fail of alice at 3s; probe of  at 4s"; got != want {
		t.Errorf("evidence %q, want %q", got, want)
	}
	if later := tr.Explain(netip.MustParseAddr("192.0.2.7"), start.Add(90*24*time.Hour)); later.Score != 0 || len(later.Rules) != 0 || len(later.Known) != 0 {
		t.Errorf("three months later %+v", later)
	}
	after := tr.Explain(netip.MustParseAddr("192.0.2.7"), start.Add(5*time.Second))
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("looking ahead changed the account:\n%+v\n%+v", before, after)
	}
	if a := tr.Explain(netip.MustParseAddr("192.0.2.8"), start); a.Tracked || a.Source.String() != "192.0.2.8/32" {
		t.Errorf("an address never seen: %+v", a)
	}
}

// How many networks around an address are banned counts its own only if it is.
func TestExplainCountsBansAround(t *testing.T) {
	tr := New(testConfig())
	tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("2001:db8:7:1::/64")}, Start: start, Until: start.Add(time.Hour), ID: "x", Rule: "sshd"})
	for addr, want := range map[string]int{"2001:db8:7:1::7": 1, "2001:db8:7:2::7": 1, "2001:db8:9::7": 0, "fe80::7": 0} {
		if wider := tr.Explain(netip.MustParseAddr(addr), start).Wider; len(wider) == 0 || wider[0].Banned != want {
			t.Errorf("%s: around it %+v are banned, want %d", addr, wider, want)
		}
	}
}

func TestConfigure(t *testing.T) {
	tr := New(testConfig())
	tr.Observe(line{0, "fail", "a", "", 2}.event("sshd", "192.0.2.7"))
	tr.Observe(line{0, "fail", "a", "", 2}.event("dovecot", "192.0.2.7"))
	cfg := testConfig()
	cfg.Rules = []event.Rule{cfg.Rules[2]} // sshd alone, first now
	cfg.Rules[0].MaxRetry = 3
	tr.Configure(cfg)
	tally := tr.Observe(line{1, "fail", "b", "", 0}.event("sshd", "192.0.2.7"))
	if tally.Attempts != 3 || !tally.RuleReached() {
		t.Errorf("after the reload %d attempts of %d", tally.Attempts, tally.Limit)
	}
	if n := tr.Stats().Attempts; n != 2 {
		t.Errorf("%d records of attempts kept, want the 2 of sshd", n)
	}
}

// Guesses at once: PAM tells of each before sshd does, and one more line makes the ban. What sshd says of the same sessions then
// is nothing new, whether it had spoken of them or not.
func TestLinesOfAnsweredGuessesCountNoMore(t *testing.T) {
	const from = "192.0.2.7"
	tr := New(testConfig())
	for i := range 5 {
		tr.Observe(line{float64(i) / 10, "echo", "root", fmt.Sprint(i), 0}.event("sshd", from))
	}
	tr.Observe(line{0.5, "fail", "root", "0", 0}.event("sshd", from))
	tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix(from + "/32"), Ports: "22"}, Rule: "sshd",
		Start: start, Until: start.Add(10 * time.Minute)})
	for i, kind := range []string{"echo", "fail", "echo", "fail", "echo"} {
		if tally := tr.Observe(line{1 + float64(i)/10, kind, "root", fmt.Sprint(i), 0}.event("sshd", from)); tally.Added != 0 || event.Points(tally.Score) != 50 {
			t.Errorf("%s of guess %d that was answered: added %v, score %v; want 0 and 50", kind, i, tally.Added, tally.Score)
		}
	}
	if tally := tr.Observe(line{2, "fail", "root", "new", 0}.event("sshd", from)); tally.Added != 1 || tally.Attempts != 1 {
		t.Errorf("another guess: added %v, attempts %v; want 1 and 1", tally.Added, tally.Attempts)
	}
}

// Whoever goes on where a ban does not keep him out, behind a proxy say, costs no more than anybody else.
func TestBannedSourceStaysSmall(t *testing.T) {
	tr := New(testConfig())
	at := 0.0
	fail := func() {
		tr.Observe(line{at, "fail", "root", fmt.Sprint(at), 0}.event("sshd", "192.0.2.7"))
		at += 0.001
	}
	fail()
	tr.Banned(ban.Ban{
		Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Class: ban.Verified}, ID: "a", Rule: "sshd",
		Start: start, Until: start.Add(time.Hour),
	})
	for range 10_000 {
		fail()
	}
	if n := tr.attempts.Len(); n > maxAnswered+1 {
		t.Errorf("%d attempts are kept of a source that is banned, want at most %d", n, maxAnswered+1)
	}
}

// Attempts of sources that do not come again are dropped when they are too old to matter, and no others.
func TestAttemptsOfAnOldAttackAreDropped(t *testing.T) {
	const sources = 2*tidied + 100
	tr := New(testConfig())
	for range 5 {
		for i := range sources {
			ev := line{0, "fail", "root", "", 0}.event("sshd", "192.0.2.7")
			ev.Addr = address(i)
			tr.Observe(ev)
		}
	}
	for i := range sources - 1 {
		tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(address(i), 32), Class: ban.Verified}, ID: fmt.Sprint(i), Rule: "sshd",
			Start: start, Until: start.Add(time.Hour)})
	}
	tidy := func(after time.Duration) int {
		tr.Observe(line{after.Seconds(), "ok", "a", "", 0}.event("sshd", "192.0.2.7")) // so that the time moves on
		for range 3 {
			tr.Changes()
		}
		return tr.attempts.Len()
	}
	if n := tidy(sessionIdle); n != 5*sources {
		t.Errorf("%d attempts while all may matter, want %d", n, 5*sources)
	}
	if n := tidy(sessionIdle + time.Second); n != 5 {
		t.Errorf("%d attempts after those that a ban answered are too old, want the 5 of the source that is not banned", n)
	}
	if n := tidy(10*time.Minute + time.Second); n != 0 {
		t.Errorf("%d attempts after all are too old, want 0", n)
	}
}

// There are very many sources and attempts: a field more or in another order can cost megabytes.
func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(source{}); n > 104 {
		t.Errorf("a source takes %d bytes, want at most 104", n)
	}
	if n := unsafe.Sizeof(attempt{}); n > 24 {
		t.Errorf("an attempt takes %d bytes, want at most 24", n)
	}
}
