package importer

import (
	"cmp"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// A Match is a description of packets: those of which every property is among some values. All fits every packet; the zero value
// fits none.
type Match struct {
	Family       policy.Family
	Protos       policy.Protos    // sorted; nil: any
	Types        policy.ICMPTypes // likewise; only where Protos is ICMP or ICMP6 alone
	Src, Dst     policy.Addrs
	Sport, Dport policy.Ports
	In, Out      policy.Links // the interface without a name is none: that of packets to and from this host
	States       policy.States
	Flags        policy.TCPFlags // of TCP: Syn, NotSyn or both
	Kinds        AddrKinds       // of the destination
	Users        []uint32        // of the process that sends the packet; nil: any, or none
	Groups       []uint32        // likewise
}

// All returns the match of every packet.
func All() Match {
	return Match{Family: policy.Any, In: policy.AllLinks(), Out: policy.AllLinks(), States: policy.AnyState, Flags: anyFlags, Kinds: anyKind}
}

// AddrKinds is a set of kinds of addresses, as the routing table of the host has them.
type AddrKinds uint8

// The kinds.
const (
	Local     AddrKinds = 1 << iota // of this host
	Broadcast                       // of all hosts of a network; IPv6 has none
	Multicast
	Remote  // all others
	anyKind = 1<<iota - 1
)

// Kind returns the kind that iptables and nft have a name for.
func Kind(name string) (k AddrKinds, ok bool) {
	k, ok = map[string]AddrKinds{"local": Local, "broadcast": Broadcast, "multicast": Multicast}[strings.ToLower(name)]
	return k, ok
}

// kindsOf returns the kinds of destinations that packets of a way have.
func kindsOf(d policy.Dir) AddrKinds {
	return map[policy.Dir]AddrKinds{policy.In: Local | Broadcast | Multicast, policy.Forward: Multicast | Remote, policy.Out: anyKind}[d]
}

const anyFlags = policy.Syn | policy.NotSyn

func unique[T cmp.Ordered](list []T) []T {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// ProtosOf returns protocols by their numbers, whose order does not matter.
func ProtosOf(numbers ...policy.Proto) policy.Protos { return unique(numbers) }

// TypesOf returns types of ICMP messages, whose order does not matter.
func TypesOf(types ...uint8) policy.ICMPTypes { return unique(types) }

// PortsOf returns ports, whose order does not matter. All ports are as if nothing was reported.
func PortsOf(ranges ...policy.PortRange) policy.Ports {
	in := policy.MergePorts(ranges)
	if len(in) == 1 && in[0] == (policy.PortRange{First: 0, Last: 65535}) {
		return policy.Ports{}
	}
	return policy.Ports{Given: true, In: in}
}

// Meet returns the packets that fit both; ok is false if there are none. An empty set that has a name fits none today, and stays.
func (m Match) Meet(o Match) (both Match, ok bool) {
	both = Match{
		Family: m.Family & o.Family,
		Protos: meetLists(m.Protos, o.Protos), Types: meetLists(m.Types, o.Types),
		Src: meetAddrs(m.Src, o.Src), Dst: meetAddrs(m.Dst, o.Dst),
		Sport: meetPorts(m.Sport, o.Sport), Dport: meetPorts(m.Dport, o.Dport),
		In: m.In.Meet(o.In), Out: m.Out.Meet(o.Out),
		States: m.States & o.States, Flags: m.Flags & o.Flags, Kinds: m.Kinds & o.Kinds,
		Users: meetLists(m.Users, o.Users), Groups: meetLists(m.Groups, o.Groups),
	}
	for _, a := range []policy.Addrs{both.Src, both.Dst} {
		if a.In.Len() > 0 {
			both.Family &= a.Families()
		}
	}
	return both, !both.empty()
}

func (m *Match) empty() bool {
	return m.Flags == 0 || m.Kinds == 0 || m.Users != nil && len(m.Users) == 0 || m.Groups != nil && len(m.Groups) == 0 || m.Family == 0 || m.States == 0 || m.Protos != nil && len(m.Protos) == 0 || m.Types != nil && len(m.Types) == 0 || m.In.Empty() || m.Out.Empty() ||
		emptyAddrs(m.Src) || emptyAddrs(m.Dst) || emptyPorts(m.Sport) || emptyPorts(m.Dport)
}

func emptyAddrs(a policy.Addrs) bool { return a.Given && a.Set == "" && a.In.Len() == 0 }
func emptyPorts(p policy.Ports) bool { return p.Given && p.Set == "" && len(p.In) == 0 }

// meetLists returns what is in both lists, of which nil has all.
func meetLists[L ~[]E, E comparable](a, b L) L {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return slices.DeleteFunc(slices.Clone(a), func(e E) bool { return !slices.Contains(b, e) })
}

// meetAddrs keeps the name of a set where it says the same.
func meetAddrs(a, b policy.Addrs) policy.Addrs {
	switch {
	case !a.Given:
		return b
	case !b.Given:
		return a
	}
	in := a.In.Intersect(b.In)
	switch {
	case in.Equal(a.In):
		return a
	case in.Equal(b.In):
		return b
	}
	return policy.Addrs{Given: true, In: in}
}

func meetPorts(a, b policy.Ports) policy.Ports {
	switch {
	case !a.Given:
		return b
	case !b.Given:
		return a
	}
	in := policy.MeetPorts(a.In, b.In)
	switch {
	case slices.Equal(in, a.In):
		return a
	case slices.Equal(in, b.In):
		return b
	}
	return policy.Ports{Given: true, In: in}
}

// otherPorts returns the ports that are not among sorted ranges.
func otherPorts(ranges []policy.PortRange) policy.Ports {
	return PortsOf(policy.MinusPorts([]policy.PortRange{{First: 0, Last: 65535}}, ranges)...)
}

// covers reports whether every packet that fits o fits m. It may say no where it could say yes.
func (m *Match) covers(o *Match) bool {
	return o.Family&^m.Family == 0 && o.States&^m.States == 0 && o.Flags&^m.Flags == 0 && o.Kinds&^m.Kinds == 0 &&
		coversList(m.Protos, o.Protos) && coversList(m.Types, o.Types) &&
		coversList(m.Users, o.Users) && coversList(m.Groups, o.Groups) &&
		coversPorts(m.Dport, o.Dport) && coversPorts(m.Sport, o.Sport) &&
		o.In.Minus(m.In).Empty() && o.Out.Minus(m.Out).Empty() &&
		coversAddrs(m.Src, o.Src) && coversAddrs(m.Dst, o.Dst)
}

func coversList[L ~[]E, E comparable](a, b L) bool {
	return a == nil || b != nil && len(meetLists(b, a)) == len(b)
}

func coversPorts(a, b policy.Ports) bool {
	return !a.Given || b.Given && slices.Equal(policy.MeetPorts(a.In, b.In), b.In)
}

func coversAddrs(a, b policy.Addrs) bool {
	return !a.Given || b.Given && b.In.Subtract(a.In).Len() == 0
}

// complement returns the packets that do not fit m, if m asks for one property alone, and one whose other values are known.
func (m Match) complement() (others Match, ok bool) {
	all := All()
	others = all
	asked := 0
	ask := func(yes bool, invert func()) {
		if yes {
			asked++
			invert()
		}
	}
	ok = true
	ask(m.Family != all.Family, func() { others.Family = all.Family &^ m.Family })
	ask(m.States != all.States, func() { others.States = all.States &^ m.States })
	ask(m.Flags != all.Flags, func() { others.Flags = all.Flags &^ m.Flags })
	ask(m.Kinds != all.Kinds, func() { others.Kinds = all.Kinds &^ m.Kinds })
	ask(m.Protos != nil, func() { ok = false }) // too many to name
	ask(m.Types != nil, func() { ok = false })
	ask(m.Users != nil || m.Groups != nil, func() { ok = false }) // packets that no process sends are not among the others
	ask(m.Src.Given, func() { others.Src, ok = otherAddrs(m.Src) })
	ask(m.Dst.Given, func() { others.Dst, ok = otherAddrs(m.Dst) })
	ask(m.Sport.Given, func() { others.Sport = otherPorts(m.Sport.In) })
	ask(m.Dport.Given, func() { others.Dport = otherPorts(m.Dport.In) })
	ask(!m.In.Equal(all.In), func() { others.In = m.In.Others() })
	ask(!m.Out.Equal(all.Out), func() { others.Out = m.Out.Others() })
	if asked == 0 {
		return Match{}, true
	}
	return others, ok && asked == 1
}

// Flags of TCP segments, as in the header.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
	allFlags = 1<<iota - 1
)

// flagBits are the flags by name.
var flagBits = map[string]uint8{"fin": flagFIN, "syn": flagSYN, "rst": flagRST, "psh": flagPSH, "ack": flagACK, "urg": flagURG, "all": allFlags, "none": 0}

// FlagBits returns the sum of flags of TCP by their names.
func FlagBits(names []string) (bits uint8, ok bool) {
	for _, name := range names {
		one, known := flagBits[strings.ToLower(name)]
		if !known {
			return 0, false
		}
		bits |= one
	}
	return bits, true
}

// inConnections are the flags of segments that connection tracking takes for valid, whatever PSH is. It takes all others for invalid.
var inConnections = []uint8{flagSYN, flagSYN | flagURG, flagSYN | flagACK, flagRST, flagRST | flagACK, flagFIN | flagACK, flagFIN | flagACK | flagURG, flagACK, flagACK | flagURG}

// FlagsOf returns the match of TCP segments of whose flags those in a mask are as given, or are not if not. If wider, more segments match, of
// which connection tracking takes all for invalid; ok is false if there is no such match.
func FlagsOf(mask, flags uint8, not bool) (m Match, wider, ok bool) {
	m = All()
	syn, others, valid, all := false, false, false, anyFlags
	for f := uint8(0); f <= allFlags; f++ {
		opens := f&(flagFIN|flagSYN|flagRST|flagACK) == flagSYN
		switch fits := (f&mask == flags) != not; {
		case fits && opens:
			syn = true
		case fits:
			others = true
		case opens:
			all &^= policy.Syn
		default:
			all &^= policy.NotSyn
		}
		valid = valid || (f&mask == flags) != not && slices.Contains(inConnections, f&^flagPSH)
	}
	switch {
	case !valid && others:
		m.Flags, m.States = policy.NotSyn, policy.Invalid
		return m, true, true
	case syn == (all&policy.Syn != 0) && others == (all&policy.NotSyn != 0):
		m.Flags = all
		return m, false, true
	}
	return m, false, false
}

// otherAddrs returns the addresses of the same family that are not in a; ok is false if they are not known.
func otherAddrs(a policy.Addrs) (policy.Addrs, bool) {
	switch a.Families() {
	case policy.V4, policy.V6:
	default:
		return policy.Addrs{}, a.In.Len() == 0
	}
	in := policy.Everything(a.Families()).Subtract(a.In)
	return policy.Addrs{Given: true, In: in}, Plain(in)
}

// Plain reports whether the set can be written down. IPv4 addresses in IPv6 (::ffff:0:0/96), and ranges that end among them, cannot:
// they are read as IPv4 addresses.
func Plain(s prefixset.Set) bool {
	return !slices.ContainsFunc(s.Ranges(), func(r prefixset.Range) bool { return r.First.Is4In6() || r.Last.Is4In6() })
}
