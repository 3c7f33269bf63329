package engine_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/prefixset"
)

// A listening is an engine that asks two block lists, and what follows from the events it is given.
type listening struct {
	e     *engine.Engine
	now   time.Time
	asked []string
	bans  []ban.Ban
}

func newListening(t testing.TB, facts exempt.Facts) *listening {
	t.Helper()
	set, errs := filter.Compile(nil)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	cfg := &conf.Config{}
	cfg.Ban = conf.BanTimes{First: 10 * time.Minute, Growth: 4, Cap: 7 * 24 * time.Hour, History: 30 * 24 * time.Hour, Score: 24 * time.Hour}
	cfg.Score = conf.Score{Failure: 10, Probe: 3, Unverified: 2, HalfLife: 14 * 24 * time.Hour, Ban: 100}
	cfg.Known = conf.Known{TTL: 30 * 24 * time.Hour, PerUser: 8, Total: 20000, SharedMin: 3}
	cfg.RBL = conf.RBL{Enabled: true, Zones: []conf.RBLZone{{Name: "own", Zone: "bl.example"},
		{Name: "strict", Zone: "strict.example", Ports: "25,587", BanTime: time.Hour, Action: conf.RBLBan}}}
	cfg.Feeds = []conf.Feed{{Name: "own", Action: conf.FeedScore, Weight: 95}, {Name: "other"}}
	c := engine.FromConf(cfg, set)
	c.Track.Rules = append(c.Track.Rules, event.Rule{Name: "smtp", Service: "smtp", MaxRetry: 5, FindTime: findTime, Ports: "25,587"})
	return &listening{e: engine.New(c, facts), now: noon}
}

// event gives the engine an event, a second after the one before.
func (l *listening) event(ev event.Event) {
	l.now = l.now.Add(time.Second)
	ev.Time, ev.Count = l.now, 1
	for o := range l.e.Event(&ev, l.now) {
		switch o.Kind {
		case engine.Ask:
			l.asked = append(l.asked, o.Event.Addr.String())
		case engine.Banned:
			l.bans = append(l.bans, o.Ban)
		}
	}
}

func (l *listening) try(kind event.Kind, addr, user string, verified bool) {
	l.event(event.Event{Rule: "smtp", Service: "smtp", Addr: netip.MustParseAddr(addr), Kind: kind, User: user, Verified: verified, Line: "a line about " + user})
}

// listed reports that a list has an address, for an hour.
func (l *listening) listed(list, addr string, points int, bans, verified bool) {
	one := event.Listing{Rule: "dnsbl/" + list, Zone: list + ".example", Codes: "127.0.0.2", Reason: "see \x1b https://x", Points: points, Ban: bans, At: l.now.Add(time.Second), Until: l.now.Add(time.Hour)}
	l.event(event.Event{Rule: one.Rule, Service: "dnsbl", Addr: netip.MustParseAddr(addr), Kind: event.Listed, Verified: verified, Line: list + " lists " + addr,
		Episode: &event.Episode{Text: "listed by " + one.String()}, Listings: &[]event.Listing{one}})
}

// What lists add to a score counts together with what the address did, and only as long as it is listed.
func TestListingsAddUp(t *testing.T) {
	l := newListening(t, exempt.Facts{})
	const addr = "198.51.100.7"
	l.try(event.Failure, addr, "a", true)
	l.listed("own", addr, 60, false, true)
	l.listed("own", addr, 60, false, true) // again: it counts once
	if len(l.bans) != 0 {
		t.Fatalf("banned at 70 points: %q", l.bans[0].Reason)
	}
	if x := l.e.Explain(netip.MustParseAddr(addr), l.now, 0); len(x.Listings) != 1 ||
		!strings.HasPrefix(x.Listings[0], `listed by own.example (127.0.0.2: "see \x1b https://x"), 60 more points until `) {
		t.Errorf("explained by %q", x.Listings)
	}
	l.listed("strict", addr, 40, false, true)
	if len(l.bans) != 1 {
		t.Fatal("not banned at 110 points")
	}
	b := l.bans[0]
	if b.Rule != ban.ByScore || !b.Listed || b.Class != ban.Verified || b.Ports != "" || b.Key.String() != addr {
		t.Errorf("ban %+v", b)
	}
	const want = `score 110 (limit 100): attempts at smtp 1; 40 points for a listing by strict.example (127.0.0.2: "see \x1b https://x"); 60 points for a listing by own.example (127.0.0.2: "see \x1b https://x"); first ban in 30d: 1d`
	if b.Reason != want {
		t.Errorf("reason\n%s\nwant\n%s", b.Reason, want)
	}
	if !slices.Equal(b.Evidence, []string{"a line about a", "strict lists 198.51.100.7"}) {
		t.Errorf("evidence %q", b.Evidence)
	}

	// When it is no longer listed, its own points are all that counts.
	l = newListening(t, exempt.Facts{})
	l.listed("own", addr, 95, false, true)
	l.now = l.now.Add(time.Hour)
	l.try(event.Failure, addr, "a", true)
	if len(l.bans) != 0 {
		t.Errorf("a listing counts after its end: %s", l.bans[0].Reason)
	}
	l.listed("own", addr, 95, false, true)
	if len(l.bans) != 1 {
		t.Error("a new listing does not count")
	}
}

// A failure after the listing bans at once, and a list with action ban needs no points.
func TestListedSourceFails(t *testing.T) {
	l := newListening(t, exempt.Facts{})
	l.listed("own", "198.51.100.7", 95, false, true)
	l.try(event.Failure, "198.51.100.7", "a", true)
	if len(l.bans) != 1 || l.bans[0].Rule != ban.ByScore || !l.bans[0].Listed {
		t.Errorf("bans %+v", l.bans)
	}
	l.listed("own", "198.51.100.6", 10, false, true)
	for i := range 5 {
		l.try(event.Failure, "198.51.100.6", fmt.Sprint(i), true)
	}
	if b := l.bans[1]; b.Rule != "smtp" || b.Listed {
		t.Errorf("five failures make a ban without any list: %+v", b)
	}
	l.bans = l.bans[:1]
	l.listed("strict", "198.51.100.8", 0, true, true)
	if len(l.bans) != 2 {
		t.Fatal("a list with action ban bans nobody")
	}
	b := l.bans[1]
	if want := `listed by strict.example (127.0.0.2: "see \x1b https://x"); first ban in 30d: 1h`; b.Reason != want || b.Rule != "dnsbl/strict" || b.Ports != "25,587" || b.Until.Sub(b.Start) != time.Hour {
		t.Errorf("ban %+v, want the reason %s", b, want)
	}
	l.listed("strict", "198.51.100.8", 0, true, true) // it is banned already
	if len(l.bans) != 2 {
		t.Error("banned twice")
	}
	l.now = l.now.Add(2 * time.Hour)
	l.listed("strict", "198.51.100.8", 0, true, true)
	if len(l.bans) != 3 || l.bans[2].Count != 2 {
		t.Errorf("not banned again after the end: %d", len(l.bans))
	}
}

// When an operator lifts a ban, what lists had reported before counts no more, whoever reports it again; a later answer does.
func TestLiftedAndListed(t *testing.T) {
	l := newListening(t, exempt.Facts{})
	addr := netip.MustParseAddr("198.51.100.7")
	l.listed("own", addr.String(), 1000, false, true)
	l.listed("strict", "198.51.100.8", 0, true, true)
	if len(l.bans) != 2 {
		t.Fatalf("%d bans", len(l.bans))
	}
	old := event.Listing{Rule: "dnsbl/strict", Zone: "strict.example", Codes: "127.0.0.2", Ban: true, At: l.now, Until: l.now.Add(time.Hour)}
	l.now = l.now.Add(time.Minute)
	l.e.Lifted(l.now, l.bans[0].Key, l.bans[1].Key)
	l.try(event.Failure, addr.String(), "a", true)
	l.event(event.Event{Rule: "dnsbl/strict", Service: "dnsbl", Addr: netip.MustParseAddr("198.51.100.8"), Kind: event.Listed, Verified: true, Listings: &[]event.Listing{old}})
	if len(l.bans) != 2 {
		t.Errorf("banned again for what was known before: %s", l.bans[2].Reason)
	}
	if x := l.e.Explain(addr, l.now, 0); len(x.Listings) != 0 || x.Listed != 0 {
		t.Errorf("explained by %q", x.Listings)
	}
	l.listed("strict", "198.51.100.8", 0, true, true)
	l.listed("own", addr.String(), 1000, false, true)
	if len(l.bans) != 4 {
		t.Errorf("%d bans after new answers, want 4", len(l.bans))
	}
}

// A list alone never bans an address from which a user has logged in.
func TestListsAloneDoNotBanUsers(t *testing.T) {
	l := newListening(t, exempt.Facts{})
	l.try(event.Success, "198.51.100.7", "alice", true)
	l.listed("own", "198.51.100.7", 1000, false, true)
	l.listed("strict", "198.51.100.7", 0, true, true)
	l.try(event.Failure, "198.51.100.7", "alice", true)
	if len(l.bans) != 0 {
		t.Errorf("banned: %s", l.bans[0].Reason)
	}
	if len(l.asked) != 0 {
		t.Error("lists are asked about an address from which a user logs in")
	}
	if x := l.e.Explain(netip.MustParseAddr("198.51.100.7"), l.now, 0); len(x.Listings) != 2 || !strings.Contains(x.Listings[0], "does not count") {
		t.Errorf("explained by %q", x.Listings)
	}
}

// Anybody can forge packets from an address that a list has: what follows is unverified.
func TestForgedSourceOnList(t *testing.T) {
	l := newListening(t, exempt.Facts{})
	l.listed("strict", "198.51.100.7", 0, true, false)
	l.listed("own", "198.51.100.8", 1000, false, false)
	l.listed("own", "198.51.100.9", 10, false, true)
	l.listed("own", "198.51.100.9", 1000, false, true)
	l.bans = l.bans[:2]
	l.try(event.Failure, "198.51.100.9", "x", false)
	for _, b := range l.bans {
		if b.Class != ban.Unverified || b.Until.Sub(b.Start) > 10*time.Minute {
			t.Errorf("ban %+v", b)
		}
	}
}

// Lists are asked about the sources of new connections, but for those that are never banned, and where users log in. The packet can be forged.
func TestNewPeersAreAskedAbout(t *testing.T) {
	l := newListening(t, exempt.Facts{Allowed: prefixset.New(netip.MustParsePrefix("192.0.2.2/32"))})
	l.try(event.Success, "198.51.100.2", "x", true)
	var asked []string
	for _, addr := range []string{"192.0.2.2", "10.1.2.3", "198.51.100.2", "198.51.100.4", "2001:db8::7"} {
		for o := range l.e.Packets([]engine.Packet{{Mark: event.NewPeer, Time: l.now, From: netip.MustParseAddr(addr), Protocol: event.TCP, Port: 22, Flags: 2}}, l.now) {
			if o.Kind != engine.Ask || o.Event.Verified {
				t.Errorf("%s: outcome %+v", addr, o)
			}
			asked = append(asked, o.Event.Addr.String())
		}
	}
	if want := []string{"198.51.100.4", "2001:db8::7"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %q, want %q", asked, want)
	}
}

// Lists are asked about strangers who fail or probe, and about nobody else.
func TestWhoIsAskedAbout(t *testing.T) {
	set := func(p string) prefixset.Set { return prefixset.New(netip.MustParsePrefix(p)) }
	facts := exempt.Facts{Own: set("192.0.2.1/32"), Allowed: set("192.0.2.2/32"), Gateways: set("192.0.2.3/32"), Resolvers: set("192.0.2.4/32"),
		Proxies: set("192.0.2.5/32"), CDNs: exempt.CDNs(), Sessions: set("192.0.2.6/32"), Admins: set("192.0.2.7/32"), OnLink: set("2001:db8:1::/64")}
	l := newListening(t, facts)
	for _, addr := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "2001:db8:1::7", "104.16.0.1",
		"10.1.2.3", "172.16.9.9", "192.168.1.1", "100.64.0.1", "169.254.1.1", "127.0.0.1", "198.18.0.1", "240.0.0.1", "fe80::1", "fd00::1", "::1"} {
		l.try(event.Failure, addr, "x", true)
		l.try(event.Probe, addr, "", true)
	}
	l.try(event.Failure, "198.51.100.1", "x", false)
	l.try(event.Success, "198.51.100.2", "x", true)
	through := event.Event{Rule: "smtp", Service: "smtp", Addr: netip.MustParseAddr("198.51.100.3"), Kind: event.Failure, Verified: true,
		Episode: &event.Episode{Through: netip.MustParseAddr("192.0.2.5")}}
	l.event(through)
	if len(l.asked) != 0 {
		t.Errorf("asked about %q", l.asked)
	}
	l.try(event.Failure, "198.51.100.4", "x", true)
	l.try(event.Probe, "2001:db8::7", "", true)
	l.listed("own", "198.51.100.5", 1, false, true)
	if want := []string{"198.51.100.4", "2001:db8::7"}; !slices.Equal(l.asked, want) {
		t.Errorf("asked about %q, want %q", l.asked, want)
	}
	l.e.Configure(engine.FromConf(&conf.Config{}, must(t)))
	l.asked = nil
	l.try(event.Failure, "198.51.100.6", "x", true)
	if len(l.asked) != 0 {
		t.Error("asked although lists are off")
	}
}

func must(t testing.TB) *filter.Set {
	set, errs := filter.Compile(nil)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	return set
}

// What is kept of listings does not grow with the number of sources, and ends with the list.
func TestListingsAreBounded(t *testing.T) {
	l := newListening(t, exempt.Facts{})
	addr := func(i int) string { return fmt.Sprintf("198.%d.%d.%d", 51+i>>16, i>>8&255, i&255) }
	for i := range 20_000 {
		l.now = noon
		l.listed("own", addr(i), 1, false, true)
	}
	for i, kept := range map[int]bool{0: false, 20_000 - 16_385: false, 20_000 - 16_384: true, 19_999: true} {
		if got := len(l.e.Explain(netip.MustParseAddr(addr(i)), l.now, 0).Listings) > 0; got != kept {
			t.Errorf("listing %d is kept: %v", i, got)
		}
	}
	l.e.Configure(engine.FromConf(&conf.Config{}, must(t)))
	if x := l.e.Explain(netip.MustParseAddr(addr(19_999)), l.now, 0); len(x.Listings) != 0 {
		t.Errorf("a listing of a list that is not asked any more: %q", x.Listings)
	}
}

// BenchmarkBlockLists is what asking block lists adds to an event that counts, and to a line that matches nothing.
func BenchmarkBlockLists(b *testing.B) {
	for name, on := range map[string]bool{"off": false, "on": true} {
		l := newListening(b, exempt.Facts{CDNs: exempt.CDNs()})
		if !on {
			l.e.Configure(func() engine.Config {
				c := engine.FromConf(&conf.Config{}, must(b))
				c.Track.Rules = append(c.Track.Rules, event.Rule{Name: "smtp", Service: "smtp", MaxRetry: 5, FindTime: findTime, Ports: "25,587"})
				return c
			}())
		}
		addrs := make([]netip.Addr, 10_000)
		for i := range addrs {
			addrs[i] = netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
		}
		b.Run("event/"+name, func(b *testing.B) {
			b.ReportAllocs()
			ev := event.Event{Rule: "smtp", Service: "smtp", Kind: event.Probe, Count: 1, Verified: true}
			for i := range b.N {
				ev.Time, ev.Addr = noon.Add(time.Duration(i)*time.Microsecond), addrs[i%len(addrs)]
				for range l.e.Event(&ev, ev.Time) {
				}
			}
		})
		b.Run("line/"+name, func(b *testing.B) {
			b.ReportAllocs()
			batch := event.Batch{Source: "/var/log/x", Stream: "x", Lines: []event.Line{{Time: noon, Text: []byte("Jan  2 12:00:00 host sshd[77]: Connection closed by 203.0.113.7 port 50000")}}}
			for range b.N {
				for range l.e.Lines(&batch, noon) {
				}
			}
		})
	}
}

// An entry of a feed counts like a listing.
func TestFeedsAddUp(t *testing.T) {
	l := newListening(t, exempt.Facts{})
	const addr = "198.51.100.9"
	l.try(event.Failure, addr, "a", true)
	one := event.Listing{Rule: "feed/own", Zone: "feed own", Codes: "score", Points: 95, Until: l.now.Add(time.Hour)}
	l.event(event.Event{Rule: one.Rule, Service: "feed", Addr: netip.MustParseAddr(addr), Kind: event.Listed, Verified: true, Line: "feed own has " + addr,
		Episode: &event.Episode{Text: "listed by " + one.String()}, Listings: &[]event.Listing{one}})
	if len(l.bans) != 1 || !strings.Contains(l.bans[0].Reason, "95 points for a listing by feed own (score)") {
		t.Errorf("bans %+v", l.bans)
	}
}
