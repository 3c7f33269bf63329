// Package importertest makes random rulesets of other programs, and follows single packets through rulesets, one rule after the other.
package importertest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// A Fate is what a ruleset does with a packet.
type Fate struct {
	Action policy.Action
	Logged bool
	Sure   bool // it meets no rule that cannot be carried over; otherwise the rest is not known
}

// Follow returns what a ruleset does with a packet whose destination is the one that its sender used. Of a packet that is led where
// it would not go its way, nothing is sure: packets to another host do not come in.
func Follow(rs *importer.Ruleset, p policy.Packet) Fate {
	f := follower{p: p, asked: p, sure: true}
	to := f.translated(rs)
	if f.led = to != nil; f.led && p.Dir != policy.Out && to.Here != (p.Dir == policy.In) {
		f.sure = false
	}
	if !f.sure {
		return Fate{}
	}
	for _, c := range rs.Bases {
		if c.Dir != p.Dir || c.Family&familyOf(p.Src) == 0 {
			continue
		}
		action, decided := f.run(c)
		if !decided {
			action = c.Policy
		}
		if action != policy.Accept || !f.sure {
			return Fate{action, f.logged, f.sure}
		}
	}
	return Fate{policy.Accept, f.logged, true}
}

func familyOf(a netip.Addr) policy.Family {
	if a.Is4() {
		return policy.V4
	}
	return policy.V6
}

// A follower follows one packet.
type follower struct {
	p      policy.Packet // as the filter sees it
	asked  policy.Packet // as the sender sent it
	logged bool
	led    bool // its destination is translated
	sure   bool
	depth  int
}

// translated translates the packet and returns where it is led, nil if it goes on as it is.
func (f *follower) translated(rs *importer.Ruleset) *importer.Destination {
	if f.p.State&(policy.New|policy.Established|policy.Related) == 0 {
		return nil // NAT leaves it alone
	}
	for _, c := range rs.NAT {
		if (c.Dir == policy.Out) != (f.p.Dir == policy.Out) || c.Family&familyOf(f.p.Src) == 0 {
			continue
		}
		before := f.p
		if f.p.Dir != policy.Out {
			f.p.Out = "" // which is not known yet
		}
		_, to, _ := f.nat(c)
		f.p = before
		if to == nil {
			continue
		}
		switch {
		case to.Here:
			f.sure = false // it is not known here which address that is
		case to.Addrs.Len() > 0:
			f.p.Dst = to.Addrs.Ranges()[0].First
		}
		if len(to.Ports) > 0 && f.p.Dport != 0 {
			f.p.Dport = to.Ports[0].First
		}
		f.sure = f.sure && to.Addrs.Len() > 0
		return to
	}
	return nil
}

// nat returns where the rules of a chain of NAT lead the packet; decided is false if it comes out at the end.
func (f *follower) nat(c *importer.Chain) (decided bool, to *importer.Destination, returned bool) {
	for _, r := range c.Rules {
		if !slices.ContainsFunc(r.Any, f.fits) || slices.ContainsFunc(r.Not, f.fits) {
			continue
		}
		if r.Beyond != "" {
			f.sure = false
			return true, nil, false
		}
		switch r.Do {
		case importer.Decide:
			return true, r.To, false
		case importer.Jump, importer.Goto:
			if decided, to, _ := f.nat(r.Target); decided || r.Do == importer.Goto {
				return true, to, false
			}
		case importer.Return:
			return false, nil, true
		}
	}
	return false, nil, false
}

// run returns what the rules of a chain do with the packet; decided is false if it comes out at the end.
func (f *follower) run(c *importer.Chain) (action policy.Action, decided bool) {
	if f.depth++; f.depth > 20 {
		f.sure = false // in a ring
	}
	defer func() { f.depth-- }()
	for _, r := range c.Rules {
		if f.sure = f.sure && !slices.ContainsFunc(slices.Concat(r.Any, r.Not), f.odd); !f.sure {
			return 0, true
		}
		seen := f.p
		if r.OriginalDst {
			f.p.Dst, f.p.Dport = f.asked.Dst, f.asked.Dport
		}
		fits := (!r.Led || f.led) && slices.ContainsFunc(r.Any, f.fits) && !slices.ContainsFunc(r.Not, f.fits)
		f.p = seen
		if !fits {
			continue
		}
		leads := r.Do == importer.Jump || r.Do == importer.Goto
		if r.Beyond != "" || r.Limit != (policy.Rate{}) || r.Wider || r.Do == importer.Unknown || leads && (r.Target == nil || importer.KeeperOfChain(r.Target.Name) != "") {
			f.sure = r.Do == importer.Nothing
			continue
		}
		f.logged = f.logged || r.Log != nil
		switch r.Do {
		case importer.Decide:
			return r.Action, true
		case importer.Jump:
			if action, decided = f.run(r.Target); decided {
				return action, true
			}
		case importer.Goto:
			return f.run(r.Target)
		case importer.Return:
			return 0, false
		}
	}
	return 0, false
}

func (f *follower) fits(m importer.Match) bool {
	p := f.p
	hasPorts := p.Proto.HasPorts()
	return m.Family&familyOf(p.Src) != 0 && m.States&p.State != 0 && (p.Proto != policy.TCP || p.Syn && m.Flags&policy.Syn != 0 || !p.Syn && m.Flags&policy.NotSyn != 0) &&
		(m.Users == nil || p.Owner.Process && slices.Contains(m.Users, p.Owner.User)) && (m.Groups == nil || p.Owner.Process && slices.Contains(m.Groups, p.Owner.Group)) &&
		(m.Protos == nil || slices.Contains(m.Protos, p.Proto)) && (m.Types == nil || slices.Contains(m.Types, p.Type)) &&
		fitsAddr(m.Src, p.Src) && fitsAddr(m.Dst, p.Dst) &&
		fitsPort(m.Sport, p.Sport, hasPorts) && fitsPort(m.Dport, p.Dport, hasPorts) &&
		fitsLink(m.In, p.In) && fitsLink(m.Out, p.Out)
}

// odd reports whether the packet is one of those that no rule of mef.rules can name as the match does.
func (f *follower) odd(m importer.Match) bool {
	return m.Protos == nil && (m.Sport.Given || m.Dport.Given)
}

func fitsAddr(a policy.Addrs, addr netip.Addr) bool {
	return !a.Given || slices.ContainsFunc(a.In.Ranges(), func(r prefixset.Range) bool {
		return r.First.Compare(addr) <= 0 && addr.Compare(r.Last) <= 0
	})
}

func fitsPort(p policy.Ports, port uint16, has bool) bool {
	return !p.Given || has && slices.ContainsFunc(p.In, func(r policy.PortRange) bool { return r.First <= port && port <= r.Last })
}

func fitsLink(l policy.Links, name string) bool { return l.Has(name) }

// Random returns a ruleset of a few base chains and others, whose rules are of matches made by match.
func Random(r *rand.Rand, match func(*rand.Rand) importer.Match) *importer.Ruleset {
	rs := &importer.Ruleset{Source: "a random ruleset"}
	var chains []*importer.Chain
	for i := range r.IntN(4) {
		chains = append(chains, &importer.Chain{Name: fmt.Sprintf("chain%d", i), Place: fmt.Sprintf("chain %d", i)})
	}
	for _, c := range chains {
		fill(r, c, chains, match)
	}
	for range 1 + r.IntN(3) {
		c := &importer.Chain{Name: "base", Place: "a base chain", Dir: pick(r, policy.Dirs[:]), Family: pick(r, []policy.Family{policy.V4, policy.V6, policy.Any, policy.Any}),
			Policy: pick(r, []policy.Action{policy.Accept, policy.Drop})}
		fill(r, c, chains, match)
		rs.Bases = append(rs.Bases, c)
	}
	return rs
}

// fill gives a chain rules. It jumps to chains that come after it, as no ring could be loaded, but for once in a while.
func fill(r *rand.Rand, c *importer.Chain, chains []*importer.Chain, match func(*rand.Rand) importer.Match) {
	targets := chains[slices.Index(chains, c)+1:]
	if r.IntN(20) == 0 {
		targets = chains
	}
	for range r.IntN(7) {
		n := len(c.Rules)
		rule := &importer.Rule{Place: fmt.Sprintf("%s:%d", c.Place, n), Text: fmt.Sprintf("%s, rule %d", c.Place, n), Any: []importer.Match{importer.All()}}
		if r.IntN(6) > 0 {
			rule.Require(match(r))
		}
		if r.IntN(5) == 0 {
			rule.Require(match(r), match(r))
		}
		for r.IntN(5) == 0 {
			rule.Exclude(match(r))
		}
		if r.IntN(6) == 0 {
			rule.Log = &importer.Log{Prefix: "TEST"}
		}
		if r.IntN(15) == 0 {
			rule.Cannot("it asks for the moon")
		}
		rule.Do = pick(r, []importer.Verb{importer.Nothing, importer.Decide, importer.Decide, importer.Decide, importer.Decide, importer.Jump, importer.Jump, importer.Goto, importer.Return})
		rule.Action = pick(r, []policy.Action{policy.Accept, policy.Accept, policy.Drop, policy.Reject})
		if rule.Do == importer.Jump || rule.Do == importer.Goto {
			if len(targets) == 0 {
				rule.Do = importer.Decide
			} else {
				rule.Target = pick(r, targets)
			}
		}
		c.Rules = append(c.Rules, rule)
	}
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// RandomMatch returns a match of what rulestest makes packets of. One property at least is asked for.
func RandomMatch(r *rand.Rand) importer.Match {
	m := importer.All()
	for {
		switch r.IntN(9) {
		case 0:
			m.Family = pick(r, []policy.Family{policy.V4, policy.V6})
		case 1:
			m.Types = nil
			m.Protos = pick(r, []policy.Protos{{6}, {17}, {1}, {58}, {6, 17}, {47}, {1, 6, 47}})
		case 3:
			m.Src = addrs(r)
		case 4:
			m.Dst = addrs(r)
		case 2:
			m.Protos, m.Types = policy.Protos{policy.ICMP}, importer.TypesOf(pick(r, [][]uint8{{8}, {0, 8}, {3, 11}, {12}})...)
		case 5:
			m.Types = nil
			m.Protos, m.Dport = policy.Protos{6}, ports(r)
		case 6:
			m.Types = nil
			m.Protos, m.Sport = policy.Protos{6, 17}, ports(r)
		case 7:
			links := policy.LinksOf(pick(r, [][]string{{"lo"}, {"eth0"}, {"eth0", "eth1"}, {"lo", "eth1"}, {"wlan*"}, {"lo", "wlan*"}})...)
			if r.IntN(3) == 0 {
				links = links.Others()
			}
			*pick(r, []*policy.Links{&m.In, &m.Out}) = links
		case 8:
			m.States = policy.States(1 + r.IntN(int(policy.AnyState)-1))
		}
		if r.IntN(2) == 0 {
			return m
		}
	}
}

func addrs(r *rand.Rand) policy.Addrs {
	return policy.Addrs{Given: true, In: prefixset.New(netip.MustParsePrefix(pick(r, []string{"192.0.2.1/32", "192.0.2.0/24", "192.0.2.2/31", "198.51.100.0/25",
		"0.0.0.0/0", "2001:db8::1/128", "2001:db8::/64", "2001:db8::2/127", "2001:db8::/32", "::/0"})))}
}

func ports(r *rand.Rand) policy.Ports {
	return importer.PortsOf(pick(r, [][]policy.PortRange{{{First: 22, Last: 22}}, {{First: 80, Last: 80}, {First: 443, Last: 443}}, {{First: 0, Last: 1023}},
		{{First: 20, Last: 25}}, {{First: 1024, Last: 65535}}, {{First: 0, Last: 65535}}})...)
}

// RandomNAT gives a ruleset chains that translate destinations, of addresses that policytest's packets have. Their rules overlap often:
// of several that fit a packet the first counts.
func RandomNAT(r *rand.Rand, rs *importer.Ruleset) {
	for _, d := range []policy.Dir{policy.In, policy.Out} {
		c := &importer.Chain{Name: "nat", Place: "a chain of NAT", Dir: d, Family: policy.Any}
		below := &importer.Chain{Name: "nat2", Place: "a chain below"}
		fillNAT(r, below, r.IntN(3), nil)
		fillNAT(r, c, r.IntN(5), below)
		rs.NAT = append(rs.NAT, c)
	}
}

// fillNAT gives a chain of NAT rules, some of which lead to another chain, if there is one.
func fillNAT(r *rand.Rand, c *importer.Chain, n int, below *importer.Chain) {
	for n := range n {
		rule := &importer.Rule{Place: fmt.Sprintf("%s:%d", c.Place, n), Text: fmt.Sprintf("nat rule %d", n), Do: importer.Decide, Any: []importer.Match{importer.All()}}
		family, to := policy.V4, pick(r, []string{"192.0.2.2/32", "198.51.100.2/32", "192.0.2.2/31"})
		if r.IntN(3) == 0 {
			family, to = policy.V6, pick(r, []string{"2001:db8::2/128", "2001:db8:1::2/128", "2001:db8::2/127"})
		}
		m := importer.All()
		m.Family, m.Protos, m.Dport = family, importer.ProtosOf(6), ports(r)
		rule.Require(m)
		if r.IntN(3) == 0 {
			m = importer.All()
			m.In = policy.LinksOf("eth0")
			rule.Require(m)
		}
		if r.IntN(4) == 0 {
			m = importer.All()
			m.Src = addrs(r)
			if r.IntN(2) == 0 {
				rule.Require(m)
			} else {
				rule.Exclude(m)
			}
		}
		if r.IntN(6) == 0 {
			rule.Cannot("it asks for the moon")
		}
		switch r.IntN(10) {
		case 0: // accepted
		case 1:
			rule.Do = importer.Return
		case 2, 3:
			if below == nil {
				break
			}
			rule.Do, rule.Target = pick(r, []importer.Verb{importer.Jump, importer.Goto}), below
		case 4:
			rule.To = &importer.Destination{Here: true, Ports: []policy.PortRange{{First: 80, Last: 80}}}
		default:
			rule.To = &importer.Destination{Addrs: prefixset.New(netip.MustParsePrefix(to))}
			if r.IntN(3) > 0 {
				rule.To.Ports = pick(r, [][]policy.PortRange{{{First: 80, Last: 80}}, {{First: 22, Last: 22}}, {{First: 79, Last: 81}}})
			}
		}
		c.Rules = append(c.Rules, rule)
	}
}
