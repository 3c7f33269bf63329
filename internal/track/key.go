package track

import (
	"net/netip"
	"time"

	"mef/internal/prefixset"
)

// A key is a prefix in 17 bytes without pointers: IPv4 is stored as IPv4-mapped IPv6, its length plus 96.
type key struct {
	addr [16]byte
	bits uint8
}

const mappedBits = 96 // what an IPv4 prefix length grows by in a key

// keyOf returns the key of addr's network of so many bits, counted in addr's own family.
func keyOf(addr netip.Addr, bits int) key {
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return key{}
	}
	if addr.Is4() {
		bits += mappedBits
	}
	return key{p.Addr().As16(), uint8(bits)}
}

// keyOfPrefix is keyOf for a prefix that is masked already.
func keyOfPrefix(p netip.Prefix) key { return keyOf(p.Addr(), p.Bits()) }

func (k key) prefix() netip.Prefix {
	a := netip.AddrFrom16(k.addr)
	if a.Is4In6() {
		return netip.PrefixFrom(a.Unmap(), int(k.bits)-mappedBits)
	}
	return netip.PrefixFrom(a, int(k.bits))
}

func (k key) is4() bool { return netip.AddrFrom16(k.addr).Is4In6() }

// in reports whether k is inside a network, or is it.
func (k key) in(net key) bool {
	if k.bits < net.bits {
		return false
	}
	whole, rest := net.bits/8, net.bits%8
	for i := range whole {
		if k.addr[i] != net.addr[i] {
			return false
		}
	}
	return rest == 0 || (k.addr[whole]^net.addr[whole])>>(8-rest) == 0
}

// widen returns the IPv6 network of so many bits around k.
func (k key) widen(bits int) key { return keyOf(netip.AddrFrom16(k.addr), bits) }

// embedsIPv4 holds the prefixes in which every address stands for an IPv4 address of somebody else: 64:ff9b::/96 of RFC 6052
// and 64:ff9b:1::/48 of RFC 8215. A network has more of them by configuration.
var embedsIPv4 = prefixset.New(netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"))

// alone reports whether addr counts by itself: IPv4, our neighbors on a link, and IPv6 addresses that stand for IPv4.
func (t *Tracker) alone(addr netip.Addr) bool {
	return addr.Is4() || t.cfg.OnLink.Contains(addr) || embedsIPv4.Contains(addr) || t.cfg.NAT64.Contains(addr)
}

// key returns what addr counts as.
func (t *Tracker) key(addr netip.Addr) key {
	if t.alone(addr) {
		return keyOf(addr, addr.BitLen())
	}
	return keyOf(addr, t.cfg.IPv6Prefix)
}

// Source returns what addr counts as: itself, or its IPv6 network.
func (t *Tracker) Source(addr netip.Addr) netip.Prefix { return t.key(addr).prefix() }

// exact returns the key of the one address.
func exact(addr netip.Addr) key { return keyOf(addr, addr.BitLen()) }

// find returns the index of the entry that counts for addr, and its key. The index is 0 if there is none yet.
func (t *Tracker) find(addr netip.Addr) (uint32, key) {
	k := t.key(addr)
	if i := t.index[k]; i != 0 || k.is4() {
		return i, k
	}
	if k.bits > parentBits && t.children[k.widen(parentBits)] >= maxChildren && !t.alone(addr) {
		k = k.widen(parentBits)
	}
	return t.index[k], k
}

// moment returns the time of nanoseconds since 1970; 0 is the zero time.
func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
