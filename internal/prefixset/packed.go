package prefixset

import (
	"encoding/binary"
	"iter"
	"math"
	"net/netip"
	"slices"
)

// A Packed is an immutable set of very many addresses: a list of a million takes four bytes for each IPv4 address and sixteen for each
// IPv6 address. Its entries are single addresses (hosts) and ranges of several (nets). Nets are merged where they overlap or touch, and
// no host lies within a net; hosts that follow one another remain hosts. A nil *Packed is empty.
type Packed struct {
	v4 half[word4]
	v6 half[word6]
}

// A word is an address of one family as a number.
type word[A any] interface {
	compare(A) int
	next() A // 0 after the highest
	prev() A
	zero() bool
}

type word4 uint32

func (a word4) compare(b word4) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
func (a word4) next() word4 { return a + 1 }
func (a word4) prev() word4 { return a - 1 }
func (a word4) zero() bool  { return a == 0 }

type word6 struct{ hi, lo uint64 }

func (a word6) compare(b word6) int {
	switch {
	case a.hi < b.hi || a.hi == b.hi && a.lo < b.lo:
		return -1
	case a == b:
		return 0
	}
	return 1
}

func (a word6) next() word6 {
	if a.lo++; a.lo == 0 {
		a.hi++
	}
	return a
}

func (a word6) prev() word6 {
	if a.lo == 0 {
		a.hi--
	}
	a.lo--
	return a
}

func (a word6) zero() bool { return a == word6{} }

func toWord4(a netip.Addr) word4 {
	b := a.As4()
	return word4(binary.BigEndian.Uint32(b[:]))
}

func toWord6(a netip.Addr) word6 {
	b := a.As16()
	return word6{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (a word4) addr() netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(a))
	return netip.AddrFrom4(b)
}

func (a word6) addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// A span is a range of several addresses, both ends included.
type span[A word[A]] struct{ first, last A }

func (s span[A]) compare(o span[A]) int {
	if c := s.first.compare(o.first); c != 0 {
		return c
	}
	return s.last.compare(o.last)
}

// A half has the entries of one family.
type half[A word[A]] struct {
	hosts []A       // ascending
	nets  []span[A] // ascending, disjoint, not adjacent
}

// normalized returns the entries in the form that Packed describes. It takes over the slices.
func normalized[A word[A]](hosts []A, nets []span[A]) half[A] {
	if !slices.IsSortedFunc(nets, span[A].compare) {
		slices.SortFunc(nets, span[A].compare)
	}
	merged := nets[:0]
	for _, n := range nets {
		if len(merged) > 0 {
			end := &merged[len(merged)-1]
			if after := end.last.next(); after.zero() || n.first.compare(after) <= 0 {
				if n.last.compare(end.last) > 0 {
					end.last = n.last
				}
				continue
			}
		}
		merged = append(merged, n)
	}
	if !slices.IsSortedFunc(hosts, A.compare) {
		slices.SortFunc(hosts, A.compare)
	}
	single, j := hosts[:0], 0
	for _, h := range hosts {
		for j < len(merged) && merged[j].last.compare(h) < 0 {
			j++
		}
		within := j < len(merged) && merged[j].first.compare(h) <= 0
		if again := len(single) > 0 && single[len(single)-1].compare(h) == 0; !within && !again {
			single = append(single, h)
		}
	}
	return half[A]{slices.Clip(single), slices.Clip(merged)}
}

func (h half[A]) contains(a A) bool {
	if _, ok := slices.BinarySearchFunc(h.hosts, a, A.compare); ok {
		return true
	}
	i, _ := slices.BinarySearchFunc(h.nets, a, func(s span[A], a A) int { return s.last.compare(a) })
	return i < len(h.nets) && h.nets[i].first.compare(a) <= 0
}

// subtract returns the addresses that are not in cuts, which are ascending and disjoint, and whether that is anything else than h.
func (h half[A]) subtract(cuts []span[A]) (rest half[A], changed bool) {
	meets := func(first, last A) int { // the index of the first cut in a range; len(cuts) if there is none
		i, _ := slices.BinarySearchFunc(cuts, first, func(s span[A], a A) int { return s.last.compare(a) })
		if i < len(cuts) && cuts[i].first.compare(last) > 0 {
			return len(cuts)
		}
		return i
	}
	keep := func(a A) bool { return meets(a, a) == len(cuts) }
	if len(cuts) == 0 || !slices.ContainsFunc(h.hosts, func(a A) bool { return !keep(a) }) &&
		!slices.ContainsFunc(h.nets, func(s span[A]) bool { return meets(s.first, s.last) < len(cuts) }) {
		return h, false
	}
	hosts := make([]A, 0, len(h.hosts))
	for _, a := range h.hosts {
		if keep(a) {
			hosts = append(hosts, a)
		}
	}
	nets := make([]span[A], 0, len(h.nets))
	add := func(first, last A) {
		if first.compare(last) == 0 {
			hosts = append(hosts, first)
		} else if first.compare(last) < 0 {
			nets = append(nets, span[A]{first, last})
		}
	}
	for _, n := range h.nets {
		first, gone := n.first, false
		for i := meets(n.first, n.last); i < len(cuts) && cuts[i].first.compare(n.last) <= 0; i++ {
			if cuts[i].first.compare(first) > 0 {
				add(first, cuts[i].first.prev())
			}
			if gone = cuts[i].last.compare(n.last) >= 0; gone {
				break
			}
			first = cuts[i].last.next()
		}
		if !gone {
			add(first, n.last)
		}
	}
	return normalized(hosts, nets), true
}

// Set returns the addresses as a Set.
func (p *Packed) Set() Set {
	var ranges []Range
	for _, v6 := range []bool{false, true} {
		for a := range p.Hosts(v6) {
			ranges = append(ranges, Range{a, a})
		}
		ranges = slices.AppendSeq(ranges, p.Nets(v6))
	}
	return FromRanges(ranges)
}

// Complement returns the addresses of both families that are not in p.
func (p *Packed) Complement() *Packed {
	p = p.orEmpty()
	return &Packed{p.v4.complement(), p.v6.complement()}
}

func (h half[A]) complement() (out half[A]) {
	var first A // of the gap before what comes next
	ended := false
	gap := func(last A) {
		switch c := first.compare(last); {
		case c == 0:
			out.hosts = append(out.hosts, first)
		case c < 0:
			out.nets = append(out.nets, span[A]{first, last})
		}
	}
	for i, j := 0, 0; i < len(h.hosts) || j < len(h.nets); {
		var next span[A]
		if j == len(h.nets) || i < len(h.hosts) && h.hosts[i].compare(h.nets[j].first) < 0 {
			next = span[A]{h.hosts[i], h.hosts[i]}
			i++
		} else {
			next = h.nets[j]
			j++
		}
		if !next.first.zero() {
			gap(next.first.prev())
		}
		first = next.last.next()
		ended = first.zero()
	}
	if !ended {
		var zero A
		gap(zero.prev())
	}
	return out
}

// Join returns the addresses of all sets: one of them, if the others are empty.
func Join(all ...*Packed) *Packed {
	all = slices.DeleteFunc(all, func(p *Packed) bool { return p.Len() == 0 })
	if len(all) <= 1 {
		return append(all, nil)[0]
	}
	var sum Packed
	for _, p := range all {
		sum.v4.hosts, sum.v4.nets = append(sum.v4.hosts, p.v4.hosts...), append(sum.v4.nets, p.v4.nets...)
		sum.v6.hosts, sum.v6.nets = append(sum.v6.hosts, p.v6.hosts...), append(sum.v6.nets, p.v6.nets...)
	}
	return &Packed{normalized(sum.v4.hosts, sum.v4.nets), normalized(sum.v6.hosts, sum.v6.nets)}
}

// A Packer collects the entries of a Packed. The zero value is empty.
type Packer struct{ p Packed }

// Add adds a prefix, IPv4 if it lies within ::ffff:0:0/96. An invalid one is left out.
func (b *Packer) Add(p netip.Prefix) {
	if p.IsValid() {
		b.AddRange(RangeOf(p))
	}
}

// AddRange adds the addresses from r.First to r.Last, which are of one family, without zone and not IPv4-mapped. An empty or mixed range
// is left out.
func (b *Packer) AddRange(r Range) {
	switch {
	case r.First.BitLen() != r.Last.BitLen() || r.First.Compare(r.Last) > 0:
	case r.First.Is4() && r.First == r.Last:
		b.p.v4.hosts = append(b.p.v4.hosts, toWord4(r.First))
	case r.First.Is4():
		b.p.v4.nets = append(b.p.v4.nets, span[word4]{toWord4(r.First), toWord4(r.Last)})
	case r.First == r.Last:
		b.p.v6.hosts = append(b.p.v6.hosts, toWord6(r.First))
	default:
		b.p.v6.nets = append(b.p.v6.nets, span[word6]{toWord6(r.First), toWord6(r.Last)})
	}
}

// Pack returns the set of what was added, and leaves the Packer empty.
func (b *Packer) Pack() *Packed {
	p := &Packed{normalized(b.p.v4.hosts, b.p.v4.nets), normalized(b.p.v6.hosts, b.p.v6.nets)}
	b.p = Packed{}
	return p
}

// Len returns the number of entries.
func (p *Packed) Len() int {
	if p == nil {
		return 0
	}
	return len(p.v4.hosts) + len(p.v4.nets) + len(p.v6.hosts) + len(p.v6.nets)
}

// Counts returns the number of entries of a family.
func (p *Packed) Counts(v6 bool) (hosts, nets int) {
	switch {
	case p == nil:
		return 0, 0
	case v6:
		return len(p.v6.hosts), len(p.v6.nets)
	}
	return len(p.v4.hosts), len(p.v4.nets)
}

// Addresses returns the number of addresses of a family; of very many, about.
func (p *Packed) Addresses(v6 bool) float64 {
	if p == nil {
		return 0
	}
	if v6 {
		sum := float64(len(p.v6.hosts))
		for _, n := range p.v6.nets {
			sum += float64(n.last.hi-n.first.hi)*math.Exp2(64) + float64(n.last.lo) - float64(n.first.lo) + 1
		}
		return sum
	}
	sum := float64(len(p.v4.hosts))
	for _, n := range p.v4.nets {
		sum += float64(n.last-n.first) + 1
	}
	return sum
}

// Networks64 returns the number of networks /64 of IPv6 of which the set has addresses; one of which it has several ranges counts several times.
func (p *Packed) Networks64() float64 {
	if p == nil {
		return 0
	}
	sum := float64(len(p.v6.hosts))
	for _, n := range p.v6.nets {
		sum += float64(n.last.hi-n.first.hi) + 1
	}
	return sum
}

// Contains reports whether addr is in the set.
func (p *Packed) Contains(addr netip.Addr) bool {
	if addr = addr.Unmap(); p == nil || !addr.IsValid() {
		return false
	}
	if addr.Is4() {
		return p.v4.contains(toWord4(addr))
	}
	return p.v6.contains(toWord6(addr))
}

// Subtract returns the addresses of p that are not in s: p itself if that is all of them.
func (p *Packed) Subtract(s Set) *Packed {
	if p == nil {
		return nil
	}
	var cuts4 []span[word4]
	var cuts6 []span[word6]
	for _, r := range s.ranges {
		if r.First.Is4() {
			cuts4 = append(cuts4, span[word4]{toWord4(r.First), toWord4(r.Last)})
		} else {
			cuts6 = append(cuts6, span[word6]{toWord6(r.First), toWord6(r.Last)})
		}
	}
	v4, changed4 := p.v4.subtract(cuts4)
	v6, changed6 := p.v6.subtract(cuts6)
	if !changed4 && !changed6 {
		return p
	}
	return &Packed{v4, v6}
}

// Equal reports whether both have the same entries.
func (p *Packed) Equal(o *Packed) bool {
	if p == o || p.Len() == 0 && o.Len() == 0 {
		return true
	}
	return p != nil && o != nil && slices.Equal(p.v4.hosts, o.v4.hosts) && slices.Equal(p.v4.nets, o.v4.nets) &&
		slices.Equal(p.v6.hosts, o.v6.hosts) && slices.Equal(p.v6.nets, o.v6.nets)
}

// Changes returns the entries of before that after does not have, and those that it has beside.
func Changes(before, after *Packed) (gone, came *Packed) {
	gone, came = &Packed{}, &Packed{}
	before, after = before.orEmpty(), after.orEmpty()
	gone.v4, came.v4 = changes(before.v4, after.v4)
	gone.v6, came.v6 = changes(before.v6, after.v6)
	return gone, came
}

func (p *Packed) orEmpty() *Packed {
	if p == nil {
		return &Packed{}
	}
	return p
}

func changes[A word[A]](before, after half[A]) (gone, came half[A]) {
	gone.hosts, came.hosts = differ(before.hosts, after.hosts, A.compare)
	gone.nets, came.nets = differ(before.nets, after.nets, span[A].compare)
	return gone, came
}

func differ[E any](before, after []E, compare func(a, b E) int) (gone, came []E) {
	i, j := 0, 0
	for i < len(before) && j < len(after) {
		switch c := compare(before[i], after[j]); {
		case c < 0:
			gone = append(gone, before[i])
			i++
		case c > 0:
			came = append(came, after[j])
			j++
		default:
			i++
			j++
		}
	}
	return append(gone, before[i:]...), append(came, after[j:]...)
}

// Chunks yields p in parts of at most n entries, which together are p.
func (p *Packed) Chunks(n int) iter.Seq[*Packed] {
	return func(yield func(*Packed) bool) {
		if p == nil {
			return
		}
		for s := range slices.Chunk(p.v4.hosts, n) {
			if !yield(&Packed{v4: half[word4]{hosts: s}}) {
				return
			}
		}
		for s := range slices.Chunk(p.v4.nets, n) {
			if !yield(&Packed{v4: half[word4]{nets: s}}) {
				return
			}
		}
		for s := range slices.Chunk(p.v6.hosts, n) {
			if !yield(&Packed{v6: half[word6]{hosts: s}}) {
				return
			}
		}
		for s := range slices.Chunk(p.v6.nets, n) {
			if !yield(&Packed{v6: half[word6]{nets: s}}) {
				return
			}
		}
	}
}

// Hosts yields the single addresses of a family, ascending.
func (p *Packed) Hosts(v6 bool) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if p == nil {
			return
		}
		if v6 {
			for _, a := range p.v6.hosts {
				if !yield(a.addr()) {
					return
				}
			}
			return
		}
		for _, a := range p.v4.hosts {
			if !yield(a.addr()) {
				return
			}
		}
	}
}

// Nets yields the ranges of several addresses of a family, ascending, disjoint and not adjacent. Range.Prefixes cuts one into prefixes.
func (p *Packed) Nets(v6 bool) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		if p == nil {
			return
		}
		if v6 {
			for _, n := range p.v6.nets {
				if !yield(Range{n.first.addr(), n.last.addr()}) {
					return
				}
			}
			return
		}
		for _, n := range p.v4.nets {
			if !yield(Range{n.first.addr(), n.last.addr()}) {
				return
			}
		}
	}
}

// Prefixes returns the fewest prefixes that make up the range, ascending.
func (r Range) Prefixes() []netip.Prefix { return appendPrefixes(nil, r) }
