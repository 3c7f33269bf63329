package importertest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// A condition is a part of a rule, as it is written and what it means. %s is where a negation stands.
type condition struct {
	nft, save string
	implied   importer.Match // holds also of what is negated
	match     importer.Match
	kind      string // of which a rule has one at most
}

// conditions returns what rules of a family may ask for.
func conditions(f policy.Family) []condition {
	var list []condition
	add := func(kind, nft, save string, implied, match func(*importer.Match)) {
		c := condition{nft: nft, save: save, kind: kind, implied: importer.All(), match: importer.All()}
		implied(&c.implied)
		match(&c.match)
		list = append(list, c)
	}
	nothing := func(*importer.Match) {}
	links := func(names ...string) policy.Links { return policy.LinksOf(names...) }
	for _, name := range []string{"lo", "eth0", "eth1"} {
		add("iif", `iifname %s"`+name+`"`, "%s-i "+name, nothing, func(m *importer.Match) { m.In = links(name) })
		add("oif", `oifname %s"`+name+`"`, "%s-o "+name, nothing, func(m *importer.Match) { m.Out = links(name) })
	}
	add("iif", `iifname %s"wlan*"`, "%s-i wlan+", nothing, func(m *importer.Match) { m.In = links("wlan*") })
	add("iif", `iifname %s{ "lo", "eth1" }`, "", nothing, func(m *importer.Match) { m.In = links("lo", "eth1") })
	for _, s := range []policy.States{policy.New, policy.Established | policy.Related, policy.Invalid, policy.New | policy.Untracked} {
		names := s.Names()
		add("state", "ct state %s{ "+strings.Join(names, ", ")+" }", "-m conntrack %s--ctstate "+strings.ToUpper(strings.Join(names, ",")), nothing,
			func(m *importer.Match) { m.States = s })
	}
	ip, nets := "ip", []string{"192.0.2.1/32", "192.0.2.0/24", "192.0.2.2/31", "198.51.100.0/25"}
	if f == policy.V6 {
		ip, nets = "ip6", []string{"2001:db8::1/128", "2001:db8::/64", "2001:db8::2/127", "2001:db8::/32"}
	}
	family := func(m *importer.Match) { m.Family = f }
	for _, n := range nets {
		a := policy.Addrs{Given: true, In: prefixset.New(netip.MustParsePrefix(n))}
		add("src", ip+" saddr %s"+n, "%s-s "+n, family, func(m *importer.Match) { m.Src = a })
		add("dst", ip+" daddr %s"+n, "%s-d "+n, family, func(m *importer.Match) { m.Dst = a })
	}
	for name, number := range map[string]policy.Proto{"tcp": policy.TCP, "udp": policy.UDP} {
		proto := func(m *importer.Match) { m.Protos = importer.ProtosOf(number) }
		add("proto", "meta l4proto %s"+name, "%s-p "+name, nothing, proto)
		for nft, save := range map[string]string{"22": "22", "20-25": "20:25", "80-65535": "80:65535"} {
			ports := portsOf(nft)
			add("proto", name+" dport %s"+nft, "-p "+name+" -m "+name+" %s--dport "+save, proto, func(m *importer.Match) { m.Dport = ports })
			add("proto", name+" sport %s"+nft, "-p "+name+" -m "+name+" %s--sport "+save, proto, func(m *importer.Match) { m.Sport = ports })
		}
		add("proto", name+" dport %s{ 53, 80, 443, 8000-8100 }", "-p "+name+" -m multiport %s--dports 53,80,443,8000:8100", proto,
			func(m *importer.Match) { m.Dport = portsOf("53,80,443,8000-8100") })
	}
	icmp, icmpOption, types := "icmp", "-p icmp -m icmp %s--icmp-type ", map[string]uint8{"echo-request": 8, "echo-reply": 0, "time-exceeded": 11}
	number := policy.ICMP
	if f == policy.V6 {
		icmp, icmpOption, number = "icmpv6", "-p ipv6-icmp -m icmp6 %s--icmpv6-type ", policy.ICMP6
		types = map[string]uint8{"echo-request": 128, "echo-reply": 129, "nd-neighbor-solicit": 135}
	}
	for name, t := range types {
		add("proto", icmp+" type %s"+name, icmpOption+fmt.Sprint(t), func(m *importer.Match) { m.Family, m.Protos = f, importer.ProtosOf(number) },
			func(m *importer.Match) { m.Types = importer.TypesOf(t) })
	}
	slices.SortFunc(list, func(a, b condition) int { return strings.Compare(a.nft, b.nft) }) // maps have no order
	return list
}

func portsOf(text string) policy.Ports {
	var ranges []policy.PortRange
	for word := range strings.SplitSeq(text, ",") {
		var r policy.PortRange
		if n, _ := fmt.Sscanf(word, "%d-%d", &r.First, &r.Last); n == 1 {
			r.Last = r.First
		}
		ranges = append(ranges, r)
	}
	return importer.PortsOf(ranges...)
}

// A sketch is a ruleset that is made up in the language of a program, with what it means.
type sketch struct {
	*rand.Rand
	save bool // in that of iptables
	b    strings.Builder
	rs   *importer.Ruleset
}

// NFT returns a random script for nft, and what it means.
func NFT(r *rand.Rand) (script string, rs *importer.Ruleset) {
	s := sketch{Rand: r, rs: &importer.Ruleset{Source: "A sketch"}}
	for i, family := range []policy.Family{policy.Any, policy.V4, policy.V6}[:1+r.IntN(3)] {
		fmt.Fprintf(&s.b, "table %s table%d {\n", map[policy.Family]string{policy.Any: "inet", policy.V4: "ip", policy.V6: "ip6"}[family], i)
		chains := s.chains()
		for n, c := range chains {
			fmt.Fprintf(&s.b, "chain %s {\n", c.Name)
			s.fill(c, family, chains[:n])
			s.b.WriteString("}\n")
		}
		for _, d := range policy.Dirs {
			c := &importer.Chain{Name: "base" + d.String(), Place: "base", Dir: d, Family: family, Policy: pick(r, []policy.Action{policy.Accept, policy.Drop})}
			hook := map[policy.Dir]string{policy.In: "input", policy.Out: "output", policy.Forward: "forward"}[d]
			fmt.Fprintf(&s.b, "chain %s {\ntype filter hook %s priority %d; policy %s;\n", c.Name, hook, i, c.Policy)
			s.fill(c, family, chains)
			s.b.WriteString("}\n")
			s.rs.Bases = append(s.rs.Bases, c)
		}
		s.b.WriteString("}\n")
	}
	return s.b.String(), s.rs
}

// Save returns a random file as iptables-restore takes it, or ip6tables-restore, and what it means.
func Save(r *rand.Rand, family policy.Family) (text string, rs *importer.Ruleset) {
	s := sketch{Rand: r, save: true, rs: &importer.Ruleset{Source: "A sketch"}}
	s.b.WriteString("*filter\n")
	chains := s.chains()
	for name, d := range map[string]policy.Dir{"INPUT": policy.In, "OUTPUT": policy.Out, "FORWARD": policy.Forward} {
		s.rs.Bases = append(s.rs.Bases, &importer.Chain{Name: name, Place: name, Dir: d, Family: family, Policy: policy.Action(d % 2)})
	}
	slices.SortFunc(s.rs.Bases, func(a, b *importer.Chain) int { return int(a.Dir) - int(b.Dir) })
	for _, c := range s.rs.Bases {
		fmt.Fprintf(&s.b, ":%s %s [0:0]\n", c.Name, strings.ToUpper(c.Policy.String()))
	}
	for _, c := range chains {
		fmt.Fprintf(&s.b, ":%s - [0:0]\n", c.Name)
	}
	for n, c := range chains {
		s.fill(c, family, chains[:n])
	}
	for _, c := range s.rs.Bases {
		s.fill(c, family, chains)
	}
	s.b.WriteString("COMMIT\n")
	return s.b.String(), s.rs
}

func (s *sketch) chains() (list []*importer.Chain) {
	for i := range s.IntN(4) {
		list = append(list, &importer.Chain{Name: fmt.Sprintf("user%d", i), Place: "user"})
	}
	return list
}

// fill gives a chain rules, which lead to some others.
func (s *sketch) fill(c *importer.Chain, family policy.Family, targets []*importer.Chain) {
	for range s.IntN(7) {
		r := &importer.Rule{Text: "a rule", Any: []importer.Match{importer.All()}}
		own := family
		if own == policy.Any {
			own = pick(s.Rand, []policy.Family{policy.V4, policy.V6})
		}
		words := s.conditions(r, own, c.Name)
		if !s.save && s.IntN(8) == 0 && len(targets) > 0 {
			s.vmap(c, r, words, targets)
			continue
		}
		if s.IntN(8) == 0 {
			r.Log = &importer.Log{Prefix: "TEST"}
			if words = append(words, `log prefix "TEST"`); s.save { // a rule of its own
				words[len(words)-1] = `-j LOG --log-prefix "TEST"`
				c.Rules = append(c.Rules, r)
				s.line(c, words)
				continue
			}
		}
		words = append(words, s.end(r, targets)...)
		c.Rules = append(c.Rules, r)
		s.line(c, words)
	}
}

func (s *sketch) line(c *importer.Chain, words []string) {
	if s.save {
		s.b.WriteString("-A " + c.Name + " ")
	}
	s.b.WriteString(strings.Join(words, " ") + "\n")
}

// conditions narrows a rule.
func (s *sketch) conditions(r *importer.Rule, family policy.Family, chain string) (words []string) {
	all := conditions(family)
	used := map[string]bool{"iif": s.save && chain == "OUTPUT", "oif": s.save && chain == "INPUT"} // iptables refuses them there
	for range s.IntN(4) {
		c := pick(s.Rand, all)
		text := c.nft
		if s.save {
			text = c.save
		}
		if used[c.kind] || text == "" {
			continue
		}
		used[c.kind] = true
		r.Require(c.implied)
		not := ""
		if s.IntN(5) == 0 {
			if not = "!= "; s.save {
				not = "! "
			}
			r.Exclude(c.match)
		} else {
			r.Require(c.match)
		}
		words = append(words, fmt.Sprintf(text, not))
	}
	return words
}

// end gives a rule its end.
func (s *sketch) end(r *importer.Rule, targets []*importer.Chain) []string {
	verbs := []importer.Verb{importer.Decide, importer.Decide, importer.Decide, importer.Decide, importer.Return, importer.Nothing, importer.Jump, importer.Jump, importer.Goto}
	if r.Do = pick(s.Rand, verbs); (r.Do == importer.Jump || r.Do == importer.Goto) && len(targets) == 0 {
		r.Do = importer.Decide
	}
	word := "counter"
	switch r.Do {
	case importer.Decide:
		r.Action = pick(s.Rand, []policy.Action{policy.Accept, policy.Accept, policy.Drop, policy.Reject})
		word = r.Action.String()
	case importer.Return:
		word = "return"
	case importer.Jump, importer.Goto:
		r.Target = pick(s.Rand, targets)
		if word = "jump " + r.Target.Name; r.Do == importer.Goto {
			word = "goto " + r.Target.Name
		}
	}
	if !s.save {
		return []string{word}
	}
	switch r.Do {
	case importer.Nothing:
		return nil
	case importer.Jump:
		return []string{"-j", r.Target.Name}
	case importer.Goto:
		return []string{"-g", r.Target.Name}
	}
	return []string{"-j", strings.ToUpper(word)}
}

// vmap makes a rule one with a verdict map: as many rules as the map has elements.
func (s *sketch) vmap(c *importer.Chain, r *importer.Rule, words []string, targets []*importer.Chain) {
	var elements []string
	for _, state := range []policy.States{policy.New, policy.Established, policy.Invalid}[:1+s.IntN(3)] {
		one := *r
		one.Any = slices.Clone(r.Any)
		m := importer.All()
		m.States = state
		one.Require(m)
		verdict := "counter"
		for verdict == "counter" || verdict == "reject" { // which maps cannot have
			verdict = s.end(&one, targets)[0]
		}
		elements = append(elements, state.String()+" : "+verdict)
		c.Rules = append(c.Rules, &one)
	}
	s.line(c, append(words, "ct state vmap { "+strings.Join(elements, ", ")+" }"))
}

// NAT returns a random script for nft whose table translates destinations at some hooks, prerouting and output if none is named, to addresses of policytest's packets.
func NAT(r *rand.Rand, hooks ...string) string {
	if hooks == nil {
		hooks = []string{"prerouting", "output"}
	}
	var b strings.Builder
	b.WriteString("table inet nat {\n")
	for _, hook := range hooks {
		fmt.Fprintf(&b, "chain %s {\ntype nat hook %s priority -110;\n", hook, hook)
		for range r.IntN(5) {
			ip, addrs := "ip", []string{"198.51.100.2", "192.0.2.2", "192.0.2.1"}
			if r.IntN(3) == 0 {
				ip, addrs = "ip6", []string{"2001:db8:1::2", "2001:db8::2", "2001:db8::1"}
			}
			proto := pick(r, []string{"tcp", "tcp", "udp"})
			b.WriteString("meta nfproto " + strings.Replace(ip+"v4", "ip6v4", "ipv6", 1) + " ")
			switch r.IntN(6) {
			case 0:
				b.WriteString(`iifname "eth0" `)
			case 1:
				fmt.Fprintf(&b, "%s saddr != %s ", ip, pick(r, addrs))
			case 2:
				fmt.Fprintf(&b, "%s daddr %s ", ip, pick(r, addrs))
			}
			ports := pick(r, []string{"22", "80", "{ 22, 443 }", "1-1023", "1024-65535"})
			to, port := pick(r, addrs), pick(r, []string{"", "80", "22", "8080"})
			if ip == "ip6" && port != "" {
				to = "[" + to + "]"
			}
			if port != "" {
				to += ":" + port
			}
			switch r.IntN(8) {
			case 0:
				fmt.Fprintf(&b, "%s dport %s accept\n", proto, ports)
			case 1:
				fmt.Fprintf(&b, "%s dport %s return\n", proto, ports)
			case 2:
				fmt.Fprintf(&b, "%s dport %s redirect to :%s\n", proto, ports, pick(r, []string{"22", "80"}))
			case 3, 4:
				fmt.Fprintf(&b, "dnat %s to %s dport map { 22 : %s, 80 : %s, 8080 : %s }\n", ip, proto, pick(r, addrs), pick(r, addrs), pick(r, addrs))
			default:
				fmt.Fprintf(&b, "%s dport %s dnat %s to %s\n", proto, ports, ip, to)
			}
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// Further puts rules into the base chains of a script for nft that ask for flags of TCP, limit what they accept, or, at output, ask for the sender of
// a packet. What mef.rules has no words for accepts: what drops and is left out would let packets pass.
func Further(r *rand.Rand, script string) string {
	flags := []string{"tcp flags syn / fin,syn,rst,ack ", "tcp flags != syn / fin,syn,rst,ack ", "tcp flags & (fin | syn | rst | ack) == syn tcp dport 22 "}
	odd := []string{"tcp flags & (syn | ack) == syn ", "tcp flags & (rst | ack) == 0x0 tcp dport { 22, 80 } ", "tcp flags ! fin,syn,rst,ack,urg ", "meta skuid != 33 ", "meta skuid 0-20 "}
	owners := []string{"meta skuid 0 ", "meta skuid 33 ", "meta skuid { 8, 33 } "}
	others := []string{"tcp dport 22 ", "tcp dport 80 ", "udp dport 1-1023 ", "ct state new ", ""}
	limits := []string{"", "", "limit rate 5/minute ", "limit rate 1/hour burst 1 packets ", "limit rate 20/second burst 20 packets ", "limit rate 3/minute burst 9 packets "}
	var b strings.Builder
	for line := range strings.Lines(script) {
		b.WriteString(line)
		if !strings.Contains(line, "type filter hook ") {
			continue
		}
		for range r.IntN(4) {
			switch n := r.IntN(4); {
			case n == 0 && r.IntN(4) == 0:
				b.WriteString("tcp flags & (fin | syn) == fin | syn drop\n") // segments of no connection
			case n == 0:
				b.WriteString(pick(r, flags) + pick(r, []string{"accept", "drop", "return", "reject"}) + "\n")
			case n == 1 && strings.Contains(line, "hook output"):
				b.WriteString(pick(r, owners) + pick(r, []string{"accept", "drop"}) + "\n")
			case n < 3:
				b.WriteString(pick(r, slices.Concat(flags, others)) + pick(r, limits) + "accept\n")
			case strings.Contains(line, "hook output"):
				b.WriteString(pick(r, odd) + "accept\n")
			default:
				b.WriteString(pick(r, odd[:3]) + "accept\n")
			}
		}
	}
	return b.String()
}
