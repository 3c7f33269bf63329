package decide_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/decide"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/prefixset"
	"mef/internal/track"
)

// A world is a tracker with decisions, and events told in the order in which they happen.
type world struct {
	t       *testing.T
	tracker *track.Tracker
	cfg     decide.Config
	facts   exempt.Facts
	now     time.Time
	lines   uint64
	tally   event.Tally // the latest
	made    []ban.Ban
	banned  func(ban.Ban)
}

func rules() []event.Rule {
	rule := func(name string, ports ban.Ports) event.Rule {
		return event.Rule{Name: name, Service: name, MaxRetry: 5, FindTime: 10 * time.Minute, Ports: ports}
	}
	web := rule("web", "")
	web.Detect = true
	dovecot, sshd := rule("dovecot", ""), rule("sshd", "")
	dovecot.ServicePorts, sshd.ServicePorts = "25,110,143,465,587,993,995,4190", "22"
	return []event.Rule{dovecot, sshd, rule("vsftpd", "21"), web, rule("dns", "")}
}

// trackConfig leaves out what is against slow and distributed attacks: stories of other matters would end too soon.
func trackConfig() track.Config {
	return track.Config{
		Rules:   rules(),
		Score:   conf.Score{Failure: 10, Probe: 3, Unverified: 2, HalfLife: time.Hour, Ban: 100, AfterBan: 75},
		Known:   conf.Known{TTL: 30 * 24 * time.Hour, PerUser: 8, Total: 20000, SharedMin: 3, Burst: 15, Retries: 300, Limits: true},
		History: 30 * 24 * time.Hour,
	}
}

func newWorld(t *testing.T) *world {
	return &world{
		t:       t,
		tracker: track.New(trackConfig()),
		cfg: decide.Config{Times: conf.BanTimes{
			First: 10 * time.Minute, Growth: 4, Cap: 7 * 24 * time.Hour, History: 30 * 24 * time.Hour,
		}},
		now:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		banned: func(ban.Ban) {},
	}
}

// defended is trackConfig with that.
func defended() track.Config {
	cfg := trackConfig()
	cfg.Score.Days, cfg.Score.Sprays = 3, true
	return cfg
}

// defend begins again with everything on.
func (w *world) defend() { w.tracker = track.New(defended()) }

func (w *world) wait(d time.Duration) { w.now = w.now.Add(d) }

// tell decides about one more line.
func (w *world) tell(ev event.Event) decide.Decision {
	w.lines++
	ev.Time = w.now
	ev.Service = ev.Rule
	ev.Count = max(1, ev.Count)
	ev.Position = event.Position{Stream: "log", Offset: w.lines}
	ev.Line = fmt.Sprintf("line %d", w.lines)
	return w.decide(&ev)
}

func (w *world) decide(ev *event.Event) decide.Decision {
	w.tally = *w.tracker.Observe(ev)
	d := decide.Decide(&w.tally, w.cfg, &w.facts, w.now)
	switch d.Verdict {
	case decide.Ban:
		w.tracker.Banned(d.Ban)
		w.made = append(w.made, d.Ban)
		w.banned(d.Ban)
	case decide.Observe, decide.Detect, decide.Refused:
		w.tracker.Detected(d.Ban)
	}
	return d
}

func failure(rule, addr, user string) event.Event {
	return event.Event{Rule: rule, Addr: netip.MustParseAddr(addr), User: user, Kind: event.Failure, Verified: true}
}

func (w *world) fail(rule, addr, user string) decide.Decision {
	return w.tell(failure(rule, addr, user))
}

func (w *world) succeed(rule, addr, user string) {
	w.t.Helper()
	ev := failure(rule, addr, user)
	ev.Kind = event.Success
	if d := w.tell(ev); d.Verdict != decide.None {
		w.t.Errorf("a success of %s from %s: %s (%s)", user, addr, d.Verdict, d.Reason)
	}
}

// guess fails n times with different names, a second apart, and returns the last decision. None before may ban.
func (w *world) guess(n int, rule, addr string) (d decide.Decision) {
	w.t.Helper()
	for i := range n {
		w.wait(time.Second)
		d = w.fail(rule, addr, fmt.Sprintf("name%d", w.lines))
		if i+1 < n && d.Verdict != decide.None && d.Verdict != decide.Covered {
			w.t.Fatalf("guess %d of %d from %s: %s (%s)", i+1, n, addr, d.Verdict, d.Reason)
		}
	}
	return d
}

// guessFrom is guess from two addresses of a network of 64 bits in turn.
func (w *world) guessFrom(n int, rule, network string) (d decide.Decision) {
	w.t.Helper()
	for i := range n {
		if d = w.guess(1, rule, fmt.Sprintf("%s::%d", network, 1+i%2)); i+1 < n && d.Verdict != decide.None && d.Verdict != decide.Covered {
			w.t.Fatalf("guess %d of %d from %s: %s (%s)", i+1, n, network, d.Verdict, d.Reason)
		}
	}
	return d
}

// wantBan fails the test unless d bans exactly this: prefix, ports and class as ban.Key prints them, and for how long.
func (w *world) wantBan(d decide.Decision, key string, length time.Duration) {
	w.t.Helper()
	if d.Verdict != decide.Ban {
		w.t.Fatalf("verdict %q (%s), want a ban of %s", d.Verdict, d.Reason, key)
	}
	if got := d.Ban.Key.String(); got != key {
		w.t.Errorf("banned %s, want %s (%s)", got, key, d.Reason)
	}
	if got := d.Ban.Until.Sub(d.Ban.Start); got != length {
		w.t.Errorf("banned for %s, want %s (%s)", got, length, d.Reason)
	}
}

func (w *world) wantNone(d decide.Decision) {
	w.t.Helper()
	if d.Verdict != decide.None {
		w.t.Errorf("verdict %q (%s), want none", d.Verdict, d.Reason)
	}
}

func (w *world) wantReason(d decide.Decision, want string) {
	w.t.Helper()
	if d.Reason != want {
		w.t.Errorf("reason\n\t%s\nwant\n\t%s", d.Reason, want)
	}
}

const attacker = "203.0.113.5"

func TestFiveFailures(t *testing.T) {
	w := newWorld(t)
	d := w.guess(5, "sshd", attacker)
	w.wantBan(d, attacker, 10*time.Minute)
	w.wantReason(d, "5 failures in 4s (limit 5 in 10m); first ban in 30d: 10m")
	if d.Ban.Rule != "sshd" || d.Ban.Service != "sshd" || d.Ban.Class != ban.Verified || d.Ban.Count != 1 {
		t.Errorf("ban %+v", d.Ban)
	}
	if got := strings.Join(d.Ban.Evidence, "; "); got != "line 1; line 2; line 3; line 4; line 5" {
		t.Errorf("evidence %q", got)
	}
}

func TestComingBack(t *testing.T) {
	w := newWorld(t)
	for i, want := range []time.Duration{10 * time.Minute, 40 * time.Minute, 160 * time.Minute, 640 * time.Minute,
		2560 * time.Minute, 7 * 24 * time.Hour, 7 * 24 * time.Hour} {
		d := w.guess(5, "sshd", attacker)
		w.wantBan(d, attacker, want)
		if d.Ban.Count != i+1 {
			t.Errorf("ban %d counts as %d", i+1, d.Ban.Count)
		}
		switch i {
		case 1:
			w.wantReason(d, "5 failures in 4s (limit 5 in 10m); second ban in 30d: 10m × 4 = 40m")
		case 5:
			w.wantReason(d, "5 failures in 4s (limit 5 in 10m); sixth ban in 30d: 10m × 1024, at most 7d")
		}
		w.wait(want + 5*time.Hour) // the score fades meanwhile
	}
	w.wait(31 * 24 * time.Hour)
	w.wantBan(w.guess(5, "sshd", attacker), attacker, 10*time.Minute)
}

func TestLinesUnderWay(t *testing.T) {
	w := newWorld(t)
	w.wantBan(w.guess(5, "sshd", attacker), attacker, 10*time.Minute)
	for range 15 {
		w.wait(time.Second)
		if d := w.fail("sshd", attacker, "root"); d.Verdict == decide.Ban {
			t.Errorf("lines written before the ban took hold ban again: %s", d.Reason)
		}
	}
	w.wait(10*time.Hour + time.Minute)
	w.wantBan(w.guess(5, "sshd", attacker), attacker, 40*time.Minute)
}

func TestMistypedTwice(t *testing.T) {
	w := newWorld(t)
	ssh := func(session string, echo bool) decide.Decision {
		ev := failure("sshd", attacker, "alice")
		ev.Session, ev.Echo = session, echo
		return w.tell(ev)
	}
	for range 2 { // a PAM line, then sshd's own
		w.wait(3 * time.Second)
		w.wantNone(ssh("4711", true))
		w.wantNone(ssh("4711", false))
	}
	w.wantNone(ssh("4711", true)) // connection closed by authenticating user
	if w.tally.Attempts != 2 || event.Points(w.tally.Score) != 20 {
		t.Errorf("counted %d attempts and %.1f points, want 2 and 20", w.tally.Attempts, w.tally.Score)
	}
	w.succeed("sshd", attacker, "alice")
	if w.tally.Attempts != 0 || event.Points(w.tally.Score) != 0 || !w.tally.Known {
		t.Errorf("after the login: %d attempts, %.1f points, known %t", w.tally.Attempts, w.tally.Score, w.tally.Known)
	}
}

func TestAcrossServices(t *testing.T) {
	w := newWorld(t)
	w.wantNone(w.guess(4, "sshd", attacker))
	w.wantNone(w.guess(4, "dovecot", attacker))
	d := w.guess(2, "vsftpd", attacker)
	w.wantBan(d, attacker, 10*time.Minute)
	if d.Ban.Rule != ban.ByScore {
		t.Errorf("banned by %s, want %s", d.Ban.Rule, ban.ByScore)
	}
	w.wantReason(d, "score 100 (limit 100): attempts at dovecot 4, sshd 4, vsftpd 2; first ban in 30d: 10m")
}

func TestPorts(t *testing.T) {
	w := newWorld(t)
	w.wantBan(w.guess(5, "vsftpd", attacker), attacker+" ports 21", 10*time.Minute)
	w.wantBan(w.guess(5, "sshd", attacker), attacker, 10*time.Minute) // other ports are open to it still
	if d := w.guess(2, "vsftpd", attacker); d.Verdict != decide.Covered {
		t.Errorf("verdict %q (%s), want covered", d.Verdict, d.Reason)
	}
}

func TestScorePreferredToPorts(t *testing.T) {
	w := newWorld(t)
	w.guess(3, "sshd", attacker)
	w.guess(3, "dovecot", attacker)
	d := w.guess(4, "vsftpd", attacker)
	w.wantBan(d, attacker, 10*time.Minute)
}

func TestHoppingThroughANetwork(t *testing.T) {
	w := newWorld(t)
	var d decide.Decision
	for i := range 5 {
		w.wait(time.Second)
		d = w.fail("sshd", fmt.Sprintf("2001:db8:1:2::%x", i+1), "root")
	}
	w.wantBan(d, "2001:db8:1:2::/64", 10*time.Minute)
}

func TestOnLinkNeighbours(t *testing.T) {
	w := newWorld(t)
	link := prefixset.New(netip.MustParsePrefix("2001:db8:1:2::/64"))
	w.facts.OnLink = link
	w.tracker.SetOnLink(link)
	w.wantNone(w.guess(4, "sshd", "2001:db8:1:2::1"))
	w.wantNone(w.guess(4, "sshd", "2001:db8:1:2::2"))
	w.wantBan(w.guess(1, "sshd", "2001:db8:1:2::2"), "2001:db8:1:2::2", 10*time.Minute)
}

func TestWidening(t *testing.T) {
	w := newWorld(t)
	banNetwork := func(third string) decide.Decision {
		w.wait(time.Second)
		return w.guessFrom(5, "sshd", "2001:db8:77:"+third)
	}
	w.wantBan(banNetwork("100"), "2001:db8:77:100::/64", 10*time.Minute)
	w.wantBan(banNetwork("101"), "2001:db8:77:101::/64", 10*time.Minute)
	d := banNetwork("102")
	w.wantBan(d, "2001:db8:77:100::/56", 10*time.Minute)
	w.wantReason(d, "5 failures in 4s (limit 5 in 10m); all of 2001:db8:77:100::/56, because 3 networks in it are banned; first ban in 30d: 10m")
	for _, third := range []string{"200", "201", "202", "300", "301"} {
		banNetwork(third)
	}
	w.wantBan(banNetwork("302"), "2001:db8:77::/48", 10*time.Minute)
	if d := banNetwork("400"); d.Verdict != decide.None {
		t.Errorf("inside the banned /48: %q (%s)", d.Verdict, d.Reason)
	}
}

// A network is banned whole for as long as its parts are banned, one by one: not because they once were, or were by mistake.
func TestWideningAndBack(t *testing.T) {
	const whole = "2001:db8:77:100::/56"
	banNetwork := func(w *world, n int) string {
		d := w.guessFrom(5, "sshd", fmt.Sprintf("2001:db8:77:%x", n))
		if d.Verdict != decide.Ban {
			w.t.Fatalf("network %x: verdict %q (%s), want a ban", n, d.Verdict, d.Reason)
		}
		return d.Ban.Key.String()
	}
	for name, tt := range map[string]struct {
		back func(w *world) // after networks 100 and 101 were banned
		next []string       // what is banned for networks 102 and on
	}{
		"banned":        {func(*world) {}, []string{whole}},
		"over":          {func(w *world) { w.wait(11 * time.Minute) }, []string{"2001:db8:77:102::/64", "2001:db8:77:103::/64", whole}},
		"one is over":   {func(w *world) { w.wait(6 * time.Minute) }, []string{"2001:db8:77:102::/64", whole}},
		"lifted":        {func(w *world) { w.lift("2001:db8:77:100::/64"); w.lift("2001:db8:77:101::/64") }, []string{"2001:db8:77:102::/64", "2001:db8:77:103::/64", whole}},
		"one is lifted": {func(w *world) { w.lift("2001:db8:77:101::/64") }, []string{"2001:db8:77:102::/64", whole}},
		"did not hold":  {func(w *world) { w.tracker.Ended(key("2001:db8:77:100::/64"), w.now) }, []string{"2001:db8:77:102::/64", whole}},
		"restarted":     {func(w *world) { w.restart() }, []string{whole}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			banNetwork(w, 0x100)
			w.wait(5 * time.Minute)
			banNetwork(w, 0x101)
			tt.back(w)
			for i, want := range tt.next {
				if got := banNetwork(w, 0x102+i); got != want {
					t.Errorf("for network %x %s is banned, want %s", 0x102+i, got, want)
				}
			}
		})
	}
	t.Run("the whole is over, or lifted", func(t *testing.T) {
		for _, end := range []func(*world){
			func(w *world) { w.wait(11 * time.Minute) },
			func(w *world) {
				for n := range 2 {
					w.lift(fmt.Sprintf("2001:db8:77:%x::/64", 0x100+n))
				}
				w.lift(whole)
			},
		} {
			w := newWorld(t)
			for n := range 3 {
				banNetwork(w, 0x100+n)
			}
			end(w)
			if got := banNetwork(w, 0x109); got != "2001:db8:77:109::/64" {
				t.Errorf("after that %s is banned, want the network alone", got)
			}
		}
	})
}

func key(prefix string) ban.Key { return ban.Key{Prefix: netip.MustParsePrefix(prefix)} }

// lift takes a ban back, as an operator does.
func (w *world) lift(prefix string) { w.tracker.Unbanned(key(prefix), w.now) }

// restart begins with what was stored, and the bans that are in force.
func (w *world) restart() {
	w.t.Helper()
	before := w.tracker
	w.tracker = track.New(trackConfig())
	if err := w.tracker.Import(stored(before)); err != nil {
		w.t.Fatal(err)
	}
	for _, b := range w.made {
		if b.Until.After(w.now) {
			w.tracker.Restore(b)
		}
	}
}

func TestScatteredOverANetwork(t *testing.T) {
	w := newWorld(t)
	var d decide.Decision
	for i := range 12 {
		d = w.guess(5, "sshd", fmt.Sprintf("2001:db8:77:%x00::1", i+1))
	}
	w.wantBan(d, "2001:db8:77::/48", 10*time.Minute)
}

func TestWideningStopsAtBystanders(t *testing.T) {
	inside := prefixset.New(netip.MustParsePrefix("2001:db8:77:1ff::9/128"))
	for name, facts := range map[string]exempt.Facts{
		"own":      {Own: inside},
		"gateway":  {Gateways: inside},
		"resolver": {Resolvers: inside},
		"dhcp":     {Servers: inside},
		"allowed":  {Allowed: inside},
		"proxy":    {Proxies: inside},
		"session":  {Sessions: inside},
		"link":     {OnLink: inside},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.facts = facts
			for third := 0x100; third < 0x110; third++ {
				w.wantBan(w.guessFrom(5, "sshd", fmt.Sprintf("2001:db8:77:%x", third)),
					fmt.Sprintf("2001:db8:77:%x::/64", third), 10*time.Minute)
			}
			w.wantBan(w.guess(5, "sshd", "2001:db8:77:1ff::1"), "2001:db8:77:1ff::1", 10*time.Minute)
		})
	}
	t.Run("known logins are left out", func(t *testing.T) {
		const home = "2001:db8:77:1ff::1"
		w := newWorld(t)
		w.succeed("dovecot", home, "alice")
		for third := 0x100; third < 0x102; third++ {
			w.guessFrom(5, "sshd", fmt.Sprintf("2001:db8:77:%x", third))
		}
		d := w.guessFrom(5, "sshd", "2001:db8:77:102")
		w.wantBan(d, "2001:db8:77:100::/56", 10*time.Minute)
		if got := fmt.Sprint(d.Ban.Except); got != "["+home+"]" {
			t.Errorf("all but %s are banned, want all except %s", got, home)
		}
		if d := w.guess(4, "sshd", home); d.Verdict != decide.None {
			t.Errorf("a few failures from there: %q (%s)", d.Verdict, d.Reason)
		}
	})
	t.Run("a known address that attacks", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("dovecot", "2001:db8:77:1ff::1", "alice")
		w.wantBan(w.guess(12, "sshd", "2001:db8:77:1ff::1"), "2001:db8:77:1ff::1", 10*time.Minute)
		w.wait(9 * time.Hour)
		w.wantNone(w.guess(11, "sshd", "2001:db8:77:1ff::2"))
		d := w.guess(1, "sshd", "2001:db8:77:1ff::2")
		w.wantBan(d, "2001:db8:77:1ff::/64", 40*time.Minute)
	})
}

// The first address of a network is banned alone; a second one that attacks shows that the attacker has the network.
func TestAddressFirst(t *testing.T) {
	w := newWorld(t)
	d := w.guess(5, "sshd", "2001:db8:77:1::1")
	w.wantBan(d, "2001:db8:77:1::1", 10*time.Minute)
	d = w.guess(5, "sshd", "2001:db8:77:1::2")
	w.wantBan(d, "2001:db8:77:1::/64", 10*time.Minute)
	w.wantReason(d, "5 failures in 4s (limit 5 in 10m); all of 2001:db8:77:1::/64, because several of its addresses attacked; first ban in 30d: 10m")
}

// Behind a translator every address is somebody else.
func TestTranslatedIPv4(t *testing.T) {
	w := newWorld(t)
	for i := range 4 {
		w.wantNone(w.guess(4, "sshd", fmt.Sprintf("64:ff9b::c000:20%x", i)))
	}
	w.wantBan(w.guess(1, "sshd", "64:ff9b::c000:200"), "64:ff9b::c000:200", 10*time.Minute)
	w.wantBan(w.guess(1, "sshd", "64:ff9b::c000:201"), "64:ff9b::c000:201", 10*time.Minute)
}

// A ban narrowed to one address is remembered for its network: hopping on is no fresh start.
func TestNarrowedHistory(t *testing.T) {
	w := newWorld(t)
	w.facts.Allowed = prefixset.New(netip.MustParsePrefix("2001:db8:1:2::9/128"))
	w.wantBan(w.guess(5, "sshd", "2001:db8:1:2::1"), "2001:db8:1:2::1", 10*time.Minute)
	w.wait(8 * time.Hour)
	w.wantBan(w.guess(5, "sshd", "2001:db8:1:2::2"), "2001:db8:1:2::2", 40*time.Minute)
}

func TestNeverBanned(t *testing.T) {
	set := func(p string) prefixset.Set { return prefixset.New(netip.MustParsePrefix(p)) }
	for name, tt := range map[string]struct {
		facts exempt.Facts
		addr  string
		why   string
	}{
		"loopback":    {addr: "127.0.0.9", why: "loopback"},
		"loopback v6": {addr: "::1", why: "loopback"},
		"link-local":  {addr: "fe80::1", why: "link-local"},
		"multicast":   {addr: "224.0.0.1", why: "multicast"},
		"unspecified": {addr: "::", why: "unspecified"},
		"own":         {exempt.Facts{Own: set("192.0.2.1/32")}, "192.0.2.1", "this host's own address"},
		"gateway":     {exempt.Facts{Gateways: set("192.0.2.1/32")}, "192.0.2.1", "a gateway of this host"},
		"resolver":    {exempt.Facts{Resolvers: set("192.0.2.1/32")}, "192.0.2.1", "a resolver of this host"},
		"allowed":     {exempt.Facts{Allowed: set("192.0.2.0/24")}, "192.0.2.77", "an entry of the allow list"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.facts = tt.facts
			for round := range 3 {
				d := w.guess(5, "sshd", tt.addr)
				if d.Verdict != decide.Refused || !strings.Contains(d.Reason, "never banned: "+tt.why) {
					t.Fatalf("round %d: verdict %q, reason %q", round, d.Verdict, d.Reason)
				}
				w.wait(5 * time.Hour)
			}
		})
	}
}

func TestAdministratorsSession(t *testing.T) {
	w := newWorld(t)
	w.facts.Sessions = prefixset.New(netip.MustParsePrefix(attacker + "/32"))
	w.wantBan(w.guess(5, "sshd", attacker), attacker+" ports 1-21,23-65535", 10*time.Minute)

	w = newWorld(t)
	w.facts.Sessions = prefixset.New(netip.MustParsePrefix(attacker + "/32"))
	w.facts.SSHPorts = "20-22"
	if d := w.guess(5, "vsftpd", attacker); d.Verdict != decide.Refused {
		t.Errorf("verdict %q (%s), want refused", d.Verdict, d.Reason)
	}
}

// Proxies and content delivery networks are behind web ports alone.
func TestWebPortsStayOpen(t *testing.T) {
	for name, tt := range map[string]struct {
		facts exempt.Facts
		addr  string
	}{
		"proxy": {exempt.Facts{Proxies: prefixset.New(netip.MustParsePrefix("192.0.2.0/24"))}, "192.0.2.77"},
		"CDN":   {exempt.Facts{CDNs: exempt.CDNs()}, "104.16.0.9"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.facts = tt.facts
			w.wantBan(w.guess(5, "sshd", tt.addr), tt.addr+" ports 1-79,81-442,444-65535", 10*time.Minute)
			w.wait(8 * time.Hour)
			w.wantBan(w.guess(5, "vsftpd", tt.addr), tt.addr+" ports 21", 40*time.Minute)
			cfg := trackConfig()
			cfg.Rules[1].Ports = "80,443"
			w.tracker.Configure(cfg)
			w.wait(8 * time.Hour)
			if d := w.guess(5, "sshd", tt.addr); d.Verdict != decide.Refused || !strings.Contains(d.Reason, "web ports stay open to "+tt.addr) {
				t.Errorf("verdict %q (%s), want refused", d.Verdict, d.Reason)
			}
			// Nor are the other ports at which the web server listens.
			cfg.Rules[1].ServicePorts, cfg.Rules[1].PortsAuto = "80,443", true
			cfg.Rules[1] = cfg.Rules[1].Listening("80,8443")
			w.tracker.Configure(cfg)
			w.wait(8 * time.Hour)
			if d := w.guess(5, "sshd", tt.addr); d.Verdict != decide.Refused || !strings.Contains(d.Reason, "web ports stay open to "+tt.addr) {
				t.Errorf("verdict %q (%s), want refused", d.Verdict, d.Reason)
			}
		})
	}
}

func TestKnownLogin(t *testing.T) {
	const home = "198.51.100.7"
	t.Run("a forgotten device", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("dovecot", home, "alice")
		for range 3 * 24 * 12 { // every five minutes for three days
			w.wait(5 * time.Minute)
			w.wantNone(w.fail("dovecot", home, "alice"))
		}
		if w.tally.Attempts != 0 || w.tally.Score > 20 {
			t.Errorf("counted %d attempts and %.1f points", w.tally.Attempts, w.tally.Score)
		}
	})
	t.Run("a forgotten password", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("sshd", home, "alice")
		for range 15 {
			w.wait(10 * time.Second)
			w.wantNone(w.fail("sshd", home, "alice"))
		}
		w.succeed("sshd", home, "alice")
	})
	t.Run("a guesser behind the same address", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("sshd", home, "alice")
		for n := 1; ; n++ {
			w.wait(time.Second)
			if d := w.fail("sshd", home, "alice"); d.Verdict == decide.Ban {
				if n > 20 {
					t.Errorf("banned after %d guesses of alice's password", n)
				}
				break
			}
		}
	})
	t.Run("a device that never rests, for its own service only", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("dovecot", home, "alice")
		for range 24 * 60 {
			w.wait(time.Minute)
			if d := w.fail("dovecot", home, "alice"); d.Verdict == decide.Ban && d.Ban.Ports == "" {
				t.Fatalf("banned %s: %s", d.Ban.Key, d.Reason)
			}
		}
	})
	t.Run("is known at one service", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("dovecot", home, "alice")
		w.fail("sshd", home, "alice")
		if w.tally.Known {
			t.Error("a login at dovecot made the user known at sshd")
		}
	})
	t.Run("excuses no other names", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("sshd", home, "alice")
		w.guess(11, "sshd", home)
		w.succeed("sshd", home, "alice")
		w.wantBan(w.fail("sshd", home, "root"), home, 10*time.Minute)
	})
	t.Run("other names in turn with own logins", func(t *testing.T) {
		w := newWorld(t)
		for i := range 20 {
			w.wait(time.Second)
			w.succeed("sshd", home, "alice")
			if d := w.fail("sshd", home, fmt.Sprintf("name%d", i)); d.Verdict == decide.Ban {
				return
			}
		}
		t.Error("20 other names between own logins: no ban")
	})
	t.Run("is forgotten after a month", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("sshd", home, "alice")
		w.wait(31 * 24 * time.Hour)
		w.fail("sshd", home, "alice")
		if w.tally.Known || w.tally.KnownUsers != 0 {
			t.Errorf("known %t, %d users", w.tally.Known, w.tally.KnownUsers)
		}
	})
	t.Run("a forged success makes nobody known", func(t *testing.T) {
		w := newWorld(t)
		ev := failure("dns", home, "alice")
		ev.Kind, ev.Verified = event.Success, false
		w.tell(ev)
		w.fail("sshd", home, "alice")
		if w.tally.Known {
			t.Error("known by an unverified success")
		}
	})
	t.Run("a known user is unknown elsewhere", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("sshd", home, "alice")
		w.fail("sshd", attacker, "alice")
		if w.tally.Known {
			t.Error("known from an address of no login")
		}
	})
}

func TestSharedAddress(t *testing.T) {
	const office = "198.51.100.7"
	w := newWorld(t)
	for _, user := range []string{"alice", "bob", "carol"} {
		w.succeed("dovecot", office, user)
	}
	for range 3 { // however often
		d := w.guess(16, "sshd", office)
		w.wantBan(d, office+" ports 22", 10*time.Minute)
		w.wait(8 * time.Hour)
	}
}

// Where many users log in, a name that is guessed is stopped, briefly and at its service only; names that are tried a few times are not.
func TestUserAtASharedAddress(t *testing.T) {
	const office = "198.51.100.7"
	begin := func(t *testing.T) *world {
		w := newWorld(t)
		for i := range 40 {
			w.succeed("sshd", office, fmt.Sprintf("user%02d", i))
		}
		return w
	}
	t.Run("guessed", func(t *testing.T) {
		for _, user := range []string{"user07", "invented"} {
			w := begin(t)
			for n := 1; ; n++ {
				w.wait(2 * time.Second)
				d := w.fail("sshd", office, user)
				if d.Verdict != decide.Ban {
					if n > 20 {
						t.Fatalf("%d guesses of %s: %q (%s)", n, user, d.Verdict, d.Reason)
					}
					continue
				}
				w.wantBan(d, office+" ports 22", 10*time.Minute)
				if want := fmt.Sprintf(`20 failures of user %q in 38s (limit 20 in 10m of one user); 40 users have logged in from here: ports 22 only; a shared address: for 10m`, user); d.Reason != want {
					t.Errorf("reason\n\t%s\nwant\n\t%s", d.Reason, want)
				}
				break
			}
		}
	})
	t.Run("many names, a few times each", func(t *testing.T) {
		w := begin(t)
		for i := range 40 {
			w.wait(5 * time.Second)
			w.wantNone(w.fail("sshd", office, fmt.Sprintf("invented%02d", i/2)))
		}
	})
	t.Run("at another service", func(t *testing.T) {
		w := begin(t)
		for range 15 {
			w.wait(2 * time.Second)
			w.wantNone(w.fail("sshd", office, "user07"))
			w.wantNone(w.fail("dovecot", office, "user07"))
		}
	})
}

// Whoever shares an address with many users and knows their names is found, however slowly a password is tried with each name. The users
// are cut off for minutes at most once an hour, and typing errors and devices are no guesser.
func TestGuesserBehindASharedAddress(t *testing.T) {
	const office, users = "198.51.100.7", 300
	user := func(i int) string { return fmt.Sprintf("user%03d", i%users) }
	begin := func(t *testing.T) *world {
		w := newWorld(t)
		cfg := defended()
		cfg.LoginAlarms = true
		w.tracker = track.New(cfg)
		for i := range users {
			w.succeed("dovecot", office, user(i))
		}
		return w
	}
	attack := func(w *world) string {
		for _, a := range w.tracker.Attacks(w.now) {
			if a.Users > 0 {
				return a.String()
			}
		}
		return ""
	}
	for pace, wantBans := range map[time.Duration]int{time.Second: 6, time.Minute: 0, 5 * time.Minute: 0} {
		t.Run(pace.String(), func(t *testing.T) {
			w := begin(t)
			end := w.now.Add(6 * time.Hour)
			for n := 1; w.now.Before(end); n++ {
				w.wait(pace)
				if d := w.fail("dovecot", office, user(n*7)); d.Verdict == decide.Ban {
					w.wantBan(d, office+" ports 25,110,143,465,587,993,995,4190", 10*time.Minute)
					w.wait(10 * time.Minute)
				}
				if found := attack(w); found == "" && n > 35 {
					t.Fatalf("%d guesses are no attack", n)
				}
			}
			if len(w.made) != wantBans {
				t.Errorf("%d bans in six hours, want %d", len(w.made), wantBans)
			}
			w.wait(time.Minute)
			ev := failure("dovecot", office, user(7))
			ev.Kind = event.Success
			if w.tell(ev); w.tally.Alarm == "" {
				t.Error("a login with a guessed name is no alarm")
			}
			if why := w.tracker.Explain(netip.MustParseAddr(office), w.now); len(why.Attacks) != 1 {
				t.Errorf("why shows %v", why.Attacks)
			}
			w.wait(25 * time.Hour)
			if found := attack(w); found != "" {
				t.Errorf("a day later: %s", found)
			}
		})
	}
	t.Run("nobody guesses", func(t *testing.T) {
		w := begin(t)
		for minute := range 24 * 60 {
			w.wait(time.Minute)
			for device := range 3 { // three at a time of fifteen devices with old passwords
				w.wantNone(w.fail("dovecot", office, user(minute%5*3+device)))
			}
			mistyped := user(20 + minute)
			w.wantNone(w.fail("dovecot", office, mistyped))
			w.wait(5 * time.Second)
			if w.succeed("dovecot", office, mistyped); w.tally.Alarm != "" {
				t.Fatalf("alarm: %s", w.tally.Alarm)
			}
		}
		if found := attack(w); found != "" {
			t.Error(found)
		}
	})
	t.Run("switched off", func(t *testing.T) {
		w := begin(t)
		w.tracker.Configure(trackConfig())
		for n := range users {
			w.wait(time.Minute)
			w.wantNone(w.fail("dovecot", office, user(n)))
		}
		if found := attack(w); found != "" {
			t.Error(found)
		}
	})
}

func TestUnverified(t *testing.T) {
	forge := func(w *world, addr string) decide.Decision {
		ev := failure("dns", addr, "")
		ev.Verified = false
		w.wait(time.Second)
		return w.tell(ev)
	}
	t.Run("bans in a class of its own, never longer", func(t *testing.T) {
		w := newWorld(t)
		for range 3 {
			var d decide.Decision
			for range 5 {
				d = forge(w, attacker)
			}
			w.wantBan(d, attacker, 10*time.Minute)
			if d.Ban.Class != ban.Unverified || d.Ban.Count != 1 {
				t.Errorf("ban %+v", d.Ban)
			}
			w.wait(5 * time.Hour)
		}
		if h := w.tracker.Explain(netip.MustParseAddr(attacker), w.now).History; len(h) != 0 {
			t.Errorf("history %+v, want none", h)
		}
	})
	t.Run("never adds up to a verified ban", func(t *testing.T) {
		w := newWorld(t)
		w.guess(4, "sshd", attacker)
		w.guess(4, "dovecot", attacker)
		for range 200 {
			if d := forge(w, attacker); d.Verdict == decide.Ban && d.Ban.Class != ban.Unverified {
				t.Fatalf("banned %+v", d.Ban)
			}
		}
	})
	t.Run("hides no verified ban", func(t *testing.T) {
		w := newWorld(t)
		for range 200 {
			forge(w, attacker)
		}
		w.wantBan(w.guess(5, "sshd", attacker), attacker, 10*time.Minute)
	})
	t.Run("launders nothing", func(t *testing.T) {
		w := newWorld(t)
		w.guess(4, "sshd", attacker)
		for range 60 { // to be banned for these, and so forgiven for the others
			forge(w, attacker)
		}
		w.wantBan(w.guess(1, "sshd", attacker), attacker, 10*time.Minute)
	})
	t.Run("never keeps out who logs in", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("sshd", attacker, "alice")
		for range 200 {
			d := forge(w, attacker)
			if d.Verdict == decide.Ban {
				t.Fatalf("banned %+v", d.Ban)
			}
			if d.Verdict == decide.Refused && !strings.Contains(d.Reason, "users log in from it") {
				t.Fatalf("refused for %q", d.Reason)
			}
		}
	})
	t.Run("never keeps out who logs in from another address of the network", func(t *testing.T) {
		w := newWorld(t)
		w.succeed("sshd", "2001:db8:77:100::1", "alice")
		for n := range 60 {
			if d := forge(w, fmt.Sprintf("2001:db8:77:100::%x", 2+n%2)); d.Verdict == decide.Ban {
				t.Fatalf("banned %+v", d.Ban)
			}
		}
	})
	t.Run("is never widened", func(t *testing.T) {
		w := newWorld(t)
		for third := range 8 {
			for range 5 {
				if d := forge(w, fmt.Sprintf("2001:db8:77:10%x::1", third)); d.Verdict == decide.Ban && d.Ban.Prefix.Bits() < 64 {
					t.Fatalf("banned %s", d.Ban.Key)
				}
			}
		}
	})
}

// An attacker with very many addresses fills the table with some just below their limits. The others are caught nevertheless:
// thousands of events lie between one's tries, and he is still known.
func TestFullTable(t *testing.T) {
	w := newWorld(t)
	cfg := trackConfig()
	cfg.MaxSources = 10_000
	w.tracker = track.New(cfg)
	address := func(first, n int) string { return fmt.Sprintf("%d.%d.%d.7", first, n>>8, n&255) }
	for n := range cfg.MaxSources {
		for range 2 { // the third would be one too many, for so many at once tighten the limit
			w.fail("sshd", address(20, n), "a")
			w.wait(time.Millisecond)
		}
	}
	if st := w.tracker.Stats(); st.Sources != cfg.MaxSources || st.Evicted > 0 {
		t.Fatalf("stats %+v, want a full table", st)
	}
	const attackers, atOnce = 10_000, 2000
	banned := map[string]bool{}
	w.banned = func(b ban.Ban) { banned[b.Key.String()] = true }
	for first := 0; first < attackers; first += atOnce {
		for try := range 5 {
			for n := first; n < first+atOnce; n++ {
				w.wait(time.Millisecond)
				w.fail("sshd", address(30, n), fmt.Sprint("b", try))
			}
		}
	}
	missed := 0
	for n := range attackers {
		if !banned[address(30, n)] {
			missed++
		}
	}
	if missed > 0 {
		t.Errorf("%d of %d attackers were not banned after 5 tries: %+v", missed, attackers, w.tracker.Stats())
	}
	if st := w.tracker.Stats(); st.Sources > st.MaxSources {
		t.Errorf("stats %+v", st)
	}
}

// A try every quarter of an hour never fills the window, and one name at that pace may be a forgotten device; but a device that has
// not succeeded in days is none.
func TestSlowAttack(t *testing.T) {
	w := newWorld(t)
	cfg := trackConfig()
	cfg.Score.HalfLife = 14 * 24 * time.Hour
	w.tracker = track.New(cfg)
	begin := w.now
	for w.now.Sub(begin) < 7*24*time.Hour {
		w.wait(15 * time.Minute)
		if d := w.fail("sshd", attacker, "root"); d.Verdict == decide.Ban {
			if w.now.Sub(begin) < 24*time.Hour {
				t.Errorf("banned after %s", w.now.Sub(begin))
			}
			return
		}
	}
	t.Errorf("%d tries in a week and no ban; %.1f points", w.lines, w.tally.Score)
}

func TestDistributedAttack(t *testing.T) {
	bot := func(i int) string { return fmt.Sprintf("203.%d.%d.1", i/250, i%250+1) }
	t.Run("on a user name", func(t *testing.T) {
		w := newWorld(t)
		w.defend()
		for i := range 20 {
			w.wait(time.Second)
			w.wantNone(w.fail("sshd", bot(i), "root"))
		}
		d := w.fail("sshd", attacker, "root")
		w.wantBan(d, attacker+" ports 22", 10*time.Minute)
		w.wantReason(d, `1 failure in under 1s (limit 1 in 10m instead of 5, because 21 sources are trying user "root"); ports 22 only; first ban in 30d: 10m`)
	})
	t.Run("on a user name, by very many", func(t *testing.T) {
		w := newWorld(t)
		w.defend()
		for i := range 5000 {
			w.wait(time.Second)
			w.fail("sshd", fmt.Sprintf("%d.%d.7.1", 20+i/200, i%200), "root")
		}
		if n := len(w.made); n < 900 || n > 1000 {
			t.Errorf("%d bans for a single try each of 5000 sources, want about 1000", n)
		}
		w.wantNone(w.fail("sshd", attacker, "root"))
		w.wantBan(w.fail("sshd", attacker, "root"), attacker+" ports 22", 10*time.Minute)
	})
	t.Run("from a network", func(t *testing.T) {
		w := newWorld(t)
		w.defend()
		for i := range 3 {
			w.wait(time.Hour)
			w.wantNone(w.fail("sshd", fmt.Sprintf("203.0.113.%d", 9+i), fmt.Sprintf("name%d", i)))
		}
		w.succeed("sshd", "203.0.113.9", "name0") // this one is no suspect any more, and speaks for others
		for i := range 5 {
			w.wait(time.Hour)
			w.wantNone(w.fail("sshd", fmt.Sprintf("203.0.113.%d", 20+i), "bob"))
		}
		w.wantNone(w.fail("sshd", attacker, "carol"))
		d := w.fail("sshd", attacker, "carol")
		w.wantBan(d, attacker, 10*time.Minute)
		w.wantReason(d, `2 failures in under 1s (limit 1 in 10m instead of 5, because 8 sources of 203.0.113.0/24 are trying); first ban in 30d: 10m`)
		for i := range 8 {
			w.wantNone(w.fail("sshd", fmt.Sprintf("203.0.113.%d", 50+i), fmt.Sprintf("other%d", i)))
		}
		d = w.fail("sshd", "203.0.113.60", "carol")
		w.wantReason(d, `1 failure in under 1s (limit 1 in 10m instead of 5, because 16 sources of 203.0.113.0/24 are trying); first ban in 30d: 10m`)
		w.wantNone(w.fail("sshd", "203.0.114.40", "carol"))
		w.wantNone(w.fail("sshd", "203.0.113.9", "carol"))
	})
	t.Run("on a service", func(t *testing.T) {
		w := newWorld(t)
		w.defend()
		for i := range 100 {
			w.wait(time.Second)
			w.fail("sshd", bot(i), fmt.Sprintf("user%d", i))
		}
		w.wantBan(w.guess(3, "sshd", attacker), attacker, 10*time.Minute)
		w.wantNone(w.guess(4, "dovecot", "203.0.113.9")) // another service keeps its limit
	})
	t.Run("leaves known logins alone", func(t *testing.T) {
		w := newWorld(t)
		w.defend()
		w.succeed("sshd", "198.51.100.7", "alice")
		for i := range 60 {
			w.wait(time.Second)
			w.fail("sshd", bot(i), "alice")
		}
		for range 12 {
			w.wait(2 * time.Minute)
			w.wantNone(w.fail("sshd", "198.51.100.7", "alice"))
		}
	})
	t.Run("what is usual is learnt", func(t *testing.T) {
		w := newWorld(t)
		w.defend()
		limits := map[int]int{}               // by day
		for i := range 4 * 24 * 60 * 60 / 2 { // 300 sources in ten minutes, for four days
			w.wait(2 * time.Second)
			w.fail("sshd", fmt.Sprintf("%d.%d.%d.1", 20+i>>16, i>>8&255, i&255), fmt.Sprintf("user%d", i))
			limits[i*2/(24*60*60)] = w.tally.Limit
		}
		if limits[0] != 3 || limits[3] != 5 {
			t.Errorf("limits at the end of each day %v, want 3 on the first and 5 on the last", limits)
		}
	})
}

func TestDetectOnly(t *testing.T) {
	w := newWorld(t)
	for round := range 4 {
		if d := w.guess(5, "web", attacker); d.Verdict != decide.Detect {
			t.Errorf("round %d: verdict %q (%s), want detect", round, d.Verdict, d.Reason)
		}
	}
	if w.tally.Score != 0 {
		t.Errorf("a rule that never bans added %.1f points", w.tally.Score)
	}
}

func TestObserve(t *testing.T) {
	w := newWorld(t)
	w.cfg.Observe = true
	d := w.guess(5, "sshd", attacker)
	if d.Verdict != decide.Observe || d.Ban.Prefix.String() != attacker+"/32" {
		t.Errorf("verdict %q of %s", d.Verdict, d.Ban.Key)
	}
}

func TestEscalation(t *testing.T) {
	w := newWorld(t)
	cfg := trackConfig()
	cfg.Rules[1].Escalation = event.Escalation{Window: 24 * time.Hour, Threshold: 3}
	w.tracker = track.New(cfg)
	w.wantBan(w.guess(5, "sshd", attacker), attacker, 10*time.Minute)
	w.wait(5 * time.Hour)
	w.wantBan(w.guess(5, "sshd", attacker), attacker, 40*time.Minute)
	w.wait(5 * time.Hour)
	d := w.guess(5, "sshd", attacker)
	if d.Verdict != decide.Ban || !d.Ban.Permanent() {
		t.Fatalf("third ban within a day: %q until %s, want one without end", d.Verdict, d.Ban.Until)
	}
	w.wantReason(d, "5 failures in 4s (limit 5 in 10m); third ban in 1d (limit 3): permanent")
	w.wait(365 * 24 * time.Hour)
	if d := w.guess(5, "sshd", attacker); d.Verdict != decide.None {
		t.Errorf("under a permanent ban: %q", d.Verdict)
	}
}

// After a crash lines are read again; the ban they made is known by the line that decided it.
func TestSameLineTwice(t *testing.T) {
	w := newWorld(t)
	var last event.Event
	for i := range 5 {
		last = failure("sshd", attacker, "root")
		last.Time, last.Count = w.now, 1
		last.Position = event.Position{Stream: "log", Offset: uint64(i)}
		w.decide(&last)
	}
	w.wait(time.Hour)
	again := track.New(trackConfig())
	if err := again.Import(stored(w.tracker)); err != nil {
		t.Fatal(err)
	}
	w.tracker = again
	for i := range 5 {
		last.Position.Offset = uint64(i)
		if d := w.decide(&last); d.Verdict == decide.Ban {
			t.Fatalf("line %d bans again: %s", i, d.Reason)
		} else if i == 4 && d.Verdict != decide.Repeat {
			t.Errorf("the deciding line: verdict %q, want %q", d.Verdict, decide.Repeat)
		}
	}
}

func TestUnbanned(t *testing.T) {
	w := newWorld(t)
	d := w.guess(5, "sshd", attacker)
	w.wait(time.Minute)
	w.tracker.Unbanned(d.Ban.Key, w.now)
	w.wantNone(w.guess(4, "sshd", attacker))
	w.wantBan(w.guess(1, "sshd", attacker), attacker, 10*time.Minute) // the first was a mistake: no repeat
}

func TestLongerBanExtends(t *testing.T) {
	w := newWorld(t)
	cfg := trackConfig()
	cfg.Rules[0].BanTime = 24 * time.Hour
	w.tracker = track.New(cfg)
	w.wantBan(w.guess(5, "vsftpd", attacker), attacker+" ports 21", 10*time.Minute)
	w.wantBan(w.guess(5, "dovecot", attacker), attacker, 24*time.Hour)
	w.wait(30 * time.Hour)
	d := w.guess(5, "sshd", attacker)
	w.wantBan(d, attacker, 40*time.Minute) // both were one visit
}
