package track

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"mef/internal/ban"
)

func TestNeighbors(t *testing.T) {
	tr := New(testConfig())
	for addr, failures := range map[string]int{
		"192.0.2.7": 4, "192.0.2.8": 1, "192.0.2.200": 3, "192.0.3.7": 4, "2001:db8:7::1": 2, "2001:db8:7:1::1": 1, "2001:db8:7:1::2": 1, "2001:db8:8::1": 4,
	} {
		for i := range failures {
			tr.Observe(line{at: 0, kind: "fail", user: fmt.Sprint("u", i), session: fmt.Sprint(addr, i)}.event("sshd", addr))
		}
	}
	tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.8/32")}, Start: start, Until: start.Add(time.Hour), ID: "x", Rule: "sshd"})
	for addr, want := range map[string][]string{
		"192.0.2.7":      {"192.0.2.200/32 30 false", "192.0.2.8/32 10 true"},
		"192.0.2.99":     {"192.0.2.7/32 40 false", "192.0.2.200/32 30 false"}, // the two highest
		"198.51.100.1":   nil,
		"2001:db8:7::99": {"2001:db8:7:1::/64 20 false"}, // its own /64 is itself
	} {
		var got []string
		for _, n := range tr.Neighbors(netip.MustParseAddr(addr), start, 2) {
			got = append(got, fmt.Sprint(n.Prefix, " ", n.Score, " ", n.Banned))
		}
		if !slices.Equal(got, want) {
			t.Errorf("neighbors of %s: %q, want %q", addr, got, want)
		}
	}
	tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("2001:db8:7::/56")}, Start: start, Until: start.Add(time.Hour), ID: "y", Rule: "sshd"})
	if around := tr.Neighbors(netip.MustParseAddr("2001:db8:7::99"), start, 1); !around[0].Banned {
		t.Error("what lies in a banned network is not banned")
	}
	if later := tr.Neighbors(netip.MustParseAddr("192.0.2.7"), start.Add(time.Hour), 9); later[0].Score != 15 {
		t.Errorf("after an hour the score is %d, want half of it, 15", later[0].Score)
	}
	if again := tr.Neighbors(netip.MustParseAddr("192.0.2.7"), start, 9); again[0].Score != 30 {
		t.Errorf("looking changed the score to %d", again[0].Score)
	}
}

// BenchmarkNeighbors looks through a full table.
func BenchmarkNeighbors(b *testing.B) {
	tr := New(testConfig())
	for i := range 100_000 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		tr.Observe(line{at: 0, kind: "fail", user: "u"}.event("sshd", addr.String()))
	}
	for b.Loop() {
		tr.Neighbors(netip.MustParseAddr("10.0.7.7"), start, 10)
	}
}

// Every source is in the chain of its network, however many come and go.
func TestNetworksKeepTheirSources(t *testing.T) {
	cfg := testConfig()
	cfg.MaxSources = 500
	tr := New(cfg)
	for i := range 20_000 {
		addr := fmt.Sprintf("10.%d.%d.%d", i%3, i%7, i%251)
		switch i % 5 {
		case 0:
			addr = fmt.Sprintf("2001:db8:%x:%x::1", i%4, i%911)
		case 1:
			addr = fmt.Sprintf("64:ff9b::%x:%x", i%5, i%1009)
		}
		tr.Observe(line{float64(i), "fail", fmt.Sprint("u", i%97), "", 0}.event("sshd", addr))
	}
	chained := 0
	for _, i := range tr.networks.chains {
		for ; i != 0; i = tr.sources.At(i).sibling {
			if s := tr.sources.At(i); tr.lookup(s.key) != i {
				t.Fatalf("%s is in a chain and not in the table", s.key.Prefix())
			}
			chained++
		}
	}
	if n := tr.Stats().Sources; chained != n || n != cfg.MaxSources {
		t.Errorf("%d sources in chains, %d in the table of %d", chained, n, cfg.MaxSources)
	}
}
