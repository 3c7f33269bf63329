package nftlist

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// A field is a property of packets that rules compare.
type field struct {
	implied importer.Match // what packets must be to have the property
	why     string         // it cannot be carried over
	ports   bool           // it can be less or more than another

	// read returns the matches of values; set is the name of the set that they make up, if they do. It reports why it cannot.
	read reading
}

type reading func(values []any, set string) ([]importer.Match, string)

func unreadable(implied importer.Match, what string) field {
	return field{implied: implied, why: "mef.rules cannot match " + what}
}

// match reads a comparison.
func (p *parser) match(value any) {
	op, _ := get(value, "op").(string)
	right := get(value, "right")
	if get(value, "left", "ct", "key") == "status" && right == "dnat" && (op == "in" || op == "==") {
		p.out.Led = true
		return
	}
	if terms, ok := get(value, "left", "&").([]any); ok && len(terms) > 1 && get(terms[0], "payload", "protocol") == "tcp" && get(terms[0], "payload", "field") == "flags" {
		p.tcpFlags(op, terms[1], right)
		return
	}
	if get(value, "left", "payload", "protocol") == "tcp" && get(value, "left", "payload", "field") == "flags" && (op == "in" || op == "!") {
		p.tcpFlags(map[string]string{"in": "!=", "!": "=="}[op], right, 0.0) // any of them is set, or none
		return
	}
	f := p.field(get(value, "left"))
	p.out.Require(f.implied)
	if f.why != "" {
		p.out.Cannot("%s", f.why)
		return
	}
	if flags := get(right, "|"); flags != nil {
		p.flags(op, list(flags))
		return
	}
	if f.ports && slices.Contains([]string{"<", ">", "<=", ">="}, op) {
		right, op = portsFrom(op, right), "=="
	}
	values, why := p.elements(right)
	if many, ok := right.([]any); ok {
		// A list of flags is met by any of them. Nothing else that can be read has such lists.
		if values = many; op != "in" && op != "!" {
			why = "mef.rules has no such comparison"
		}
	}
	if key := get(value, "left", "meta", "key"); (key == "skuid" || key == "skgid") && op != "==" {
		why = "mef.rules cannot exclude owners" // packets that no process sends do not match
	}
	if !slices.Contains([]string{"==", "!=", "in", "!"}, op) {
		why = "mef.rules has no comparison by " + op
	}
	if why != "" {
		p.out.Cannot("%s", why)
		return
	}
	set, _ := right.(string)
	if !strings.HasPrefix(set, "@") {
		set = ""
	}
	p.compare(f, values, set, op == "!=" || op == "!")
}

// tcpFlags reads a comparison of the flags of TCP that are in a mask.
func (p *parser) tcpFlags(op string, mask, flags any) {
	p.out.Require(ofProtos(policy.TCP))
	bits, ok1 := flagBits(mask)
	on, ok2 := flagBits(flags)
	m, wider, ok := importer.FlagsOf(bits, on, op == "!=")
	if !ok || !ok1 || !ok2 || op != "==" && op != "!=" {
		p.out.Cannot("mef.rules cannot match such flags of TCP")
		return
	}
	p.out.Wider = p.out.Wider || wider
	p.out.Require(m)
}

// flagBits reads flags of TCP: a name, a list or a sum of names, or a number.
func flagBits(v any) (uint8, bool) {
	if n, ok := v.(float64); ok {
		return uint8(n), n >= 0 && n < 64
	}
	if sum := get(v, "|"); sum != nil {
		v = sum
	}
	var names []string
	for _, one := range list(v) {
		name, ok := one.(string)
		if !ok {
			bits, ok := flagBits(one) // nested sums
			return bits, ok && len(list(v)) == 1
		}
		names = append(names, name)
	}
	return importer.FlagBits(names)
}

// compare narrows the rule to packets whose field is among values, or is not.
func (p *parser) compare(f field, values []any, set string, not bool) {
	if set != "" {
		set = strings.Join([]string{p.rule.Family, p.rule.Table, set[1:]}, " ")
	}
	matches, why := f.read(values, set)
	switch {
	case why != "":
		p.out.Cannot("%s", why)
	case !not:
		p.out.Require(matches...)
	default:
		for _, m := range matches {
			p.out.Exclude(m)
		}
	}
}

// flags reads a comparison with the sum of flags. A state of conntrack is one flag, so it equals the sum of several never.
func (p *parser) flags(op string, sum []any) {
	switch {
	case len(sum) < 2:
		p.out.Cannot("mef.rules has no such comparison")
	case op == "==":
		p.out.Require()
	case op != "!=":
		p.out.Cannot("mef.rules has no comparison by %s", op)
	}
}

// portsFrom returns the range of ports that are less or more than one.
func portsFrom(op string, right any) any {
	n, ok := right.(float64)
	if !ok {
		return right
	}
	first, last := 0.0, 65535.0
	switch op {
	case "<":
		last = n - 1
	case "<=":
		last = n
	case ">":
		first = n + 1
	case ">=":
		first = n
	}
	return map[string]any{"range": []any{first, last}}
}

// field returns the property that stands on the left of a comparison.
func (p *parser) field(left any) field {
	if fields, ok := get(left, "concat").([]any); ok {
		return p.concat(fields)
	}
	if protocol, ok := get(left, "payload", "protocol").(string); ok {
		name, _ := get(left, "payload", "field").(string)
		p.now = p.now || name == "daddr" || name == "dport"
		p.nexthdr = p.nexthdr || name == "nexthdr"
		return payload(protocol, name)
	}
	if name, ok := get(left, "meta", "key").(string); ok {
		return meta(name)
	}
	if name, ok := get(left, "ct", "key").(string); ok {
		dir, _ := get(left, "ct", "dir").(string)
		return p.ct(name, dir)
	}
	if flags := list(get(left, "fib", "flags")); get(left, "fib", "result") == "type" && len(flags) == 1 && flags[0] == "daddr" {
		return kindField()
	}
	if terms, ok := get(left, "&").([]any); ok && len(terms) > 0 {
		inner := p.field(terms[0])
		return unreadable(inner.implied, "bits of a field")
	}
	if m, ok := left.(map[string]any); ok && len(m) == 1 {
		for name := range m {
			return unreadable(importer.All(), name)
		}
	}
	return unreadable(importer.All(), "that")
}

// with returns the match of all packets, changed.
func with(change func(*importer.Match)) importer.Match {
	m := importer.All()
	change(&m)
	return m
}

func ofFamily(f policy.Family) importer.Match {
	return with(func(m *importer.Match) { m.Family = f })
}

func ofProtos(numbers ...policy.Proto) importer.Match {
	return with(func(m *importer.Match) { m.Protos = importer.ProtosOf(numbers...) })
}

// payload returns a field of the packet.
func payload(protocol, name string) field {
	implied := importer.All()
	switch protocol {
	case "ip", "icmp", "igmp":
		implied.Family = policy.V4
	case "ip6", "icmpv6":
		implied.Family = policy.V6
	case "ether", "vlan", "arp":
		return unreadable(implied, protocol+" "+name)
	}
	if number, ok := importer.Protocol(protocol); ok {
		implied.Protos = importer.ProtosOf(number)
	}
	switch {
	case (protocol == "ip" || protocol == "ip6") && (name == "saddr" || name == "daddr"):
		return addrField(implied, name == "saddr")
	case protocol == "ip" && name == "protocol":
		return protoField(implied)
	case protocol == "ip6" && name == "nexthdr":
		// Packets with extension headers have another one there, which a note says. A rule for one family alone means the protocol.
		return protoField(implied)
	case name == "type" && (protocol == "icmp" || protocol == "icmpv6"):
		return typeField(implied)
	case (name == "sport" || name == "dport") && slices.Contains([]string{"tcp", "udp", "th", "sctp", "dccp", "udplite"}, protocol):
		return portField(implied, name == "sport")
	}
	return unreadable(implied, strings.TrimSpace(protocol+" "+name))
}

func meta(name string) field {
	switch name {
	case "iifname", "iif":
		return linkField(func(m *importer.Match) *policy.Links { return &m.In })
	case "oifname", "oif":
		return linkField(func(m *importer.Match) *policy.Links { return &m.Out })
	case "l4proto":
		return protoField(importer.All())
	case "nfproto", "protocol":
		return familyField()
	case "skuid", "skgid":
		return ownerField(name == "skgid")
	}
	return unreadable(importer.All(), "meta "+name)
}

// ct returns a field of connection tracking. The address that was asked for first is dst in mef.rules for new connections: for
// others the direction would have to be known too.
func (p *parser) ct(name, dir string) field {
	if name == "state" {
		return stateField()
	}
	if p.opens && dir == "original" {
		p.out.OriginalDst, p.out.OriginalDport = true, true
	}
	switch {
	case !p.opens:
	case name == "direction":
		return field{implied: importer.All(), read: func(values []any, _ string) ([]importer.Match, string) {
			if len(values) == 1 && values[0] == "original" {
				return []importer.Match{importer.All()}, ""
			}
			return nil, "mef.rules cannot match ct direction"
		}}
	case dir == "original" && name == "ip daddr":
		return addrField(ofFamily(policy.V4), false)
	case dir == "original" && name == "ip6 daddr":
		return addrField(ofFamily(policy.V6), false)
	case dir == "original" && name == "proto-dst":
		return portField(importer.All(), false)
	}
	if dir != "" {
		name = dir + " " + name
	}
	return unreadable(importer.All(), "ct "+name)
}

// value returns an element without what else a set keeps of it.
func value(v any) any {
	if inner := get(v, "elem", "val"); inner != nil {
		return inner
	}
	return v
}

// addrField reads addresses of the family that is implied.
func addrField(implied importer.Match, src bool) field {
	return field{implied: implied, read: func(values []any, set string) ([]importer.Match, string) {
		var ranges []prefixset.Range
		for _, v := range values {
			r, ok := addrRange(value(v))
			if !ok || r.First.Is4() != (implied.Family == policy.V4) {
				return nil, "mef.rules cannot match such addresses"
			}
			ranges = append(ranges, r)
		}
		a := policy.Addrs{Given: true, Set: set, In: prefixset.FromRanges(ranges)}
		if !importer.Plain(a.In) {
			return nil, "mef.rules treats IPv4-mapped IPv6 addresses as IPv4 addresses"
		}
		return []importer.Match{with(func(m *importer.Match) {
			if src {
				m.Src = a
			} else {
				m.Dst = a
			}
		})}, ""
	}}
}

// addrRange reads an address, a prefix or a range.
func addrRange(v any) (r prefixset.Range, ok bool) {
	if s, isText := v.(string); isText {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return prefixset.Range{First: a, Last: a}, true
		}
		return r, false
	}
	if addr, isPrefix := get(v, "prefix", "addr").(string); isPrefix {
		bits, _ := get(v, "prefix", "len").(float64)
		a, err := netip.ParseAddr(addr)
		if err != nil || a.Zone() != "" {
			return r, false
		}
		p, err := a.Prefix(int(bits))
		if err != nil {
			return r, false
		}
		if a.Is4In6() {
			return prefixset.Range{First: p.Addr(), Last: p.Addr()}, true // which is refused, whatever its length
		}
		return prefixset.RangeOf(p), true
	}
	ends, _ := get(v, "range").([]any)
	if len(ends) != 2 {
		return r, false
	}
	first, ok1 := addrRange(ends[0])
	last, ok2 := addrRange(ends[1])
	return prefixset.Range{First: first.First, Last: last.Last}, ok1 && ok2 && first.First.BitLen() == last.Last.BitLen() && first.First.Compare(last.Last) <= 0
}

func portField(implied importer.Match, src bool) field {
	return field{implied: implied, ports: true, read: func(values []any, set string) ([]importer.Match, string) {
		var ranges []policy.PortRange
		for _, v := range values {
			r, ok := portRange(value(v))
			if !ok {
				return nil, "mef.rules cannot match such ports"
			}
			ranges = append(ranges, r)
		}
		ports := importer.PortsOf(ranges...)
		ports.Set = set
		return []importer.Match{with(func(m *importer.Match) {
			if src {
				m.Sport = ports
			} else {
				m.Dport = ports
			}
		})}, ""
	}}
}

func portRange(v any) (r policy.PortRange, ok bool) {
	if n, isNumber := v.(float64); isNumber {
		return policy.PortRange{First: uint16(n), Last: uint16(n)}, n >= 0 && n <= 65535
	}
	ends, _ := get(v, "range").([]any)
	if len(ends) != 2 {
		return r, false
	}
	first, ok1 := ends[0].(float64)
	last, ok2 := ends[1].(float64)
	return policy.PortRange{First: uint16(first), Last: uint16(last)}, ok1 && ok2 && 0 <= first && first <= last && last <= 65535
}

func linkField(of func(*importer.Match) *policy.Links) field {
	return field{implied: importer.All(), read: func(values []any, _ string) ([]importer.Match, string) {
		var names []string
		for _, v := range values {
			name, ok := value(v).(string)
			if !ok {
				return nil, "mef.rules has no such interfaces"
			}
			names = append(names, name)
		}
		return []importer.Match{with(func(m *importer.Match) { *of(m) = policy.LinksOf(names...) })}, ""
	}}
}

// kindField reads kinds of destinations.
func kindField() field {
	return field{implied: importer.All(), read: func(values []any, _ string) ([]importer.Match, string) {
		return []importer.Match{with(func(m *importer.Match) {
			m.Kinds = 0
			for _, v := range values {
				name, _ := value(v).(string)
				k, _ := importer.Kind(name)
				m.Kinds |= k
			}
		})}, kindError(values)
	}}
}

func kindError(values []any) string {
	for _, v := range values {
		if name, _ := value(v).(string); name != "local" && name != "broadcast" && name != "multicast" {
			return "mef.rules has no such kind of addresses"
		}
	}
	return ""
}

// ownerField reads users or groups of the processes that send packets.
func ownerField(isGroup bool) field {
	return field{implied: importer.All(), read: func(values []any, _ string) ([]importer.Match, string) {
		ids := []uint32{}
		for _, v := range values {
			name, isName := value(v).(string)
			if n, isNumber := value(v).(float64); isNumber {
				name, isName = strconv.FormatFloat(n, 'f', 0, 64), true
			}
			id, ok := policy.OwnerID(name, isGroup)
			if !isName || !ok {
				return nil, "mef.rules has no such owners"
			}
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return []importer.Match{with(func(m *importer.Match) {
			if isGroup {
				m.Groups = ids
			} else {
				m.Users = ids
			}
		})}, ""
	}}
}

func protoField(implied importer.Match) field {
	return field{implied: implied, read: func(values []any, _ string) ([]importer.Match, string) {
		var numbers []policy.Proto
		for _, v := range values {
			n, ok := protocol(value(v))
			if !ok {
				return nil, "mef.rules has no such protocol"
			}
			numbers = append(numbers, n)
		}
		if len(numbers) == 0 {
			return []importer.Match{}, ""
		}
		return []importer.Match{ofProtos(numbers...)}, ""
	}}
}

// typeField reads types of ICMP messages of the protocol that is implied.
func typeField(implied importer.Match) field {
	return field{implied: implied, read: func(values []any, _ string) ([]importer.Match, string) {
		var types []uint8
		for _, v := range values {
			first, last, ok := typeRange(implied.Protos[0], value(v))
			if !ok {
				return nil, "mef.rules has no such type of ICMP messages"
			}
			for t := int(first); t <= int(last); t++ {
				types = append(types, uint8(t))
			}
		}
		return []importer.Match{with(func(m *importer.Match) { m.Types = importer.TypesOf(types...) })}, ""
	}}
}

// typeRange reads a type of ICMP messages, by name or number, or a range.
func typeRange(p policy.Proto, v any) (first, last uint8, ok bool) {
	switch v := v.(type) {
	case float64:
		return uint8(v), uint8(v), v >= 0 && v <= 255
	case string:
		if v == "mld-listener-reduction" {
			v = "mld-listener-done"
		}
		first, ok = policy.TypeNumber(p, v)
		return first, first, ok
	}
	ends, _ := get(v, "range").([]any)
	if len(ends) != 2 {
		return 0, 0, false
	}
	first, _, ok1 := typeRange(p, ends[0])
	last, _, ok2 := typeRange(p, ends[1])
	return first, last, ok1 && ok2 && first <= last
}

func protocol(v any) (policy.Proto, bool) {
	switch v := v.(type) {
	case float64:
		return policy.Proto(v), v >= 0 && v <= 255
	case string:
		return importer.Protocol(v)
	}
	return 0, false
}

func familyField() field {
	return field{implied: importer.All(), read: func(values []any, _ string) ([]importer.Match, string) {
		var f policy.Family
		for _, v := range values {
			switch value(v) {
			case "ipv4", "ip":
				f |= policy.V4
			case "ipv6", "ip6":
				f |= policy.V6
			default:
				return nil, "mef.rules has the families ip and ip6"
			}
		}
		return []importer.Match{ofFamily(f)}, ""
	}}
}

func stateField() field {
	return field{implied: importer.All(), read: func(values []any, _ string) ([]importer.Match, string) {
		var s policy.States
		for _, v := range values {
			name, _ := value(v).(string)
			one, ok := policy.StateOf(name)
			if !ok {
				return nil, "mef.rules has no such state"
			}
			s |= one
		}
		return []importer.Match{with(func(m *importer.Match) { m.States = s })}, ""
	}}
}

// concat returns several fields as one, of which each value has one for each.
func (p *parser) concat(lefts []any) field {
	whole := field{implied: importer.All()}
	var fields []field
	for _, left := range lefts {
		f := p.field(left)
		if whole.implied, _ = whole.implied.Meet(f.implied); f.why != "" {
			whole.why = f.why
		}
		fields = append(fields, f)
	}
	whole.read = func(values []any, _ string) (all []importer.Match, why string) {
		for _, v := range values {
			parts, _ := get(value(v), "concat").([]any)
			if len(parts) != len(fields) {
				return nil, "mef.rules has no such values"
			}
			one := []importer.Match{importer.All()}
			for i, f := range fields {
				matches, why := f.read([]any{parts[i]}, "")
				if why != "" {
					return nil, why
				}
				one = meet(one, matches)
			}
			all = append(all, one...)
		}
		return all, ""
	}
	return whole
}

// meet returns what each of some matches has in common with each of others.
func meet(some, others []importer.Match) (both []importer.Match) {
	for _, a := range some {
		for _, b := range others {
			if m, ok := a.Meet(b); ok {
				both = append(both, m)
			}
		}
	}
	return both
}
