package feeds

import (
	"net/netip"

	"mef/internal/prefixset"
)

// special are the addresses that no host elsewhere has: special-purpose networks that are not globally reachable (RFC 6890 and IANA's
// registries), multicast, and what is not yet assigned for public use in IPv6. Some feeds contain them on purpose, for borders of
// networks; on a host they would cut off its own network.
var special = func() prefixset.Set {
	var all []netip.Prefix
	for _, p := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
		"::/3", "2001:db8::/32", "3fff::/20", "4000::/2", "8000::/1",
	} {
		all = append(all, netip.MustParsePrefix(p))
	}
	return prefixset.New(all...)
}()

// Special returns the addresses that no host elsewhere has.
func Special() prefixset.Set { return special }

// public returns the number of addresses of a family that are not special.
func public(v6 bool) float64 {
	var b prefixset.Packer
	b.Add(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	b.Add(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	return b.Pack().Subtract(special).Addresses(v6)
}
