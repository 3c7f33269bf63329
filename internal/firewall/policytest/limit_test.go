//go:build integration

package policytest_test

import (
	"net/netip"
	"testing"

	"mef/internal/firewall/inforce"
	"mef/internal/firewall/policy"
	"mef/internal/netnstest"
)

// TestLimitsCountEachSource sends more packets than a rule accepts from one source: of IPv4 that is an address, of IPv6 a /64.
func TestLimitsCountEachSource(t *testing.T) {
	netnstest.Need(t)
	const text = `policy dir=in action=drop
rule dir=in action=accept proto=udp dport=53 limit=3/h
rule dir=in action=accept proto=udp dport=80 limit=2/h
`
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	sent := []struct {
		from, to string
		port     uint16
		passes   int // of 5
	}{
		{"192.0.2.7", "192.0.2.1", 53, 3},
		{"192.0.2.8", "192.0.2.1", 53, 3},
		{"192.0.2.7", "192.0.2.1", 80, 2},
		{"2001:db8::7", "2001:db8::1", 53, 3},
		{"2001:db8::8", "2001:db8::1", 53, 0}, // the /64 has had its share
		{"192.0.2.9", "192.0.2.1", 123, 0},
	}
	for name, load := range backends {
		t.Run(name, func(t *testing.T) {
			h, _ := ready(t)
			load(t, h.ns, src.Policy(policy.Facts{}))
			loaded := fingerprint(t, h)
			tag := uint16(0)
			for _, s := range sent {
				var tags []uint16
				for range 5 {
					tag++
					f := frame{proto: udp, src: netip.MustParseAddr(s.from), dst: netip.MustParseAddr(s.to), sport: 20000 + tag, dport: s.port, tag: tag}
					h.arrives(t, "eth0", f.udpDatagram(false))
					tags = append(tags, tag)
				}
				passed := 0
				for _, o := range h.outcomes(t, tags) {
					if o.passed {
						passed++
					}
				}
				if passed != s.passes {
					t.Errorf("%d of 5 packets from %s to port %d passed, want %d", passed, s.from, s.port, s.passes)
				}
			}
			if now := fingerprint(t, h); now != loaded {
				t.Errorf("packets change the fingerprint of the policy from %q to %q", loaded, now)
			}
			if name == "nft" {
				listed := h.ns.Run(t, "", "nft", "list", "table", "inet", "mef")
				h.ns.Run(t, "delete table inet mef\n"+listed, "nft", "-f", "-")
			}
		})
	}
}

// fingerprint returns what tells a policy that somebody changed, where nftables holds it.
func fingerprint(t *testing.T, h *host) (all string) {
	t.Helper()
	h.ns.Do(func() {
		var err error
		if all, _, err = inforce.Fingerprint(); err != nil {
			t.Fatal(err)
		}
	})
	return all
}
