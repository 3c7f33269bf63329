package importer

import (
	"net/netip"
	"slices"

	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// The filter of other programs sees the destination of a packet after its translation (DNAT); mef.rules means the one that the
// sender used. Where the rules of the translation can be followed, the filter is read once for the packets of each of them, with
// src, sport, interfaces and states as they are, and dst and dport answered by what they become. Where they cannot, the rules of the
// filter that they may concern are left out, or carried over in part, each with its line.

// A Destination is what a rule of NAT makes of the destination of packets. The zero value is one that is not known.
type Destination struct {
	Here  bool               // this host (REDIRECT)
	Addrs prefixset.Set      // unless Here; empty: not known
	Ports []policy.PortRange // nil: the port stays
}

// A translation is what one rule does to the destination of some packets.
type translation struct {
	rule    *Rule
	from    Match // the packets, as their senders addressed them
	to      Destination
	foreign bool // another program maintains it

	exact bool // it translates every such packet of a tracked connection
}

// translations returns what becomes of destinations before the filter of a way, in order. Of two that fit a packet the first counts.
func (rs *Ruleset) translations(d policy.Dir) (all []translation) {
	g := gatherer{}
	for _, c := range rs.NAT {
		if (c.Dir == policy.Out) == (d == policy.Out) {
			m := everyone(d)
			m.Family, m.States, m.Kinds = c.Family, policy.New|policy.Established|policy.Related, anyKind // it is not decided yet where they go
			g.chain(c, m, true, nil)
		}
	}
	all = slices.DeleteFunc(g.all, func(t translation) bool { return !rs.meets(d, &t.to) })
	if d == policy.Forward {
		all = append(all, errorsAbout(all)...)
	}
	return all
}

// errorsAbout returns the translations of ICMP errors about forwarded connections: an error is led where its connection is. They are
// known by the address alone, so those to an address of which different ports lead to different hosts are not among them.
func errorsAbout(all []translation) (more []translation) {
	for _, t := range all {
		one := !slices.ContainsFunc(all, func(o translation) bool {
			_, touches := onlyDst(o.from).Meet(onlyDst(t.from))
			return touches && !o.to.Addrs.Equal(t.to.Addrs)
		})
		if !t.exact || !one || !t.from.Dst.Given {
			continue
		}
		t.from = onlyDst(t.from)
		t.from.Protos, t.from.States = ProtosOf(policy.ICMP, policy.ICMP6), policy.Related
		t.to.Ports = nil
		more = append(more, t)
	}
	return more
}

// onlyDst returns the packets that have the destination of a match.
func onlyDst(m Match) Match {
	only := All()
	only.Family, only.Dst = m.Family, m.Dst
	return only
}

// meets reports whether packets with a destination may go a way.
func (rs *Ruleset) meets(d policy.Dir, to *Destination) bool {
	own := prefixset.New(append([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, rs.Own...)...)
	switch d {
	case policy.In:
		return to.Here || to.Addrs.Len() == 0 || to.Addrs.Intersect(own).Len() > 0
	case policy.Forward:
		return !to.Here && (to.Addrs.Len() == 0 || to.Addrs.Subtract(own).Len() > 0)
	}
	return true
}

// A gatherer follows packets through chains of NAT.
type gatherer struct {
	all   []translation
	doubt []Match // packets that an earlier rule may have decided about
}

// chain gathers what a chain does to packets; sure says that all of them come to it.
func (g *gatherer) chain(c *Chain, m Match, sure bool, path []*Chain) {
	if slices.Contains(path, c) || len(g.all) > maxAny {
		return
	}
	for _, r := range c.Rules {
		known := sure && r.Beyond == "" && len(r.Not) == 0
		for _, h := range each(m, r.Any) {
			if h.Kinds != anyKind { // the filter sees another destination
				h.Kinds, known = anyKind, false
			}
			switch {
			case r.To != nil || r.Source != nil:
				exact := known && !slices.ContainsFunc(g.doubt, func(d Match) bool { _, touches := d.Meet(h); return touches })
				one := translation{rule: r, from: h, exact: exact, foreign: c.Foreign || slices.ContainsFunc(path, func(c *Chain) bool { return c.Foreign })}
				if r.To != nil {
					one.to = *r.To
				}
				g.all = append(g.all, one)
				if !exact {
					g.doubt = append(g.doubt, h)
				}
			case r.Target != nil:
				g.chain(r.Target, h, known, append(slices.Clip(path), c))
				if r.Do == Goto {
					g.doubt = append(g.doubt, h)
				}
			case r.Do != Nothing:
				g.doubt = append(g.doubt, h) // accepted, or returned, or nobody knows
			}
		}
	}
}

// A view is how the filter of a way is read: for the packets of one translation, or for all others.
type view struct {
	of      *translation  // nil: the packets of none that can be followed
	unclear []translation // those that cannot
}

// translate reports how a rule of the filter asks about packets that are translated: m without what is certain of their new
// destination. fits is false if they do not fit; clear is false if some may and others not.
func (t *translation) translate(r *Rule, m Match) (rest Match, fits, clear bool) {
	clear = m.Kinds == anyKind
	m.Kinds = anyKind
	if m.Dst.Given && !r.OriginalDst {
		both := m.Dst.In.Intersect(t.to.Addrs)
		switch {
		case t.to.Here || t.to.Addrs.Len() == 0:
			clear = false
		case both.Len() == 0:
			return m, false, true
		case !both.Equal(t.to.Addrs):
			clear = false
		}
		m.Dst = policy.Addrs{}
	}
	if m.Dport.Given && !r.OriginalDport && (t.to.Ports != nil || t.to.unknown()) {
		both := policy.MeetPorts(m.Dport.In, t.to.Ports)
		switch {
		case t.to.Ports == nil:
			clear = false
		case len(both) == 0:
			return m, false, true
		case !slices.Equal(both, t.to.Ports):
			clear = false
		}
		m.Dport = policy.Ports{}
	}
	return m, true, clear
}

func (d *Destination) unknown() bool { return !d.Here && d.Addrs.Len() == 0 }

// addressed reports whether a rule asks for a destination as it is after translation.
func (r *Rule) addressed(m *Match) bool {
	return m.Kinds != anyKind || m.Dst.Given && !r.OriginalDst || m.Dport.Given && !r.OriginalDport
}

// A reading is a rule of the filter as it is read for some packets.
type reading struct {
	any, not []Match
	why      string // it cannot be carried over
	unclear  bool   // because of a translation
	partly   string // it is carried over for some of its packets only
}

// read reads a rule.
func (v *view) read(r *Rule) reading {
	out := reading{any: r.Any, not: r.Not, why: r.Beyond}
	if r.Led && v.of == nil {
		if len(v.unclear) == 0 {
			return reading{}
		}
		out.why = "it matches translated packets, and those of a rule that cannot be evaluated, " + v.unclear[0].rule.where()
	}
	if v.of != nil {
		drops := r.Do == Decide && r.Action != policy.Accept
		out.any = v.narrow(r, r.Any, true, &out)
		out.not = v.narrow(r, r.Not, !drops, &out)
		if out.unclear && drops { // which drops too much rather than too little
			out.why, out.partly = "", out.why
		}
		return out
	}
	for i := range v.unclear {
		v.unclear[i].cast(r, &out)
	}
	return out
}

// narrow returns matches as they are asked of the packets of a translation: those that some of these packets fit and others do not too, if
// they are wanted.
func (v *view) narrow(r *Rule, all []Match, unclear bool, out *reading) (narrowed []Match) {
	for _, m := range all {
		rest, fits, clear := v.of.translate(r, m)
		if !fits {
			continue
		}
		if _, touches := rest.Meet(v.of.from); touches && !clear {
			if out.why == "" {
				out.why, out.unclear = "it matches only some of the destinations of "+v.of.rule.where(), true
			}
			if !unclear {
				continue
			}
		}
		narrowed = append(narrowed, rest)
	}
	return narrowed
}

// where names a rule of NAT for people.
func (r *Rule) where() string { return clean(r.Place+": "+r.line(), maxWhere) }

const maxWhere = 160

// cast looks whether a translation that cannot be followed concerns a rule. One that drops then drops also what may be translated, as
// far as a port or an address shows; others are left out.
func (t *translation) cast(r *Rule, out *reading) {
	var more []Match
	concerned := false
	for _, m := range slices.Concat(r.Any, r.Not) {
		if !r.addressed(&m) {
			continue
		}
		if _, touches := m.Meet(t.from); touches {
			concerned = true
		}
		rest, fits, _ := t.translate(r, m)
		if both, touches := rest.Meet(t.from); fits && touches {
			concerned = true
			if t.from.Dst.Given || t.from.Dport.Given {
				more = append(more, both)
			}
		}
	}
	why := "it matches destinations that are translated by a rule that cannot be evaluated, " + t.rule.where()
	switch {
	case !concerned:
	case out.why != "":
	case r.Do == Decide && r.Action != policy.Accept && len(r.Not) == 0:
		out.partly = why
		out.any = slices.Concat(out.any, more)
	default:
		out.why, out.unclear = why, true
	}
}
