package reputation

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

var attacker = netip.MustParseAddr("203.0.113.7")

// start returns a Book with reporters, each in a network and system of its own.
func start(t *testing.T, roles ...Role) *Book {
	t.Helper()
	b := New(Options{Never: func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") }})
	b.Advance(480_000)
	for i, role := range roles {
		b.Enrol(Reporter{ID: id(i), Role: role, System: fmt.Sprint("as", i), Net: "n", Since: b.Now()})
	}
	return b
}

func id(i int) string { return fmt.Sprint("r", i) }

func report(t *testing.T, b *Book, addr netip.Addr, by ...int) {
	t.Helper()
	for _, i := range by {
		if err := b.Report(id(i), addr, 2, b.Now()); err != nil {
			t.Fatalf("report of %d: %v", i, err)
		}
	}
	b.Settle()
}

func listed(b *Book, addr netip.Addr) bool { return b.Verdict(addr).Listed }

func TestListing(t *testing.T) {
	for name, tt := range map[string]struct {
		roles []Role
		by    []int
		want  bool
	}{
		"three anchors":                            {[]Role{Anchor, Anchor, Anchor}, []int{0, 1, 2}, true},
		"an anchor alone, again and again":         {[]Role{Anchor}, []int{0, 0, 0, 0}, false},
		"two anchors":                              {[]Role{Anchor, Anchor}, []int{0, 1}, false},
		"two anchors and new reporters":            {[]Role{Anchor, Anchor, Member, Member, Member}, []int{0, 1, 2, 3, 4}, false},
		"many, but no anchor":                      {make([]Role, 100), ints(100), false},
		"three anchors and many whom nobody knows": {append([]Role{Anchor, Anchor, Anchor}, make([]Role, 50)...), ints(53), true},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, tt.roles...)
			report(t, b, attacker, tt.by...)
			if got := listed(b, attacker); got != tt.want {
				t.Errorf("listed is %v, want %v: %+v", got, tt.want, b.Verdict(attacker))
			}
		})
	}
}

func ints(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestListingEnds(t *testing.T) {
	b := start(t, Anchor, Anchor, Anchor, Anchor)
	report(t, b, attacker, 0, 1, 2, 3)
	b.Changes()
	for b.Advance(b.Now() + 1); listed(b, attacker); b.Advance(b.Now() + 1) {
		if b.Now() > 480_000+week {
			t.Fatal("listed for more than a week after the last report")
		}
	}
	if after := b.Now() - 480_000; after < 72 { // 4 is 1.5 after 102 hours
		t.Errorf("unlisted after %d hours", after)
	}
	if c := b.Changes(); len(c) != 1 || !c[0].Removed || c[0].Prefix != Key(attacker) {
		t.Errorf("changes %+v", c)
	}
	b.Advance(b.Now() + 2*week)
	if b.Len() != 0 {
		t.Errorf("%d addresses are kept for ever", b.Len())
	}
}

func TestIPv6CountsByNetwork(t *testing.T) {
	b := start(t, Anchor, Anchor, Anchor)
	for i, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::ffff:1"} {
		report(t, b, netip.MustParseAddr(a), i)
	}
	if !listed(b, netip.MustParseAddr("2001:db8::77")) || listed(b, netip.MustParseAddr("2001:db8:0:1::1")) {
		t.Error("an IPv6 address does not stand for its /64")
	}
	report(t, b, netip.MustParseAddr("::ffff:203.0.113.7"), 0, 1, 2)
	if !listed(b, attacker) {
		t.Error("a mapped IPv4 address is not the IPv4 address")
	}
}

func TestRefusedReports(t *testing.T) {
	b := start(t, Anchor, Member)
	if err := b.Revoke(id(1)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		by   string
		addr string
		at   Hour
		want error
	}{
		"of a stranger":              {"nobody", "203.0.113.7", 0, ErrUnknown},
		"of a revoked reporter":      {id(1), "203.0.113.7", 0, ErrRevoked},
		"of an address never listed": {id(0), "::ffff:192.0.2.1", 0, ErrNever},
		"of next week":               {id(0), "203.0.113.7", week, ErrTime},
		"of last month":              {id(0), "203.0.113.7", -5 * week, ErrTime},
	} {
		if err := b.Report(tt.by, netip.MustParseAddr(tt.addr), 1, b.Now()+tt.at); !errors.Is(err, tt.want) {
			t.Errorf("a report %s: %v, want %v", name, err, tt.want)
		}
	}
	if b.Len() != 0 {
		t.Errorf("%d addresses are stored", b.Len())
	}
	for i := range dayQuota + 1 {
		err := b.Report(id(0), addr(100, i), 1, b.Now())
		if want := map[bool]error{true: ErrQuota}[i == dayQuota]; !errors.Is(err, want) {
			t.Fatalf("report %d of a day: %v, want %v", i, err, want)
		}
	}
}

func TestContest(t *testing.T) {
	b := start(t, Anchor, Anchor, Anchor, Anchor, Anchor, Anchor)
	report(t, b, attacker, 0, 1, 2, 5)
	_ = b.Benign(id(3), attacker)
	_ = b.Benign(id(3), attacker)
	if b.Settle(); !listed(b, attacker) {
		t.Fatal("one reporter ends a listing")
	}
	_ = b.Benign(id(4), attacker)
	if b.Settle(); listed(b, attacker) || !b.Verdict(attacker).Contested {
		t.Fatal("a contest has no effect")
	}
	b.Advance(b.Now() + 1)
	if listed(b, attacker) || len(b.Open()) != 1 {
		t.Fatalf("listed again by old reports; open contests %v", b.Open())
	}
	report(t, b, attacker, 0) // an anchor has seen it attack since
	if !listed(b, attacker) {
		t.Error("an anchor does not refute a contest")
	}
}

func TestContestCostsTrust(t *testing.T) {
	b := start(t, Anchor, Anchor, Anchor, Anchor, Member)
	b.reporters[4].Credit = 100 * unit
	b.Advance(b.Now() + fullAge)
	before := b.reporters[4].Trust()
	report(t, b, attacker, 0, 4)
	_ = b.Benign(id(1), attacker)
	_ = b.Benign(id(2), attacker)
	b.Settle()
	b.Advance(b.Now() + refuteIn + sweepEvery)
	b.Advance(b.Now() + 1)
	if got := b.reporters[4].Trust(); got > before*0.55 {
		t.Errorf("trust %.2f after a wrong report, %.2f before", got, before)
	}
}

func TestAppeal(t *testing.T) {
	b := start(t, Anchor, Anchor, Anchor, Anchor, Anchor, Anchor)
	if err := b.Appeal(attacker); !errors.Is(err, ErrUnlisted) {
		t.Errorf("appeal of an address that is not listed: %v", err)
	}
	report(t, b, attacker, 0, 1, 2)
	if err := b.Appeal(attacker); err != nil || listed(b, attacker) {
		t.Fatalf("appeal: %v, listed %v", err, listed(b, attacker))
	}
	report(t, b, attacker, 3, 4)
	if listed(b, attacker) {
		t.Error("listed again by less than twice the mass")
	}
	report(t, b, attacker, 5)
	if !listed(b, attacker) {
		t.Error("not listed again by twice the mass")
	}
	if err := b.Appeal(attacker); !errors.Is(err, ErrAppealed) {
		t.Errorf("second appeal: %v", err)
	}
}

func TestRevokeRemovesWhatAReporterDid(t *testing.T) {
	b := start(t, Own, Own, Own)
	report(t, b, attacker, 0, 1, 2)
	only := netip.MustParseAddr("203.0.113.9")
	report(t, b, only, 2)
	b.Changes()
	if err := b.Revoke(id(2)); err != nil {
		t.Fatal(err)
	}
	if listed(b, attacker) {
		t.Error("the listing stands without the report of a revoked reporter")
	}
	var own []string
	b.Each(OwnHosts, func(p netip.Prefix, _ uint16) { own = append(own, p.String()) })
	if !reflect.DeepEqual(own, []string{"203.0.113.7/32"}) {
		t.Errorf("own hosts ban %v", own)
	}
}

func TestOwnHostsShareBans(t *testing.T) {
	b := start(t, Own, Anchor)
	report(t, b, attacker, 0)
	if c := b.Changes(); len(c) != 1 || c[0].List != OwnHosts || c[0].Removed {
		t.Fatalf("changes %+v", c)
	}
	report(t, b, netip.MustParseAddr("203.0.113.8"), 1)
	if c := b.Changes(); len(c) != 0 {
		t.Fatalf("an anchor that is no own host shares a ban: %+v", c)
	}
	_ = b.Benign(id(0), attacker)
	b.Settle()
	if c := b.Changes(); len(c) != 1 || !c[0].Removed {
		t.Fatalf("after an unban: %+v", c)
	}
	for i := range ownQuota + 50 {
		_ = b.Report(id(0), addr(100, i), 1, b.Now())
	}
	b.Settle()
	if c := b.Changes(); len(c) >= ownQuota+1 {
		t.Errorf("a host shares %d bans in an hour", len(c))
	}
	b.Advance(b.Now() + ownFor + sweepEvery + 1)
	n := 0
	if b.Each(OwnHosts, func(netip.Prefix, uint16) { n++ }); n != 0 {
		t.Errorf("%d bans of own hosts have no end", n)
	}
}

// TestReplayIsExact checks that the same calls give the same content, also when it was saved and loaded in between, and that a damaged copy is
// refused.
func TestReplayIsExact(t *testing.T) {
	run := func(reload bool) string {
		b := start(t, Anchor, Anchor, Anchor, Own, Member, Member)
		for step := range 400 {
			b.Advance(b.Now() + Hour(step%3))
			for i := range 6 {
				_ = b.Report(id(i), addr(100, (step*7+i*i)%50), uint16(1<<(step%5)), b.Now())
				if (step+i)%11 == 0 {
					_ = b.Benign(id((i+1)%6), addr(100, step%50))
				}
			}
			b.Settle()
			if reload && step%50 == 25 {
				var buf bytes.Buffer
				if err := b.Save(&buf); err != nil {
					t.Fatal(err)
				}
				next, err := Load(bytes.NewReader(buf.Bytes()), b.opt)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := Load(bytes.NewReader(buf.Bytes()[:buf.Len()*2/3]), b.opt); err == nil {
					t.Fatal("part of a saved Book is loaded")
				}
				b = next
			}
		}
		var all []string
		for i := range 50 {
			all = append(all, fmt.Sprintf("%+v", b.Verdict(addr(100, i))))
		}
		for _, r := range b.Reporters() {
			all = append(all, fmt.Sprintf("%s %d %d %d", r.ID, r.Credit, r.Doubt, r.trust))
		}
		return strings.Join(all, "\n")
	}
	first := run(false)
	if again := run(false); again != first {
		t.Errorf("two runs differ:\n%s\n--\n%s", first, again)
	}
	if again := run(true); again != first {
		t.Errorf("a run that was saved and loaded differs:\n%s\n--\n%s", first, again)
	}
}
