package iptsave

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// A parser reads one rule.
type parser struct {
	*reader
	words    []string // that are left
	not      bool     // what comes next is negated
	target   string   // its options may follow
	matches  bool     // options of a match may follow
	opens    bool     // the rule asks for state NEW alone
	limit    string
	proto    policy.Protos
	source   bool     // the rule translates the source to an address that is not known yet
	original []func() // conditions on what was asked for first
	after    []string // options that ask for a destination as it is after translation
	out      importer.Rule
}

// parse returns the rule, none if it does nothing. The text is that of the line.
func (p *parser) parse(text string) []*importer.Rule {
	p.out = importer.Rule{Place: p.at.String(), Text: text, Comment: p.remark, Any: []importer.Match{importer.All()}}
	for len(p.words) > 0 {
		word := p.next()
		if word == "!" {
			p.not = true
			continue
		}
		p.option(word)
		p.not = false
	}
	for _, condition := range p.original {
		condition()
	}
	p.finish()
	return []*importer.Rule{&p.out}
}

// next takes a word, "" if there is none left.
func (p *parser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

// values takes the words up to the next option.
func (p *parser) values() (values []string) {
	for len(p.words) > 0 && p.words[0] != "!" && (!strings.HasPrefix(p.words[0], "-") || len(p.words[0]) == 1) {
		values = append(values, p.next())
	}
	return values
}

// destinations are options that ask for the destination of a packet.
var destinations = []string{"-d", "--destination", "--dst", "--dst-range", "--dport", "--destination-port", "--dports", "--destination-ports", "--ports"}

// option reads an option and what belongs to it.
func (p *parser) option(word string) {
	if slices.Contains(destinations, word) {
		p.after = append(p.after, word)
	}
	switch word {
	case "-s", "--source", "--src":
		p.addrs(p.next(), func(m *importer.Match, a policy.Addrs) { m.Src = a })
	case "-d", "--destination", "--dst":
		p.addrs(p.next(), func(m *importer.Match, a policy.Addrs) { m.Dst = a })
	case "-i", "--in-interface":
		p.link(p.next(), func(m *importer.Match) *policy.Links { return &m.In })
	case "-o", "--out-interface":
		p.link(p.next(), func(m *importer.Match) *policy.Links { return &m.Out })
	case "-p", "--protocol", "--proto":
		p.protocol(p.next())
	case "-j", "--jump", "-g", "--goto":
		p.target, p.matches = p.next(), false
		p.jump(word == "-g" || word == "--goto")
	case "-m", "--match":
		p.matches = true
		p.module(p.next())
	case "-c", "--set-counters":
		p.next()
		p.next()
	case "-4", "--ipv4", "-6", "--ipv6":
		if (word == "-4" || word == "--ipv4") != (p.family == policy.V4) {
			p.out.Require() // iptables-restore passes it by
		}
	default:
		p.extension(word)
	}
}

// module reads the name of a match. Those that have no options that must be understood are known here.
func (p *parser) module(name string) {
	switch name {
	case "tcp", "udp", "sctp", "multiport", "conntrack", "state", "comment", "limit", "iprange", "icmp", "icmp6", "standard", "set", "owner", "hashlimit", "addrtype":
	default:
		p.out.Cannot("mef.rules has no match %q", name)
	}
}

// extension reads an option of a match or a target.
func (p *parser) extension(word string) {
	switch word {
	case "--dport", "--destination-port":
		p.ports(p.next(), func(m *importer.Match, ports policy.Ports) { m.Dport = ports })
	case "--sport", "--source-port":
		p.ports(p.next(), func(m *importer.Match, ports policy.Ports) { m.Sport = ports })
	case "--dports", "--destination-ports":
		p.ports(p.next(), func(m *importer.Match, ports policy.Ports) { m.Dport = ports })
	case "--sports", "--source-ports":
		p.ports(p.next(), func(m *importer.Match, ports policy.Ports) { m.Sport = ports })
	case "--ports":
		p.ports(p.next(), func(m *importer.Match, ports policy.Ports) { m.Sport = ports }, func(m *importer.Match, ports policy.Ports) { m.Dport = ports })
	case "--ctstatus":
		if status := p.next(); p.not || !strings.EqualFold(status, "DNAT") {
			p.out.Cannot("mef.rules cannot match %s %s", word, status)
		} else {
			p.out.Led = true
		}
	case "--ctstate", "--state":
		p.states(p.next())
	case "--ctdir", "--ctorigdst", "--ctorigdstport":
		p.originally(word, p.next(), p.not)
	case "--src-range":
		p.addrs(p.next(), func(m *importer.Match, a policy.Addrs) { m.Src = a })
	case "--dst-range":
		p.addrs(p.next(), func(m *importer.Match, a policy.Addrs) { m.Dst = a })
	case "--icmp-type", "--icmpv6-type":
		p.icmpType(word, p.next())
	case "--comment":
		p.out.Comment = ufwName(p.next())
	case "--limit":
		p.limit = p.next()
	case "--hashlimit-upto", "--hashlimit":
		if p.limit = p.next(); p.not {
			p.out.Cannot("mef.rules cannot match %s", word)
		}
	case "--hashlimit-mode":
		if mode := p.next(); mode != "srcip" {
			p.out.Cannot("mef.rules limits each source, not each %s", mode)
		}
	case "--limit-burst", "--hashlimit-burst", "--hashlimit-name", "--hashlimit-htable-size", "--hashlimit-htable-max", "--hashlimit-htable-expire",
		"--hashlimit-htable-gcinterval", "--hashlimit-srcmask":
		p.next()
	case "--dst-type":
		p.kind(p.next())
	case "--tcp-flags":
		p.flags(p.next(), p.next())
	case "--syn":
		p.flags("FIN,SYN,RST,ACK", "SYN")
	case "--uid-owner", "--gid-owner":
		p.owner(word == "--gid-owner", p.next())
	case "--match-set":
		p.ipset(p.values())
	case "--to-destination", "--to":
		p.destination(p.next())
	case "--to-source":
		if a, err := netip.ParseAddr(p.next()); err == nil && p.source {
			p.out.Source.Addr, p.source = a, false
		}
	case "--to-ports":
		if ports := p.next(); p.out.To != nil {
			p.destination(":" + ports)
		} else if p.out.Source != nil {
			p.out.Cannot("nat does not translate the port of the sender")
		}
	case "--helper":
		if name := p.next(); p.target == "CT" && len(p.proto) == 1 && policy.IsHelper(name, p.proto[0]) {
			p.out.Helper, p.out.Lost = name, ""
		} else if p.target == "" {
			p.out.Cannot("mef.rules cannot match %s", word)
		}
	case "--reject-with":
		p.out.Answer = p.next()
	case "--log-prefix":
		if prefix := p.next(); p.out.Log != nil {
			p.out.Log.Prefix = prefix
		}
	default:
		p.values()
		if p.matches || p.target == "" {
			p.out.Cannot("mef.rules cannot match %s", word)
		}
	}
}

// icmpType reads a type of ICMP messages, after the option that is given.
func (p *parser) icmpType(option, word string) {
	proto := policy.ICMP
	if p.family == policy.V6 {
		proto = policy.ICMP6
	}
	t, ok := policy.TypeNumber(proto, word)
	switch {
	case word == "any" && !p.not:
	case !ok || t == 255 || word == "any": // iptables takes 255 for any
		p.out.Cannot("mef.rules cannot match %s %s", option, word)
	default:
		m := importer.All()
		m.Types = importer.TypesOf(t)
		p.require(m)
	}
}

// kind reads kinds of destinations.
func (p *parser) kind(text string) {
	m := importer.All()
	m.Kinds = 0
	for name := range strings.SplitSeq(text, ",") {
		k, ok := importer.Kind(name)
		if !ok {
			p.out.Cannot("mef.rules cannot match --dst-type %s", name)
			return
		}
		m.Kinds |= k
	}
	p.require(m)
}

// flags reads which flags of TCP segments are looked at, and which of them are set.
func (p *parser) flags(mask, set string) {
	bits, ok1 := importer.FlagBits(strings.Split(mask, ","))
	on, ok2 := importer.FlagBits(strings.Split(set, ","))
	m, wider, ok := importer.FlagsOf(bits, on, p.not)
	if !ok || !ok1 || !ok2 {
		p.out.Cannot("mef.rules cannot match --tcp-flags %s %s", mask, set)
		return
	}
	p.out.Wider = p.out.Wider || wider
	p.out.Require(m)
}

// owner reads a user or a group, or a range of them.
func (p *parser) owner(isGroup bool, text string) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, ok1 := policy.OwnerID(first, isGroup)
	b, ok2 := policy.OwnerID(last, isGroup)
	if p.not || !ok1 || !ok2 || b < a || b-a > maxOwners {
		p.out.Cannot("mef.rules cannot match such owners")
		return
	}
	var ids []uint32
	for id := a; id <= b; id++ {
		ids = append(ids, id)
	}
	m := importer.All()
	if isGroup {
		m.Groups = ids
	} else {
		m.Users = ids
	}
	p.require(m)
}

// maxOwners is how many users one match may have.
const maxOwners = 100

// ipset reports what can be done about a set of ipset.
func (p *parser) ipset(words []string) {
	name := "NAME"
	if len(words) > 0 {
		name = words[0]
	}
	p.out.Cannot("other programs fill set %s of ipset; with firewall_backend=iptables, refer to it by a set with family=%s source=ipset:%s", name, p.family, name)
}

// require narrows the rule to one of the matches, or to packets that fit none.
func (p *parser) require(matches ...importer.Match) {
	if !p.not {
		p.out.Require(matches...)
		return
	}
	for _, m := range matches {
		p.out.Exclude(m)
	}
}

// addrs reads an address, a network, a range, or some of them.
func (p *parser) addrs(text string, set func(*importer.Match, policy.Addrs)) {
	var ranges []prefixset.Range
	for word := range strings.SplitSeq(text, ",") {
		r, why := p.addrRange(word)
		if why != "" {
			p.out.Cannot("%s", why)
			return
		}
		ranges = append(ranges, r)
	}
	m := importer.All()
	set(&m, policy.Addrs{Given: true, In: prefixset.FromRanges(ranges)})
	p.require(m)
}

func (p *parser) addrRange(word string) (r prefixset.Range, why string) {
	first, last, isRange := strings.Cut(word, "-")
	if isRange {
		a, err1 := netip.ParseAddr(first)
		b, err2 := netip.ParseAddr(last)
		if err1 != nil || err2 != nil || a.BitLen() != b.BitLen() || b.Less(a) {
			return r, strconv.Quote(word) + " is not a range of addresses"
		}
		r = prefixset.Range{First: a, Last: b}
	} else {
		prefix, ok := prefix(word)
		if !ok {
			return r, strconv.Quote(word) + " is not an address or a network"
		}
		if r = prefixset.RangeOf(prefix); prefix.Addr().Is4In6() {
			r = prefixset.Range{First: prefix.Addr(), Last: prefix.Addr()}
		}
	}
	switch {
	case r.First.Zone() != "" || r.Last.Zone() != "" || r.First.Is4() != (p.family == policy.V4):
		return r, strconv.Quote(word) + " is not of this family"
	case r.First.Is4In6() || r.Last.Is4In6():
		return r, "mef.rules treats IPv4-mapped IPv6 addresses as IPv4 addresses"
	}
	return r, ""
}

// prefix reads an address, a network, or a network with a mask.
func prefix(word string) (netip.Prefix, bool) {
	addr, mask, has := strings.Cut(word, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	bits := a.BitLen()
	if has {
		if bits, err = strconv.Atoi(mask); err != nil {
			m, err := netip.ParseAddr(mask)
			if err != nil || m.BitLen() != a.BitLen() {
				return netip.Prefix{}, false
			}
			ones, size := net.IPMask(m.AsSlice()).Size()
			if size == 0 {
				return netip.Prefix{}, false // bits here and there
			}
			bits = ones
		}
	}
	prefix, err := a.Prefix(bits)
	return prefix, err == nil
}

// link reads an interface.
func (p *parser) link(name string, of func(*importer.Match) *policy.Links) {
	if name == "+" && !p.not {
		return // any
	}
	if prefix, ok := strings.CutSuffix(name, "+"); ok {
		name = prefix + "*"
	}
	m := importer.All()
	*of(&m) = policy.LinksOf(name)
	p.require(m)
}

// protocol reads a protocol.
func (p *parser) protocol(name string) {
	number, ok := importer.Protocol(name)
	if n, err := strconv.ParseUint(name, 10, 8); err == nil {
		number, ok = policy.Proto(n), true
	}
	if name == "all" || ok && number == 0 {
		if p.not {
			p.out.Require()
		}
		return
	}
	if !ok {
		p.out.Cannot("mef.rules has no protocol %q", name)
		return
	}
	m := importer.All()
	if m.Protos = importer.ProtosOf(number); !p.not {
		p.proto = m.Protos
	}
	p.require(m)
}

// ports reads ports and ranges. With several places a packet fits that has one of the ports in one of them.
func (p *parser) ports(text string, places ...func(*importer.Match, policy.Ports)) {
	var ranges []policy.PortRange
	for word := range strings.SplitSeq(text, ",") {
		r, ok := p.portRange(word)
		if !ok {
			p.out.Cannot("%q is no port", word)
			return
		}
		ranges = append(ranges, r)
	}
	var matches []importer.Match
	for _, set := range places {
		m := importer.All()
		set(&m, importer.PortsOf(ranges...))
		matches = append(matches, m)
	}
	p.require(matches...)
}

func (p *parser) portRange(word string) (r policy.PortRange, ok bool) {
	first, last, isRange := strings.Cut(word, ":")
	if !isRange {
		last = first
	}
	if isRange && first == "" {
		first = "0"
	}
	if isRange && last == "" {
		last = "65535"
	}
	a, ok1 := p.port(first)
	b, ok2 := p.port(last)
	return policy.PortRange{First: a, Last: b}, ok1 && ok2 && a <= b
}

// port reads a port by its number, or by the name of its service.
func (p *parser) port(word string) (uint16, bool) {
	if n, err := strconv.ParseUint(word, 10, 16); err == nil {
		return uint16(n), true
	}
	if word == "" || strings.ContainsAny(word[:1], "+-0123456789") {
		return 0, false
	}
	network := "tcp"
	if slices.Contains(p.proto, policy.UDP) {
		network = "udp"
	}
	n, err := net.LookupPort(network, word)
	return uint16(n), err == nil
}

// states reads states of connection tracking.
func (p *parser) states(text string) {
	if strings.EqualFold(text, "DNAT") && !p.not {
		p.out.Led = true
		return
	}
	m := importer.All()
	m.States = 0
	for word := range strings.SplitSeq(text, ",") {
		one, ok := policy.StateOf(strings.ToLower(word))
		if !ok {
			p.out.Cannot("mef.rules cannot match state %s", word)
			return
		}
		m.States |= one
	}
	p.opens = p.opens || m.States == policy.New && !p.not
	p.require(m)
}

// originally keeps what is asked for of the first packet's destination, until it is known whether the rule is about first packets: of
// these dst and dport say the same.
func (p *parser) originally(option, value string, not bool) {
	p.original = append(p.original, func() {
		switch {
		case !p.opens:
			p.out.Cannot("mef.rules can match %s of new connections only", option)
			return
		case option == "--ctdir" && strings.EqualFold(value, "ORIGINAL") && !not:
			return
		case option == "--ctdir":
			p.out.Cannot("mef.rules cannot match --ctdir")
			return
		}
		p.not = not
		if len(p.after) > 0 {
			p.out.Cannot("it matches the destination both before and after NAT")
			return
		}
		p.out.OriginalDst, p.out.OriginalDport = true, true
		if option == "--ctorigdst" {
			p.addrs(value, func(m *importer.Match, a policy.Addrs) { m.Dst = a })
		} else {
			p.ports(value, func(m *importer.Match, ports policy.Ports) { m.Dport = ports })
		}
		p.not = false
	})
}

// besides are targets that decide nothing.
var besides = []string{"MARK", "CONNMARK", "NFLOG", "ULOG", "TCPMSS", "SET", "AUDIT", "TRACE", "CT", "NOTRACK", "DSCP", "TOS", "TTL", "HL", "CLASSIFY", "SECMARK",
	"CONNSECMARK", "TEE", "RATEEST", "LED", "IDLETIMER", "CHECKSUM", "TCPOPTSTRIP", "ECN"}

// jump reads a target.
func (p *parser) jump(isGoto bool) {
	switch p.target {
	case ufwPrefix(p.family) + "limit-accept":
		p.out.Do, p.out.Action, p.out.Limit, p.out.Drops = importer.Decide, policy.Accept, ufwLimit, true
	case "ACCEPT":
		p.out.Do, p.out.Action = importer.Decide, policy.Accept
	case "DROP":
		p.out.Do, p.out.Action = importer.Decide, policy.Drop
	case "REJECT":
		p.out.Do, p.out.Action = importer.Decide, policy.Reject
	case "RETURN":
		p.out.Do = importer.Return
	case "LOG":
		p.out.Log = &importer.Log{}
	case "DNAT", "NETMAP":
		p.out.Do, p.out.To = importer.Decide, &importer.Destination{}
	case "MASQUERADE":
		p.out.Do, p.out.Source = importer.Decide, &importer.Source{}
	case "SNAT":
		p.out.Do, p.out.Source = importer.Decide, &importer.Source{}
		p.source = true
	case "REDIRECT":
		p.out.Do, p.out.To = importer.Decide, &importer.Destination{Here: true}
	default:
		if slices.Contains(besides, p.target) {
			p.out.Lost = "target " + p.target
			return
		}
		if p.out.Target = p.chains[p.target]; p.out.Target == nil {
			p.out.Cannot("mef.rules has no target %s", p.target)
			p.out.Do = importer.Unknown
			return
		}
		if p.out.Do = importer.Jump; isGoto {
			p.out.Do = importer.Goto
		}
	}
}

// destination reads where packets are led: ADDR, ADDR-ADDR, NET, :PORT, ADDR:PORT-PORT, [ADDR]:PORT. What cannot be read is not known.
func (p *parser) destination(text string) {
	if p.out.To == nil {
		return
	}
	addr, ports, hasPorts := text, "", false
	if i := strings.LastIndexByte(text, ':'); i >= 0 && (p.family == policy.V4 || strings.HasPrefix(text, "[") || i == 0) {
		addr, ports, hasPorts = text[:i], text[i+1:], true
	}
	to := importer.Destination{Here: p.out.To.Here}
	if addr = strings.ReplaceAll(strings.ReplaceAll(addr, "[", ""), "]", ""); addr != "" {
		r, why := p.addrRange(addr)
		if why != "" {
			return
		}
		to.Addrs = prefixset.FromRanges([]prefixset.Range{r})
	}
	if hasPorts {
		r, ok := p.portRange(strings.ReplaceAll(ports, "-", ":"))
		if !ok {
			return
		}
		to.Ports = []policy.PortRange{r}
	}
	p.out.To = &to
}

// units are those of rates, by how they may begin.
var units = []string{"second", "minute", "hour"}

// finish looks at the rule as a whole.
func (p *parser) finish() {
	p.out.Widen(p.rs)
	if p.out.Do == importer.Decide && p.out.Action == policy.Reject {
		p.answer()
	}
	if p.source {
		p.out.Cannot("nat leads to one address")
	}
	if p.limit == "" {
		return
	}
	if p.out.Do != importer.Nothing && (p.out.Do != importer.Decide || p.out.Action != policy.Accept || p.out.To != nil || p.out.Source != nil) {
		p.out.Cannot("mef.rules limits log lines, and what is accepted")
		return
	}
	number, unit, _ := strings.Cut(p.limit, "/")
	n, err := strconv.Atoi(number)
	if unit == "" {
		unit = units[0]
	}
	rate := policy.Rate{N: n}
	if i := slices.IndexFunc(units, func(name string) bool { return strings.HasPrefix(name, strings.ToLower(unit)) }); i >= 0 && err == nil {
		rate.Per = units[i]
	}
	switch {
	case p.out.Do == importer.Decide && !rate.Valid():
		p.out.Cannot("mef.rules has no such limit")
	case p.out.Do == importer.Decide:
		p.out.Limit = rate
	case p.out.Log == nil:
	case !rate.Valid():
		p.out.Log, p.out.Lost = nil, "log line limited to "+p.limit
	default:
		p.out.Log.Rate = rate
	}
}

// answer keeps how the rule rejects where mef.rules does otherwise: TCP gets a reset from it, and everything else port unreachable.
func (p *parser) answer() {
	a := p.out.Answer
	tcp := slices.Equal(p.proto, policy.Protos{policy.TCP})
	switch {
	case a == "tcp-reset" && tcp, (a == "" || strings.HasSuffix(a, "port-unreachable") || strings.HasSuffix(a, "port-unreach")) && p.proto != nil && !tcp:
		p.out.Answer = ""
	case a == "":
		p.out.Answer = map[policy.Family]string{policy.V4: "icmp-port-unreachable", policy.V6: "icmp6-port-unreachable"}[p.family]
	}
}
