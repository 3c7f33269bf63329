package wire

import (
	"fmt"
	"net/netip"
	"strings"
)

// MaxPrefix is how many addresses a PrefixList has at most.
const MaxPrefix = 1 << 16

// A PrefixList is the answer to a question about a prefix: all of its addresses that are listed, those of IPv6 as the first of their /64. A host that
// asks for it does not show which of the addresses it wants to know about.
type PrefixList struct {
	Prefix    netip.Prefix `json:"prefix"` // a /16 of IPv4 or a /32 of IPv6
	Addresses []netip.Addr `json:"addresses"`
}

// Wide returns the prefix that a host asks for to learn about an address: a /16 of IPv4, or a /32 of IPv6.
func Wide(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 16
	if addr.Is6() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // zero of a zero address
	return p
}

// PrefixPath returns a prefix of Wide as the path of a request has it: 192.0 or 2001:db8.
func PrefixPath(p netip.Prefix) string {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		return fmt.Sprintf("%d.%d", b[0], b[1])
	}
	b := p.Addr().As16()
	return fmt.Sprintf("%x:%x", uint16(b[0])<<8|uint16(b[1]), uint16(b[2])<<8|uint16(b[3]))
}

// ParsePrefix reads what PrefixPath returns.
func ParsePrefix(s string) (p netip.Prefix, ok bool) {
	tail := ".0.0"
	if strings.Contains(s, ":") {
		tail = "::"
	}
	addr, err := netip.ParseAddr(s + tail)
	if p = Wide(addr); err != nil || addr.Zone() != "" || addr.Is4In6() || p.Addr() != addr || PrefixPath(p) != s {
		return netip.Prefix{}, false
	}
	return p, true
}
