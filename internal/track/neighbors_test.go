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
