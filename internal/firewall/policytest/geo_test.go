//go:build integration

package policytest_test

import (
	"net/netip"
	"testing"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// TestCountriesDecideAboutPackets sends packets from countries and autonomous systems, and from elsewhere, to a host whose policy names
// them, as it is read and as it is kept for the next boot.
func TestCountriesDecideAboutPackets(t *testing.T) {
	netnstest.Need(t)
	const text = `policy dir=in action=drop
set name=home elements=@country:FR,203.0.113.9
rule dir=in action=accept proto=udp dport=22 src=@country:DE
rule dir=in action=accept proto=udp dport=25 src=!@country:CN,@as:64500
rule dir=in action=accept proto=udp dport=80 src=@home
`
	packed := func(prefixes ...string) *prefixset.Packed {
		var p prefixset.Packer
		for _, prefix := range prefixes {
			p.Add(netip.MustParsePrefix(prefix))
		}
		return p.Pack()
	}
	facts := policy.Facts{Groups: map[conf.GeoGroup]*prefixset.Packed{
		{Country: "DE"}: packed("198.51.100.0/26", "198.51.100.64/27", "2001:db8:de::/48"),
		{Country: "CN"}: packed("198.51.100.128/25", "2001:db8:cc::/48"),
		{Country: "FR"}: packed("203.0.113.16/28"), // no network of IPv6
		{AS: 64500}:     packed("198.18.0.0/15"),
	}}
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	frozen, err := policy.Thaw("frozen", src.Freeze(facts))
	if err != nil {
		t.Fatal(err)
	}
	sent := []struct {
		from   string
		port   uint16
		passes bool
	}{
		{"198.51.100.0", 22, true}, {"198.51.100.95", 22, true}, {"198.51.100.96", 22, false}, {"198.51.100.129", 22, false},
		{"2001:db8:de::7", 22, true}, {"2001:db8:df::7", 22, false},
		{"198.51.100.7", 25, true}, {"198.51.100.128", 25, false}, {"198.19.255.255", 25, false}, {"198.20.0.0", 25, true},
		{"2001:db8:cc::7", 25, false}, {"2001:db8:cd::7", 25, true},
		{"203.0.113.9", 80, true}, {"203.0.113.17", 80, true}, {"203.0.113.32", 80, false}, {"2001:db8:de::7", 80, false},
	}
	to := map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.1"), false: netip.MustParseAddr("2001:db8::1")}
	for name, load := range backends {
		for kind, p := range map[string]*policy.Policy{"as read": src.Policy(facts), "frozen": frozen.Policy(policy.Facts{})} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				h, _ := ready(t)
				load(t, h.ns, p)
				var tags []uint16
				for i, s := range sent {
					from := netip.MustParseAddr(s.from)
					f := frame{proto: udp, src: from, dst: to[from.Is4()], sport: 20000, dport: s.port, tag: uint16(i + 1)}
					h.arrives(t, "eth0", f.udpDatagram(false))
					tags = append(tags, f.tag)
				}
				outcomes := h.outcomes(t, tags)
				for i, s := range sent {
					if o := outcomes[tags[i]]; o.passed != s.passes || len(o.met) != 1 {
						t.Errorf("packet from %s to port %d: %+v, want it to pass: %t", s.from, s.port, o, s.passes)
					}
				}
			})
		}
	}
}
