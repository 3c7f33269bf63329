//go:build integration

package foreign_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/host/foreign"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

const foreignTables = `
table inet mefdaemon {
	chain bans { type filter hook prerouting priority -350; ip saddr 192.0.2.7 drop; }
}
table inet f2b-table {
	set addr-set-sshd { type ipv4_addr; elements = { 192.0.2.7, 192.0.2.8 } }
	set nets { type ipv4_addr; flags interval; elements = { 192.0.2.0/25, 198.51.100.0-198.51.100.77 } }
	set six { type ipv6_addr; flags interval; elements = { 2001:db8:7::/48 } }
	set pairs { type ipv4_addr . inet_service; elements = { 192.0.2.7 . 22 } }
	chain f2b-chain {
		type filter hook input priority filter - 1; policy accept;
		tcp dport 22 ip saddr @addr-set-sshd reject with icmp port-unreachable
		ip saddr @nets drop
		ip6 saddr @six drop
		ip saddr . tcp dport @pairs drop
		ip saddr 192.0.2.7 accept
		ip daddr 192.0.2.7 drop
		tcp dport 23 drop
	}
}
table ip filter {
	chain INPUT { type filter hook input priority filter; policy drop; counter jump deny; }
	chain deny {
		ip saddr 192.0.2.0/24 counter drop
		ip saddr 192.0.0.0/20 counter log drop
		ip saddr 192.0.2.5-192.0.2.9 ct state new drop
		ip saddr != 192.0.2.7 drop
		ip saddr { 192.0.2.7, 203.0.113.1 } drop
		ip saddr != @none drop
	}
	set none { type ipv4_addr; elements = { 203.0.113.9 } }
	chain out { type filter hook output priority filter; policy drop; ip saddr 192.0.2.7 drop; }
}
table ip only-out {
	chain out { type filter hook output priority filter; ip saddr 192.0.2.7 drop; }
}
table ip6 six {
	chain in { type filter hook input priority filter; policy accept; ip6 saddr 2001:db8:7::/64 drop; ip6 saddr 2001:db8:7::1 drop; }
}
`

func TestDroppers(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run(t, foreignTables, "nft", "-f", "-")
	for addr, want := range map[string][]string{
		"192.0.2.7": {
			"inet f2b-table chain f2b-chain rule 1: drops @addr-set-sshd, with further conditions",
			"inet f2b-table chain f2b-chain rule 2: drops @nets",
			"ip filter chain INPUT: policy drop, for packets that none of its rules accepts",
			"ip filter chain deny rule 1: drops 192.0.2.0/24",
			"ip filter chain deny rule 2: drops 192.0.0.0/20",
			"ip filter chain deny rule 3: drops 192.0.2.5-192.0.2.9, with further conditions",
			"ip filter chain deny rule 5: drops @__set0",
			"ip filter chain deny rule 6: drops all except @none",
		},
		"198.51.100.77": {
			"inet f2b-table chain f2b-chain rule 2: drops @nets",
			"ip filter chain INPUT: policy drop, for packets that none of its rules accepts",
			"ip filter chain deny rule 4: drops all except 192.0.2.7",
			"ip filter chain deny rule 6: drops all except @none",
		},
		"2001:db8:7::1": {
			"inet f2b-table chain f2b-chain rule 3: drops @six",
			"ip6 six chain in rule 1: drops 2001:db8:7::/64",
			"ip6 six chain in rule 2: drops 2001:db8:7::1",
		},
		"2001:db8:8::1": nil,
	} {
		t.Run(addr, func(t *testing.T) {
			found := netnstest.In(t, ns, func() ([]foreign.Dropper, error) {
				return foreign.Droppers(t.Context(), netip.MustParseAddr(addr), "mefdaemon")
			})
			var got []string
			for _, d := range found {
				got = append(got, strings.TrimPrefix(d.String(), "table "))
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("dropped by\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestDroppersWithoutTables(t *testing.T) {
	found := netnstest.In(t, netnstest.New(t), func() ([]foreign.Dropper, error) {
		return foreign.Droppers(t.Context(), netip.MustParseAddr("192.0.2.7"))
	})
	if len(found) > 0 {
		t.Errorf("nothing is there, and it drops: %v", found)
	}
}

// BenchmarkDroppers looks through 1,000 rules and a set of 10,000 elements.
func BenchmarkDroppers(b *testing.B) {
	ns := netnstest.New(b)
	var text strings.Builder
	text.WriteString("table ip filter { set many { type ipv4_addr; elements = { ")
	for i := range 10_000 {
		fmt.Fprintf(&text, "10.0.%d.%d, ", i>>8, i&255)
	}
	text.WriteString("10.1.0.0 }; }\nchain in { type filter hook input priority filter; ip saddr @many drop\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "ip saddr 10.2.%d.%d tcp dport 22 drop\n", i>>8, i&255)
	}
	text.WriteString("}\n}\n")
	ns.Run(b, text.String(), "nft", "-f", "-")
	ns.Do(func() {
		for b.Loop() {
			if d, err := foreign.Droppers(b.Context(), netip.MustParseAddr("10.0.0.7")); err != nil || len(d) != 1 {
				b.Fatalf("%v, %v", d, err)
			}
		}
	})
}
