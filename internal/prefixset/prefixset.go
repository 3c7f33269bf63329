// Package prefixset has a set of address prefixes that can report what it contains and what it touches.
//
// It holds allow lists, a host's own addresses and lists of bans: read often, built now and then, of both families, of any
// width and size. Nested and adjacent prefixes are merged, so a set is a sorted list of disjoint ranges.
package prefixset

import (
	"cmp"
	"net/netip"
	"slices"
)

// A Range is an inclusive range of addresses of one family.
type Range struct {
	First, Last netip.Addr
}

// RangeOf returns the addresses of p.
func RangeOf(p netip.Prefix) Range {
	p = Normalize(p)
	return Range{p.Addr(), last(p)}
}

// Prefix returns the range as one prefix; ok is false if it takes several.
func (r Range) Prefix() (p netip.Prefix, ok bool) {
	first, end := r.First.As16(), r.Last.As16()
	same := 0 // bits at the beginning that all addresses have
	for same < 128 && first[same/8]>>(7-same%8) == end[same/8]>>(7-same%8) {
		same++
	}
	p = netip.PrefixFrom(r.First, same-128+r.First.BitLen())
	return p, p.Masked().Addr() == r.First && last(p) == r.Last
}

// A Set is an immutable set of addresses. The zero value is empty.
type Set struct {
	ranges []Range // ascending, disjoint, not adjacent; IPv4 before IPv6
}

// New returns the union of prefixes.
func New(prefixes ...netip.Prefix) Set {
	ranges := make([]Range, 0, len(prefixes))
	for _, p := range prefixes {
		if p.IsValid() {
			ranges = append(ranges, RangeOf(p))
		}
	}
	return FromRanges(ranges)
}

// FromRanges returns the union of ranges, whose order does not matter. It takes over the slice.
func FromRanges(ranges []Range) Set {
	slices.SortFunc(ranges, func(a, b Range) int {
		return cmp.Or(a.First.Compare(b.First), a.Last.Compare(b.Last))
	})
	var out []Range
	for _, r := range ranges {
		if n := len(out); n > 0 && out[n-1].First.BitLen() == r.First.BitLen() {
			end := &out[n-1]
			if next := end.Last.Next(); r.First.Compare(end.Last) <= 0 || next.IsValid() && next == r.First {
				if r.Last.Compare(end.Last) > 0 {
					end.Last = r.Last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return Set{out}
}

// Normalize returns p masked, and as IPv4 where it lies within ::ffff:0:0/96.
func Normalize(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// Contains reports whether addr is in the set.
func (s Set) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	i := s.search(addr)
	return i < len(s.ranges) && s.ranges[i].First.Compare(addr) <= 0 && s.ranges[i].First.BitLen() == addr.BitLen()
}

// Overlaps reports whether any address of p is in the set.
func (s Set) Overlaps(p netip.Prefix) bool {
	if len(s.ranges) == 0 {
		return false
	}
	if p.IsSingleIP() {
		return s.Contains(p.Addr())
	}
	r := RangeOf(p)
	i := s.search(r.First)
	return i < len(s.ranges) && s.ranges[i].First.Compare(r.Last) <= 0
}

// Covers reports whether the set has every address of p.
func (s Set) Covers(p netip.Prefix) bool {
	return s.Contains(p.Addr()) && (p.IsSingleIP() || New(p).Subtract(s).Len() == 0)
}

// search returns the index of the first range that does not end before addr.
func (s Set) search(addr netip.Addr) int {
	i, _ := slices.BinarySearchFunc(s.ranges, addr, func(r Range, a netip.Addr) int { return r.Last.Compare(a) })
	return i
}

// Len returns the number of disjoint ranges.
func (s Set) Len() int { return len(s.ranges) }

// Ranges returns the disjoint ranges in ascending order, IPv4 before IPv6. The caller must not change them.
func (s Set) Ranges() []Range { return s.ranges }

// Equal reports whether both sets hold the same addresses.
func (s Set) Equal(o Set) bool { return slices.Equal(s.ranges, o.ranges) }

// Union returns the addresses of either set.
func (s Set) Union(o Set) Set { return FromRanges(slices.Concat(s.ranges, o.ranges)) }

// Intersect returns the addresses that are in both sets.
func (s Set) Intersect(o Set) Set {
	var out []Range
	for i, j := 0, 0; i < len(s.ranges) && j < len(o.ranges); {
		a, b := s.ranges[i], o.ranges[j]
		first, last := a.First, a.Last
		if b.First.Compare(first) > 0 {
			first = b.First
		}
		if b.Last.Compare(last) < 0 {
			last = b.Last
		}
		if first.Compare(last) <= 0 {
			out = append(out, Range{first, last})
		}
		if a.Last.Compare(b.Last) < 0 {
			i++
		} else {
			j++
		}
	}
	return Set{out}
}

// Meets reports whether any address is in both sets.
func (s Set) Meets(o Set) bool {
	for i, j := 0, 0; i < len(s.ranges) && j < len(o.ranges); {
		a, b := &s.ranges[i], &o.ranges[j]
		switch {
		case a.Last.Compare(b.First) < 0:
			i++
		case b.Last.Compare(a.First) < 0:
			j++
		default:
			return true
		}
	}
	return false
}

// Subtract returns the addresses of s that are not in o.
func (s Set) Subtract(o Set) Set {
	var out []Range
	j := 0
	for _, r := range s.ranges {
		for j < len(o.ranges) && o.ranges[j].Last.Compare(r.First) < 0 {
			j++
		}
		first, gone := r.First, false
		for k := j; k < len(o.ranges) && o.ranges[k].First.Compare(r.Last) <= 0; k++ {
			cut := o.ranges[k]
			if cut.First.Compare(first) > 0 {
				out = append(out, Range{first, cut.First.Prev()})
			}
			if cut.Last.Compare(r.Last) >= 0 {
				gone = true
				break
			}
			first = cut.Last.Next()
		}
		if !gone {
			out = append(out, Range{first, r.Last})
		}
	}
	return Set{out}
}

// Prefixes returns the fewest prefixes that make up the set, ascending.
func (s Set) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range s.ranges {
		out = appendPrefixes(out, r)
	}
	return out
}

// appendPrefixes cuts r into aligned blocks, the widest that fits first.
func appendPrefixes(out []netip.Prefix, r Range) []netip.Prefix {
	for first := r.First; ; {
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			if wider.Masked().Addr() != first || last(wider).Compare(r.Last) > 0 {
				break
			}
			p = wider
		}
		out = append(out, p)
		if end := last(p); end.Compare(r.Last) >= 0 {
			return out
		} else {
			first = end.Next()
		}
	}
}

// last returns the highest address of p, which is masked.
func last(p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	if p.IsSingleIP() {
		return p.Addr()
	}
	b := p.Addr().As16() // of IPv4, its mapped form
	for host := p.Addr().BitLen() - p.Bits(); host > 0; host-- {
		bit := 128 - host
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	if p.Addr().Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}
