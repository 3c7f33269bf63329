//go:build integration

package host_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mef/internal/host"
	"mef/internal/netnstest"
)

// Ports that rules of nft and of iptables lead elsewhere are found, and nothing else.
func TestForwards(t *testing.T) {
	ns := netnstest.New(t)
	forwards := func() []string {
		var all []string
		for _, f := range netnstest.In(t, ns, host.Forwards) {
			all = append(all, fmt.Sprintf("%s %d %s", f.Protocol, f.Port, f.To))
		}
		return all
	}
	if got := forwards(); len(got) != 0 {
		t.Errorf("without rules, forwarded are %q", got)
	}
	ns.Run(t, `
		table ip nat {
			chain pre {
				type nat hook prerouting priority dstnat;
				tcp dport 8080 dnat to 172.17.0.2:80
				iifname != "docker0" tcp dport 8443 counter dnat to 172.17.0.2:443
				udp dport 5353-5354 dnat to 172.17.0.3
				tcp sport 99 dnat to 172.17.0.9
				tcp dport != 98 dnat to 172.17.0.9
				tcp dport 97 redirect to :98
				tcp dport 96 accept
			}
			chain post { type nat hook postrouting priority srcnat; tcp dport 95 snat to 192.0.2.1; }
		}
		table ip6 nat { chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to [fd00:17::2]:80; }; }
		table inet filter { chain in { type filter hook input priority 0; tcp dport 94 accept; }; }
		`, "nft", "-f", "-")
	want := []string{"tcp 8080 172.17.0.2:80", "tcp 8080 [fd00:17::2]:80", "tcp 8443 172.17.0.2:443", "udp 5353 172.17.0.3:0", "udp 5354 172.17.0.3:0"}
	if got := forwards(); !slices.Equal(got, want) {
		t.Errorf("of nft, forwarded are %q, want %q", got, want)
	}
	ns.Run(t, "flush ruleset", "nft", "-f", "-")
	for _, line := range []string{
		"iptables-nft -t nat -N DOCKER",
		"iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
		"iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
		"iptables-nft -t nat -A DOCKER -p udp -d 192.0.2.1 --dport 5353:5354 -j DNAT --to-destination 172.17.0.3",
		"ip6tables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination [fd00:17::2]:80",
	} {
		words := strings.Fields(line)
		ns.Run(t, "", words[0], words[1:]...)
	}
	want = []string{"tcp 8080 172.17.0.2:80", "tcp 8080 [fd00:17::2]:80", "udp 5353 172.17.0.3:0", "udp 5354 172.17.0.3:0"}
	if got := forwards(); !slices.Equal(got, want) {
		t.Errorf("of iptables, forwarded are %q, want %q", got, want)
	}
}
