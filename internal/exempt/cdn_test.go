package exempt

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/prefixset"
)

func TestBuiltInCDNs(t *testing.T) {
	lines := 0
	for line := range strings.Lines(cdnText) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != '[' {
			p, err := netip.ParsePrefix(line)
			if err != nil || p != prefixset.Normalize(p) {
				t.Errorf("cdn.txt: %q is no network", line)
			}
			if p.Addr().Is4() && p.Bits() < 12 || p.Addr().Is6() && p.Bits() < 29 {
				t.Errorf("cdn.txt: %s is wider than any of them is", p)
			}
			lines++
		}
	}
	networks := 0
	for _, c := range CDNs() {
		networks += len(c.Networks.Prefixes())
		if c.Listed.Year() < 2023 || c.Listed.After(time.Now()) || !strings.HasPrefix(c.Source, "https://") {
			t.Errorf("%s: its list is of %v, from %q", c.Name, c.Listed, c.Source)
		}
	}
	if networks < lines-4 || networks > lines { // neighbours are joined
		t.Errorf("%d networks of %d lines were read", networks, lines)
	}
	facts := Facts{CDNs: CDNs()}
	for addr, want := range map[string]string{
		"104.16.0.1": "Cloudflare", "172.71.255.255": "Cloudflare", "2606:4700::6810:1": "Cloudflare",
		"151.101.1.1": "Fastly", "2a04:4e42::1": "Fastly",
		"104.28.0.1": "", "172.72.0.1": "", "8.8.8.8": "", "2a04:4e41::1": "", "192.0.2.1": "",
	} {
		if got := facts.Web(host(addr)); !strings.HasPrefix(got, want) || (want == "") != (got == "") {
			t.Errorf("%s has its web ports open for %q, want %q", addr, got, want)
		}
	}
}

func host(addr string) netip.Prefix {
	a := netip.MustParseAddr(addr)
	return netip.PrefixFrom(a, a.BitLen())
}
