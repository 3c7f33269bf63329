// Package netkey has network prefixes as keys of tables: 17 bytes without pointers, so that a table of a million of them costs
// the garbage collector nothing.
package netkey

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"slices"
)

// A Key is a masked prefix. IPv4 is stored as IPv4-mapped IPv6, its length plus 96. The zero Key is no prefix.
type Key struct {
	Addr [16]byte
	Bits uint8
}

// Size is how many bytes AppendTo appends.
const Size = 17

const mappedBits = 96 // what an IPv4 prefix length grows by in a Key

// Widths are the lengths of the IPv6 networks that providers give to one customer, the widest last.
//
// An attacker who owns a /48 has 65,536 networks of 64 bits to hop through; banning them one by one is a race we lose.
var Widths = [...]int{64, 56, 48}

// Of returns the key of addr's network of so many bits, counted in addr's own family. It is zero if addr does not have so many.
func Of(addr netip.Addr, bits int) Key {
	if bits < 0 || bits > addr.BitLen() {
		return Key{}
	}
	if addr.Is4() {
		bits += mappedBits
	}
	return Key{Addr: addr.As16()}.Widen(bits)
}

// OfPrefix returns the key of a prefix, which is masked.
func OfPrefix(p netip.Prefix) Key { return Of(p.Addr(), p.Bits()) }

// Exact returns the key of the one address.
func Exact(addr netip.Addr) Key {
	if !addr.IsValid() {
		return Key{}
	}
	return Key{Addr: addr.As16(), Bits: 128}
}

// Prefix returns what the key was made of.
func (k Key) Prefix() netip.Prefix {
	a := netip.AddrFrom16(k.Addr)
	if a.Is4In6() {
		return netip.PrefixFrom(a.Unmap(), int(k.Bits)-mappedBits)
	}
	return netip.PrefixFrom(a, int(k.Bits))
}

// Is4 reports whether the prefix is one of IPv4.
func (k Key) Is4() bool {
	return binary.BigEndian.Uint64(k.Addr[:]) == 0 && binary.BigEndian.Uint32(k.Addr[8:]) == 0xffff
}

// In reports whether k is inside a network, or is it.
func (k Key) In(net Key) bool { return k.Bits >= net.Bits && k.Widen(int(net.Bits)) == net }

// Widen returns the network of so many bits around k, counted as in a Key.
func (k Key) Widen(bits int) Key {
	k.Bits = uint8(bits)
	high, low := k.Addr[:8], k.Addr[8:]
	if bits <= 64 {
		binary.BigEndian.PutUint64(high, binary.BigEndian.Uint64(high)&^(^uint64(0)>>bits))
		clear(low)
	} else {
		binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)&^(^uint64(0)>>(bits-64)))
	}
	return k
}

// Around4 and Around6 are the lengths of the networks that Around returns.
const (
	Around4 = 24
	Around6 = 48
)

// Around returns the network that a source is in: what one customer is given at most, usually. For a single IPv6 address it is a /120:
// behind a translator, that stands for an IPv4 /24.
func (k Key) Around() Key {
	switch {
	case k.Bits == 128:
		k.Addr[15], k.Bits = 0, 120
	case k.Bits > Around6:
		k = k.Widen(Around6)
	}
	return k
}

// Hash returns a hash of the key's address that cannot be predicted without the seed.
func (k Key) Hash(seed maphash.Seed) uint32 { return uint32(maphash.Bytes(seed, k.Addr[:])) }

// AppendTo appends the key to b, in Size bytes.
func (k Key) AppendTo(b []byte) []byte { return append(append(b, k.Bits), k.Addr[:]...) }

// Parse returns what AppendTo wrote. ok is false if b is anything else, or the prefix is not masked.
func Parse(b []byte) (k Key, ok bool) {
	if len(b) != Size || b[0] > 128 || b[0] == 0 {
		return Key{}, false
	}
	k = Key{[16]byte(b[1:]), b[0]}
	if k.Is4() && k.Bits < mappedBits || k.Widen(int(k.Bits)) != k {
		return Key{}, false
	}
	return k, true
}

// Lengths are the lengths of the keys in a table, so that a network around an address is looked up once for each length that there is.
// The zero value is that of an empty table.
type Lengths struct {
	counts [2][129]int // keys by family (0: IPv4) and length
	used   [2][]uint8  // the lengths whose count is not zero, longest first
}

func family(k Key) int {
	if k.Is4() {
		return 0
	}
	return 1
}

// Of returns the lengths of the keys of k's family, longest first.
func (l *Lengths) Of(k Key) []uint8 { return l.used[family(k)] }

// Add counts a key that enters the table.
func (l *Lengths) Add(k Key) {
	f := family(k)
	if l.counts[f][k.Bits]++; l.counts[f][k.Bits] == 1 {
		l.used[f] = append(l.used[f], k.Bits)
		slices.SortFunc(l.used[f], func(a, b uint8) int { return int(b) - int(a) })
	}
}

// Remove counts a key that leaves the table.
func (l *Lengths) Remove(k Key) {
	f := family(k)
	if l.counts[f][k.Bits]--; l.counts[f][k.Bits] == 0 {
		l.used[f] = slices.DeleteFunc(l.used[f], func(bits uint8) bool { return bits == k.Bits })
	}
}
