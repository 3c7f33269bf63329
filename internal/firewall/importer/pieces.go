package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// pieces cuts an entry into what rules of mef.rules can say, and what none can.
func (e *entry) pieces(d policy.Dir) []piece {
	whole := piece{Match: e.Match, entry: e, spare: e.spare}
	if e.kind != verdict {
		return []piece{whole}
	}
	switch owned := e.Users != nil || e.Groups != nil; {
	case owned && d != policy.Out:
		whole.odd = "mef.rules matches the owners of packets from this host only"
	case e.Users != nil && e.Groups != nil:
		whole.odd = "mef.rules matches users or groups in a rule, not both"
	}
	list := []piece{whole}
	for _, cut := range []func(piece) []piece{
		piece.byProto,
		func(p piece) []piece { return p.byKind(d) },
		func(p piece) []piece { return p.withoutPort0(func(m *Match) *policy.Ports { return &m.Sport }) },
		func(p piece) []piece { return p.withoutPort0(func(m *Match) *policy.Ports { return &m.Dport }) },
		func(p piece) []piece { return p.byLink(d, policy.Out, func(m *Match) *policy.Links { return &m.In }) },
		func(p piece) []piece { return p.byLink(d, policy.In, func(m *Match) *policy.Links { return &m.Out }) },
	} {
		var next []piece
		for _, p := range list {
			if p.odd != "" {
				next = append(next, p)
			} else {
				next = append(next, cut(p)...)
			}
		}
		list = next
	}
	return list
}

// Reasons for what cannot be written that are worth a note only: hardly any packet is concerned.
const (
	oddICMP  = "ICMP in IPv6 and ICMPv6 in IPv4, which mef.rules cannot name and no host uses, are left to the rules after it"
	oddPort0 = "packets with port 0, which mef.rules cannot name, are left to the rules after it"
)

// byProto makes a piece for each protocol.
func (p piece) byProto() (list []piece) {
	if p.Types != nil && (len(p.Protos) != 1 || p.Protos[0] != policy.ICMP && p.Protos[0] != policy.ICMP6 || slices.Contains(p.Types, 255)) {
		p.odd = "mef.rules has no such types of ICMP messages"
		return []piece{p}
	}
	if p.Protos == nil {
		if p.Sport.Given || p.Dport.Given {
			p.odd = "mef.rules has ports only of protocols that are named"
		}
		if p.Flags != anyFlags {
			p.odd = "mef.rules has flags of proto=tcp only"
		}
		return []piece{p}
	}
	for _, number := range p.Protos {
		one := p
		if one.Protos = (policy.Protos{number}); number != policy.TCP {
			one.Flags = anyFlags
		}
		switch own := number.Families(); {
		case !number.Named():
			one.odd = fmt.Sprintf("mef.rules has no protocol %d", number)
		case (p.Sport.Given || p.Dport.Given) && !number.HasPorts():
			one.odd = "mef.rules has no ports of proto=" + number.String()
		case own != policy.Any:
			if other := one; other.Family&^own != 0 {
				other.Family &^= own
				other.odd = oddICMP
				list = append(list, other)
			}
			if one.Family &= own; one.Family == 0 {
				continue
			}
		}
		list = append(list, one)
	}
	return list
}

// multicast is the addresses of groups, by family.
var multicast = map[policy.Family]netip.Prefix{policy.V4: netip.MustParsePrefix("224.0.0.0/4"), policy.V6: netip.MustParsePrefix("ff00::/8")}

// byKind writes kinds of destinations as addresses, as far as these are the same on every host.
func (p piece) byKind(d policy.Dir) (list []piece) {
	switch kinds := p.Kinds & kindsOf(d); {
	case kinds == kindsOf(d) || p.Family == policy.V6 && kinds == kindsOf(d)&^Broadcast:
		return []piece{p}
	case kinds == Multicast:
		for _, f := range []policy.Family{policy.V4, policy.V6} {
			one := p
			m := All()
			m.Family, m.Dst = f, policy.Addrs{Given: true, In: prefixset.New(multicast[f])}
			var ok bool
			if one.Match, ok = p.Match.Meet(m); ok {
				list = append(list, one)
			}
		}
		return list
	}
	p.odd = "mef.rules matches addresses, and which are local or broadcast addresses depends on the host"
	return []piece{p}
}

// withoutPort0 parts port 0 from the others.
func (p piece) withoutPort0(ports func(*Match) *policy.Ports) []piece {
	at := ports(&p.Match)
	if !at.Given || len(at.In) == 0 || at.In[0].First != 0 {
		return []piece{p}
	}
	zero := p
	zero.odd = oddPort0
	*ports(&zero.Match) = PortsOf(policy.PortRange{})
	rest := slices.Clone(at.In)
	if rest[0].First = 1; rest[0].Last == 0 {
		rest = rest[1:]
	}
	*at = PortsOf(rest...)
	if len(rest) == 0 {
		return []piece{zero}
	}
	return []piece{zero, p}
}

// byLink parts loopback, which has to be named, from the other interfaces. Packets of the way nowhere have no such interface.
func (p piece) byLink(d, nowhere policy.Dir, links func(*Match) *policy.Links) []piece {
	at := links(&p.Match)
	if d == nowhere {
		return []piece{p}
	}
	names, _, ok := at.Names()
	switch {
	case !ok:
		p.odd = "mef.rules has no exceptions from patterns of interfaces: " + at.Words()
		return []piece{p}
	case slices.ContainsFunc(names, func(name string) bool { return !policy.NamesInterface(name) }):
		p.odd = fmt.Sprintf("mef.rules cannot name the interfaces %q", names)
		return []piece{p}
	case len(strings.Join(names, ",")) > maxNames:
		p.odd = "it names more interfaces than fit into a line"
		return []piece{p}
	case !at.Has(policy.Loopback) || at.Equal(policy.LinksOf(policy.Loopback)) || slices.Contains(names, policy.Loopback):
		return []piece{p}
	}
	*at = at.Minus(policy.LinksOf(policy.Loopback))
	if d == policy.Forward {
		return []piece{p} // nothing is forwarded from or to loopback
	}
	inner := p
	*links(&inner.Match) = policy.LinksOf(policy.Loopback)
	inner.spare = true
	return []piece{p, inner}
}

// maxNames is how long a list of interfaces may be, in bytes.
const maxNames = 8 << 10

// protocols are names of protocols as nft, iptables and /etc/protocols have them.
var protocols = map[string]policy.Proto{
	"icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "gre": 47,
	"esp": 50, "ipv6-crypt": 50, "ah": 51, "ipv6-auth": 51, "ipv6-icmp": 58, "icmpv6": 58, "icmp6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60,
	"eigrp": 88, "ospf": 89, "ospfigp": 89, "ipip": 94, "pim": 103, "comp": 108, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "sctp": 132, "mh": 135,
	"udplite": 136,
}

// Protocol returns the number of a protocol by its name.
func Protocol(name string) (number policy.Proto, ok bool) {
	number, ok = protocols[strings.ToLower(name)]
	return number, ok
}
