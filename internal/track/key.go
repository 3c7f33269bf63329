package track

import (
	"net/netip"
	"slices"
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
	if bits < 0 || bits > addr.BitLen() {
		return key{}
	}
	if addr.Is4() {
		bits += mappedBits
	}
	return key{addr: addr.As16()}.widen(bits)
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

func (k key) is4() bool {
	return k.addr[10] == 0xff && k.addr[11] == 0xff && [10]byte(k.addr[:10]) == [10]byte{}
}

// in reports whether k is inside a network, or is it.
func (k key) in(net key) bool { return k.bits >= net.bits && k.widen(int(net.bits)) == net }

// widen returns the network of so many bits around k, counted as in a key.
func (k key) widen(bits int) key {
	k.bits = uint8(bits)
	if bits == 8*len(k.addr) {
		return k
	}
	k.addr[bits/8] &= ^byte(0xff >> (bits % 8))
	clear(k.addr[bits/8+1:])
	return k
}

// lengths are the lengths of the keys in a table, so that a network around an address is looked up once for each that there is.
type lengths struct {
	counts [2][129]int // keys by family (0: IPv4) and length
	used   [2][]uint8  // the lengths whose count is not zero, longest first
}

func family(k key) int {
	if k.is4() {
		return 0
	}
	return 1
}

// of returns the lengths of the keys of k's family, longest first.
func (l *lengths) of(k key) []uint8 { return l.used[family(k)] }

func (l *lengths) add(k key) {
	f := family(k)
	if l.counts[f][k.bits]++; l.counts[f][k.bits] == 1 {
		l.used[f] = append(l.used[f], k.bits)
		slices.SortFunc(l.used[f], func(a, b uint8) int { return int(b) - int(a) })
	}
}

func (l *lengths) remove(k key) {
	f := family(k)
	if l.counts[f][k.bits]--; l.counts[f][k.bits] == 0 {
		l.used[f] = slices.DeleteFunc(l.used[f], func(bits uint8) bool { return bits == k.bits })
	}
}

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
