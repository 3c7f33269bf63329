package track

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
)

func TestCrowds(t *testing.T) {
	tr := New(testConfig())
	hold := func(prefix string, class ban.Class, ports ban.Ports, d time.Duration) {
		b := ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix(prefix), Class: class, Ports: ports}, Start: start}
		if d > 0 {
			b.Until = start.Add(d)
		}
		tr.Restore(b)
	}
	for i := range 100 {
		hold(fmt.Sprintf("203.0.113.%d/32", i), ban.Verified, "", time.Duration(1+i)*time.Minute) // crowded
		hold(fmt.Sprintf("192.0.2.%d/32", i), ban.Verified, "", time.Hour)                        // banned whole already
		hold(fmt.Sprintf("198.51.100.%d/32", i), ban.Unverified, "", time.Hour)                   // may be forged
		hold(fmt.Sprintf("10.0.0.%d/32", i), ban.Verified, "22", time.Hour)                       // other ports are open
		hold(fmt.Sprintf("10.0.1.%d/32", i), ban.Verified, "", 0)                                 // never give way
		hold(fmt.Sprintf("10.0.%d.7/32", 2+i), ban.Verified, "", time.Hour)                       // far apart
		hold(fmt.Sprintf("10.1.0.%d/32", i), ban.Verified, "", time.Second)                       // soon over
		hold(fmt.Sprintf("2001:db8:%x::/64", i), ban.Verified, "", time.Hour)                     // IPv6
	}
	hold("192.0.2.0/24", ban.Verified, "", time.Hour)
	for i := range 70 {
		hold(fmt.Sprintf("10.2.0.%d/32", i), ban.Verified, "", time.Hour)
	}
	tr.Observe(&event.Event{Rule: "sshd", Addr: netip.MustParseAddr("10.2.0.200"), User: "alice", Kind: event.Success, Verified: true, Time: start})
	later := start.Add(2 * time.Second)
	crowds := tr.Crowds(later, 64, 10)
	if len(crowds) != 2 {
		t.Fatalf("crowds %+v, want two", crowds)
	}
	if c := crowds[0]; c.Prefix.String() != "203.0.113.0/24" || c.Banned != 100 || c.Known != 0 || !c.Reached() || !c.Until.Equal(start.Add(51*time.Minute)) {
		t.Errorf("the first is %+v, want 203.0.113.0/24, of which half is banned for 51 minutes", c)
	}
	if c := crowds[1]; c.Prefix.String() != "10.2.0.0/24" || c.Banned != 70 || c.Known != 1 {
		t.Errorf("the second is %+v, want 10.2.0.0/24 with a known login", c)
	}
	if crowds := tr.Crowds(later, 64, 1); len(crowds) != 1 || crowds[0].Banned != 100 {
		t.Errorf("of one %+v is told, want the most crowded", crowds)
	}
	if crowds := tr.Crowds(start.Add(2*time.Hour), 64, 10); len(crowds) != 0 {
		t.Errorf("when all is over: %+v", crowds)
	}
}

// BenchmarkCrowds looks at 200,000 bans, as it does when there is no room for one more.
func BenchmarkCrowds(b *testing.B) {
	tr := New(testConfig())
	for i := range 200_000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + i%200), byte(i >> 4), byte(i >> 12), byte(i)}), 32)
		tr.Restore(ban.Ban{Key: ban.Key{Prefix: p}, Start: start, Until: start.Add(time.Hour)})
	}
	for b.Loop() {
		tr.Crowds(start, 64, 100)
	}
}
