package policy

import (
	"math/bits"
	"net/netip"
	"slices"

	"mef/internal/prefixset"
)

// A space is a set of packets of one way and one address family: those of which every property lies in a set of values. What a
// rule fits is a space, and so is what an expectation is about; what is left of a space when another is taken away is a few
// spaces that have nothing in common. So it can be reported exactly which packets reach a rule.
type space struct {
	proto        octets
	types        octets // of messages of ICMP; of other packets any value will do
	src, dst     prefixset.Set
	sport, dport []PortRange // of packets without ports any value will do
	in, out      Links
	states       States
	flags        TCPFlags // Syn, NotSyn or both; of packets without them any value will do
	users        Links    // numbers in words, "" for packets that no process sends
	groups       Links    // likewise
}

// octets is a set of numbers below 256: of protocols, or of types of messages.
type octets [4]uint64

var allOctets = octets{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}

// octetsOf returns the set of a list, in which none means all.
func octetsOf[T ~uint8](list []T) (s octets) {
	if len(list) == 0 {
		return allOctets
	}
	for _, n := range list {
		s[n/64] |= 1 << (n % 64)
	}
	return s
}

// set returns the numbers of the protocols that packets of a family can have.
func (p Protos) set(f Family) octets {
	of := p.Of(f)
	if len(p) > 0 && len(of) == 0 {
		return octets{}
	}
	return octetsOf(of)
}

func (s octets) has(n uint8) bool { return s[n/64]&(1<<(n%64)) != 0 }

func (s octets) empty() bool { return s == octets{} }

func (s octets) meet(o octets) octets {
	for i := range s {
		s[i] &= o[i]
	}
	return s
}

func (s octets) minus(o octets) octets {
	for i := range s {
		s[i] &^= o[i]
	}
	return s
}

// first returns a number of the set, one of the usual ones if there is one.
func (s octets) first(usual ...uint8) uint8 {
	for _, n := range usual {
		if s.has(n) {
			return n
		}
	}
	for i, word := range s {
		if word != 0 {
			return uint8(i*64 + bits.TrailingZeros64(word))
		}
	}
	return 0
}

// set returns the interfaces that fit.
func (i Interfaces) set() Links {
	if i.Any() {
		return LinksOf(Loopback).Others()
	}
	if i.Not {
		return LinksOf(append(slices.Clone(i.Names), Loopback)...).Others()
	}
	return LinksOf(i.Names...)
}

var allPorts = []PortRange{{0, 65535}}

func (p Ports) set() []PortRange {
	if !p.Given {
		return allPorts
	}
	return p.In
}

// MeetPorts returns what is in both of two sorted lists.
func MeetPorts(a, b []PortRange) []PortRange {
	var out []PortRange
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if first, last := max(a[i].First, b[j].First), min(a[i].Last, b[j].Last); first <= last {
			out = append(out, PortRange{first, last})
		}
		if a[i].Last < b[j].Last {
			i++
		} else {
			j++
		}
	}
	return out
}

func portsMeet(a, b []PortRange) bool {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i].Last < b[j].First:
			i++
		case b[j].Last < a[i].First:
			j++
		default:
			return true
		}
	}
	return false
}

// MinusPorts returns what is in a, and not in b, of two sorted lists.
func MinusPorts(a, b []PortRange) []PortRange {
	var out []PortRange
	for _, r := range a {
		first, last := int(r.First), int(r.Last)
		for _, cut := range b {
			if int(cut.Last) < first || int(cut.First) > last {
				continue
			}
			if int(cut.First) > first {
				out = append(out, PortRange{uint16(first), cut.First - 1})
			}
			first = int(cut.Last) + 1
		}
		if first <= last {
			out = append(out, PortRange{uint16(first), r.Last})
		}
	}
	return out
}

// Everything returns all addresses of a family.
func Everything(f Family) prefixset.Set {
	if f == V4 {
		return prefixset.New(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	return prefixset.New(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

// of returns what of a family fits.
func (a Addrs) of(f Family) prefixset.Set {
	if !a.Given {
		return Everything(f)
	}
	return f.Of(a.In)
}

// space returns the packets of a family that fit the rule; ok is false if there are none.
func (r *Rule) space(f Family) (s space, ok bool) {
	if r.Family&f == 0 {
		return s, false
	}
	s = space{
		proto: r.Protos.set(f), types: octetsOf(r.Types), src: r.Src.of(f), dst: r.Dst.of(f), sport: r.Sport.set(), dport: r.Dport.set(),
		in: r.In.set(), out: r.Out.set(), states: r.States, flags: r.Flags.bits(),
	}
	s.users, s.groups = r.Owners.sets()
	// Packets to this host leave by no interface, and packets from it arrive by none.
	if r.Dir == In {
		s.out = LinksOf("")
	}
	if r.Dir == Out {
		s.in = LinksOf("")
	}
	return s, !s.empty()
}

func (s *space) empty() bool {
	return s.proto.empty() || s.types.empty() || s.src.Len() == 0 || s.dst.Len() == 0 || len(s.sport) == 0 || len(s.dport) == 0 ||
		s.in.Empty() || s.out.Empty() || s.states == 0 || s.flags == 0 || s.users.Empty() || s.groups.Empty()
}

// meets reports whether any packet is in both. It costs next to nothing where none is.
func (s *space) meets(o *space) bool {
	if s.states&o.states == 0 || s.flags&o.flags == 0 || s.proto.meet(o.proto).empty() || s.types.meet(o.types).empty() || !portsMeet(s.dport, o.dport) || !portsMeet(s.sport, o.sport) {
		return false
	}
	return s.src.Meets(o.src) && s.dst.Meets(o.dst) && s.in.meets(o.in) && s.out.meets(o.out) && s.users.meets(o.users) && s.groups.meets(o.groups)
}

// meet returns the packets that are in both; ok is false if there are none.
func (s *space) meet(o *space) (both space, ok bool) {
	if !s.meets(o) {
		return both, false
	}
	return space{
		states: s.states & o.states, flags: s.flags & o.flags, proto: s.proto.meet(o.proto), types: s.types.meet(o.types),
		sport: MeetPorts(s.sport, o.sport), dport: MeetPorts(s.dport, o.dport),
		src: s.src.Intersect(o.src), dst: s.dst.Intersect(o.dst),
		in: s.in.Meet(o.in), out: s.out.Meet(o.out), users: s.users.Meet(o.users), groups: s.groups.Meet(o.groups),
	}, true
}

// cuts take, by one property each, from what is left of a space the part in which that property differs from all of both; what is
// left then has only values of it that both has.
var cuts = [...]func(part, left, both *space){
	func(part, left, both *space) { part.states, left.states = left.states&^both.states, both.states },
	func(part, left, both *space) { part.flags, left.flags = left.flags&^both.flags, both.flags },
	func(part, left, both *space) { part.proto, left.proto = left.proto.minus(both.proto), both.proto },
	func(part, left, both *space) { part.types, left.types = left.types.minus(both.types), both.types },
	func(part, left, both *space) { part.dport, left.dport = MinusPorts(left.dport, both.dport), both.dport },
	func(part, left, both *space) { part.sport, left.sport = MinusPorts(left.sport, both.sport), both.sport },
	func(part, left, both *space) { part.in, left.in = left.in.Minus(both.in), both.in },
	func(part, left, both *space) { part.out, left.out = left.out.Minus(both.out), both.out },
	func(part, left, both *space) { part.users, left.users = left.users.Minus(both.users), both.users },
	func(part, left, both *space) { part.groups, left.groups = left.groups.Minus(both.groups), both.groups },
	func(part, left, both *space) { part.src, left.src = left.src.Subtract(both.src), both.src },
	func(part, left, both *space) { part.dst, left.dst = left.dst.Subtract(both.dst), both.dst },
}

// without returns what of the parts is not in o.
func without(parts []space, o *space) []space {
	var left []space
	for i := range parts {
		if both, ok := parts[i].meet(o); ok {
			left = parts[i].minus(left, &both)
		} else {
			left = append(left, parts[i])
		}
	}
	return left
}

// minus appends to parts the packets of s that are not in both, which is what s and another have in common. The parts have
// nothing in common.
func (s *space) minus(parts []space, both *space) []space {
	left := *s
	for _, cut := range cuts {
		part := left
		if cut(&part, &left, both); !part.empty() {
			parts = append(parts, part)
		}
	}
	return parts
}
