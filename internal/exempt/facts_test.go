package exempt_test

import (
	"fmt"
	"net/netip"
	"testing"

	"mef/internal/exempt"
	"mef/internal/prefixset"
)

func set(prefixes ...string) prefixset.Set {
	var all []netip.Prefix
	for _, p := range prefixes {
		all = append(all, netip.MustParsePrefix(p))
	}
	return prefixset.New(all...)
}

func TestFullyExempt(t *testing.T) {
	for name, tt := range map[string]struct {
		allowed prefixset.Set
		want    string
	}{
		"no family":        {set("10.0.0.0/8", "2001:db8::/32"), "[]"},
		"all of IPv4":      {set("0.0.0.0/0"), "[IPv4]"},
		"all but one half": {set("0.0.0.0/1"), "[]"},
		"both":             {set("0.0.0.0/1", "128.0.0.0/1", "::/0"), "[IPv4 IPv6]"},
		"IPv6 by half":     {set("::/1", "8000::/1"), "[IPv6]"},
	} {
		facts := exempt.Facts{Allowed: tt.allowed}
		if got := fmt.Sprint(facts.FullyExempt()); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

// Whoever must stay reachable, and for what, is known in one place.
func TestFacts(t *testing.T) {
	const docker, containers = "an address of a Docker network of this host", "an address of a network of containers on this host"
	facts := exempt.Facts{Own: set("192.0.2.1/32"), Gateways: set("192.0.2.2/32"), Resolvers: set("192.0.2.3/32"), Servers: set("192.0.2.4/32"),
		Allowed: set("192.0.2.5/32"), Proxies: set("192.0.2.6/32"), CDNs: exempt.CDNs(), Sessions: set("192.0.2.7/32"), OnLink: set("2001:db8::/64"),
		Containers: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/28")},
		Docker:     []netip.Prefix{netip.MustParsePrefix("192.0.2.1/29"), netip.MustParsePrefix("198.51.100.1/24")}} // the latter has another gateway
	for addr, want := range map[string]struct{ never, web, ssh, inside string }{
		"192.0.2.1":    {never: "this host's own address", inside: "this host's own address"},
		"192.0.2.2":    {never: "a gateway of this host", inside: "a gateway of this host"},
		"192.0.2.3":    {never: "a resolver of this host", inside: "a resolver of this host"},
		"192.0.2.4":    {never: "a DHCP server of this host", inside: "a DHCP server of this host"},
		"192.0.2.5":    {never: "an entry of the allow list", inside: "an entry of the allow list"},
		"192.0.2.6":    {never: docker, web: "a proxy", inside: "a proxy"},
		"192.0.2.7":    {never: docker, ssh: "22", inside: "an administrator's SSH session"},
		"198.51.100.9": {},
		"2001:db8::9":  {inside: "this host's own link"},
		"127.0.0.1":    {never: "loopback addresses", inside: "loopback addresses"},
		"192.0.2.9":    {never: containers},
		"192.0.2.16":   {},
	} {
		a := netip.MustParseAddr(addr)
		p := netip.PrefixFrom(a, a.BitLen())
		if never, web, ssh, inside := facts.Never(a), facts.Web(p), string(facts.SSH(a)), facts.Inside(p); never != want.never || web != want.web || ssh != want.ssh || inside != want.inside {
			t.Errorf("%s: never %q, web %q, ssh %q, inside %q; want %+v", addr, never, web, ssh, inside, want)
		}
		if reachable := facts.Reachable(); reachable.Contains(a) != (want.never != "" && want.never != docker && want.never != containers && addr != "127.0.0.1") {
			t.Errorf("%s: let through by the kernel: %v", addr, reachable.Contains(a))
		}
	}
}
