// Package foreigntest makes random rulesets of other programs, and follows single packets through rulesets, one rule after the other.
package foreigntest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"mef/internal/prefixset"
	"mef/internal/rules"
	"mef/internal/rules/foreign"
)

// A Fate is what a ruleset does with a packet.
type Fate struct {
	Action rules.Action
	Logged bool
	Sure   bool // it meets no rule that cannot be carried over; else the rest is not known
}

// Follow returns what a ruleset does with a packet.
func Follow(rs *foreign.Ruleset, p rules.Packet) Fate {
	f := follower{p: p, sure: true}
	for _, c := range rs.Bases {
		if c.Dir != p.Dir || c.Family&familyOf(p.Src) == 0 {
			continue
		}
		action, decided := f.run(c)
		if !decided {
			action = c.Policy
		}
		if action != rules.Accept || !f.sure {
			return Fate{action, f.logged, f.sure}
		}
	}
	return Fate{rules.Accept, f.logged, true}
}

func familyOf(a netip.Addr) rules.Family {
	if a.Is4() {
		return rules.V4
	}
	return rules.V6
}

// A follower follows one packet.
type follower struct {
	p      rules.Packet
	logged bool
	sure   bool
	depth  int
}

// run returns what the rules of a chain do with the packet; decided is false if it comes out at the end.
func (f *follower) run(c *foreign.Chain) (action rules.Action, decided bool) {
	if f.depth++; f.depth > 20 {
		f.sure = false // in a ring
	}
	defer func() { f.depth-- }()
	for _, r := range c.Rules {
		if f.sure = f.sure && !slices.ContainsFunc(slices.Concat(r.Any, r.Not), f.odd); !f.sure {
			return 0, true
		}
		if !slices.ContainsFunc(r.Any, f.fits) || slices.ContainsFunc(r.Not, f.fits) {
			continue
		}
		leads := r.Do == foreign.Jump || r.Do == foreign.Goto
		if r.Beyond != "" || r.Do == foreign.Unknown || leads && (r.Target == nil || foreign.KeeperOfChain(r.Target.Name) != "") {
			f.sure = r.Do == foreign.Nothing
			continue
		}
		f.logged = f.logged || r.Log != nil
		switch r.Do {
		case foreign.Decide:
			return r.Action, true
		case foreign.Jump:
			if action, decided = f.run(r.Target); decided {
				return action, true
			}
		case foreign.Goto:
			return f.run(r.Target)
		case foreign.Return:
			return 0, false
		}
	}
	return 0, false
}

func (f *follower) fits(m foreign.Match) bool {
	p := f.p
	hasPorts := slices.Contains([]uint8{6, 17, 132}, p.Proto)
	return m.Family&familyOf(p.Src) != 0 && m.States&p.State != 0 &&
		(m.Protos == nil || slices.Contains(m.Protos, p.Proto)) &&
		fitsAddr(m.Src, p.Src) && fitsAddr(m.Dst, p.Dst) &&
		fitsPort(m.Sport, p.Sport, hasPorts) && fitsPort(m.Dport, p.Dport, hasPorts) &&
		fitsLink(m.In, p.In) && fitsLink(m.Out, p.Out)
}

// odd reports whether the packet is one of those that no rule of mef.rules can name as the match does.
func (f *follower) odd(m foreign.Match) bool {
	known := slices.Contains([]uint8{1, 6, 17, 58}, f.p.Proto)
	return m.Protos == nil && (m.Sport.Given || m.Dport.Given) || !known && slices.Contains(m.Protos, f.p.Proto)
}

func fitsAddr(a rules.Addrs, addr netip.Addr) bool {
	return !a.Given || slices.ContainsFunc(a.In.Ranges(), func(r prefixset.Range) bool {
		return r.First.Compare(addr) <= 0 && addr.Compare(r.Last) <= 0
	})
}

func fitsPort(p rules.Ports, port uint16, has bool) bool {
	return !p.Given || has && slices.ContainsFunc(p.In, func(r rules.PortRange) bool { return r.First <= port && port <= r.Last })
}

func fitsLink(l rules.Links, name string) bool { return slices.Contains(l.Names, name) != l.But }

// Random returns a ruleset of a few base chains and others, whose rules are of matches made by match.
func Random(r *rand.Rand, match func(*rand.Rand) foreign.Match) *foreign.Ruleset {
	rs := &foreign.Ruleset{Source: "a random ruleset"}
	var chains []*foreign.Chain
	for i := range r.IntN(4) {
		chains = append(chains, &foreign.Chain{Name: fmt.Sprintf("chain%d", i), Place: fmt.Sprintf("chain %d", i)})
	}
	for _, c := range chains {
		fill(r, c, chains, match)
	}
	for range 1 + r.IntN(3) {
		c := &foreign.Chain{Name: "base", Place: "a base chain", Dir: pick(r, rules.Dirs[:]), Family: pick(r, []rules.Family{rules.V4, rules.V6, rules.Any, rules.Any}),
			Policy: pick(r, []rules.Action{rules.Accept, rules.Drop})}
		fill(r, c, chains, match)
		rs.Bases = append(rs.Bases, c)
	}
	return rs
}

// fill gives a chain rules. It jumps to chains that come after it, as no ring could be loaded, but for once in a while.
func fill(r *rand.Rand, c *foreign.Chain, chains []*foreign.Chain, match func(*rand.Rand) foreign.Match) {
	targets := chains[slices.Index(chains, c)+1:]
	if r.IntN(20) == 0 {
		targets = chains
	}
	for range r.IntN(7) {
		n := len(c.Rules)
		rule := &foreign.Rule{Place: fmt.Sprintf("%s:%d", c.Place, n), Text: fmt.Sprintf("%s, rule %d", c.Place, n), Any: []foreign.Match{foreign.All()}}
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
			rule.Log = &foreign.Log{Prefix: "TEST"}
		}
		if r.IntN(15) == 0 {
			rule.Cannot("it asks for the moon")
		}
		rule.Do = pick(r, []foreign.Verb{foreign.Nothing, foreign.Decide, foreign.Decide, foreign.Decide, foreign.Decide, foreign.Jump, foreign.Jump, foreign.Goto, foreign.Return})
		rule.Action = pick(r, []rules.Action{rules.Accept, rules.Accept, rules.Drop, rules.Reject})
		if rule.Do == foreign.Jump || rule.Do == foreign.Goto {
			if len(targets) == 0 {
				rule.Do = foreign.Decide
			} else {
				rule.Target = pick(r, targets)
			}
		}
		c.Rules = append(c.Rules, rule)
	}
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// RandomMatch returns a match of what rulestest makes packets of. One property at least is asked for.
func RandomMatch(r *rand.Rand) foreign.Match {
	m := foreign.All()
	for {
		switch r.IntN(9) {
		case 0:
			m.Family = pick(r, []rules.Family{rules.V4, rules.V6})
		case 1:
			m.Protos = pick(r, [][]uint8{{6}, {17}, {1}, {58}, {6, 17}, {47}, {1, 6, 47}})
		case 2, 3:
			m.Src = addrs(r)
		case 4:
			m.Dst = addrs(r)
		case 5:
			m.Protos, m.Dport = []uint8{6}, ports(r)
		case 6:
			m.Protos, m.Sport = []uint8{6, 17}, ports(r)
		case 7:
			links := foreign.LinksOf(pick(r, [][]string{{"lo"}, {"eth0"}, {"eth0", "eth1"}, {"lo", "eth1"}})...)
			links.But = r.IntN(3) == 0
			*pick(r, []*rules.Links{&m.In, &m.Out}) = links
		case 8:
			m.States = rules.States(1 + r.IntN(int(rules.AnyState)-1))
		}
		if r.IntN(2) == 0 {
			return m
		}
	}
}

func addrs(r *rand.Rand) rules.Addrs {
	return rules.Addrs{Given: true, In: prefixset.New(netip.MustParsePrefix(pick(r, []string{"192.0.2.1/32", "192.0.2.0/24", "192.0.2.2/31", "198.51.100.0/25",
		"0.0.0.0/0", "2001:db8::1/128", "2001:db8::/64", "2001:db8::2/127", "2001:db8::/32", "::/0"})))}
}

func ports(r *rand.Rand) rules.Ports {
	return foreign.PortsOf(pick(r, [][]rules.PortRange{{{First: 22, Last: 22}}, {{First: 80, Last: 80}, {First: 443, Last: 443}}, {{First: 0, Last: 1023}},
		{{First: 20, Last: 25}}, {{First: 1024, Last: 65535}}, {{First: 0, Last: 65535}}})...)
}
