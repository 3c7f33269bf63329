package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf/diag"
	"mef/internal/prefixset"
)

// A NATAction is how a nat statement translates.
type NATAction uint8

// The actions of nat statements.
const (
	Masquerade NATAction = iota // source: the address of the interface by which the packet leaves
	SNAT                        // source: a given address
	DNAT                        // destination: a given address, and a given port or the same one
	Redirect                    // destination: a given port of this host
)

var natNames = []string{"masquerade", "snat", "dnat", "redirect"}

// String returns "masquerade", "snat", "dnat" or "redirect".
func (a NATAction) String() string { return natNames[a] }

// Dir returns the way whose packets the action translates: destinations are translated on arrival, sources on leaving.
func (a NATAction) Dir() Dir {
	if a == DNAT || a == Redirect {
		return In
	}
	return Out
}

// A Translation is what a nat statement makes of the connections that its matches fit.
type Translation struct {
	Action NATAction
	Addr   netip.Addr // of SNAT and DNAT; invalid otherwise
	Port   uint16     // of DNAT and Redirect; 0: the port stays
}

// String returns "masquerade", "snat to 192.0.2.1", "dnat to [2001:db8::2]:80" or "redirect to port 8080".
func (t Translation) String() string {
	switch {
	case t.Action == Masquerade:
		return t.Action.String()
	case t.Action == Redirect:
		return fmt.Sprintf("redirect to port %d", t.Port)
	case t.Port == 0:
		return fmt.Sprintf("%s to %s", t.Action, t.Addr)
	}
	return fmt.Sprintf("%s to %s", t.Action, netip.AddrPortFrom(t.Addr, t.Port))
}

// Translation returns the nat statement that translates a packet that opens a connection and arrives (In), or leaves (Out); nil if none does.
func (p *Policy) Translation(d Dir, pkt Packet) *Rule {
	if pkt.State != New {
		return nil
	}
	for i := range p.NAT {
		if r := &p.NAT[i]; r.Dir == d && r.Fits(pkt) {
			return r
		}
	}
	return nil
}

// Translations returns the nat statements of a way, in order.
func (p *Policy) Translations(d Dir) []*Rule {
	var all []*Rule
	for i := range p.NAT {
		if p.NAT[i].Dir == d {
			all = append(all, &p.NAT[i])
		}
	}
	return all
}

// A route is a part of the packets that arrive: the way that they take, and the nat statement that leads them there, nil for none.
type route struct {
	dir   Dir
	space space
	by    *Rule
}

// routes parts packets by the nat statements that translate them. Only packets that open a connection are looked at: later ones
// follow the first.
func (m *Model) routes(d Dir, f int, start space) []route {
	opening := start
	opening.states &= New
	if d != In || opening.empty() {
		return []route{{d, start, nil}}
	}
	var all []route
	left := []space{opening}
	for i := range m.nat[In] {
		mr := &m.nat[In][i]
		if mr.in(f) == nil {
			continue
		}
		for j := range left {
			both, ok := left[j].meet(mr.in(f))
			switch {
			case ok && mr.rule.NAT.Action == DNAT:
				all = append(all, route{Forward, both.forwarded(), mr.rule})
			case ok:
				all = append(all, route{In, both, mr.rule})
			}
		}
		left = without(left, mr.in(f))
	}
	if all == nil {
		return []route{{d, start, nil}}
	}
	if start.states &^= New; !start.empty() {
		left = append(left, start)
	}
	for _, s := range left {
		all = append(all, route{In, s, nil})
	}
	return all
}

// forwarded returns packets that arrive as packets that go on by any interface.
func (s space) forwarded() space {
	s.out = LinksOf("", Loopback).Others()
	return s
}

const toSyntax = "ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT for dnat, ADDRESS for snat, :PORT for redirect"

// target reads where connections are led.
func (t *Translation) target(f *Field) *diag.Error {
	word := f.Value
	if a, err := netip.ParseAddr(word); err == nil {
		t.Addr = a
	} else if ap, err := netip.ParseAddrPort(word); err == nil && ap.Port() > 0 {
		t.Addr, t.Port = ap.Addr(), ap.Port()
	} else if port, ok := strings.CutPrefix(word, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return wrong(f.At, 0, word, toSyntax)
		}
		t.Port = uint16(n)
	} else {
		return wrong(f.At, 0, word, toSyntax)
	}
	if a := t.Addr; a.IsValid() && (a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is6() && a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
		err := &diag.Error{Pos: f.At, Msg: diag.Quote(word) + " is not the address of a host that packets can be sent to", Hint: "write the address of one host, without a zone"}
		if a.IsLoopback() {
			err.Msg, err.Hint = "the kernel forwards no packets to "+a.String(), "write action=redirect to=:PORT for a port of this host"
		}
		return err
	}
	return nil
}

// translation finds fields of a nat statement that do not go together.
func (r *reader) translation(st *Statement, c *clause, at func(string) diag.Pos) {
	t := c.NAT
	switch {
	case c.Dir == Forward:
		r.fail(at("dir"), "nat has no dir=fwd", "write dir=in to translate destinations, which comes before routing, or dir=out to translate sources, which comes after it")
		return
	case t.Action.Dir() != c.Dir:
		r.fail(at("dir"), fmt.Sprintf("action=%s with dir=%s", t.Action, c.Dir), fmt.Sprintf("write dir=%s: %s", t.Action.Dir(),
			map[Dir]string{In: "destinations are translated when packets arrive", Out: "sources are translated when packets leave"}[t.Action.Dir()]))
		return
	}
	to, good := st.field("to"), true
	bad := func(pos diag.Pos, msg, hint string) { r.fail(pos, msg, hint); good = false }
	switch {
	case t.Action == Masquerade && to != nil:
		bad(to.At, "masquerade has no to: the source becomes the address of the interface", "write action=snat, or remove to")
	case t.Action != Masquerade && to == nil:
		bad(st.At, fmt.Sprintf("action=%s without to", t.Action), "write to="+map[NATAction]string{SNAT: "ADDRESS", DNAT: "ADDRESS or to=ADDRESS:PORT", Redirect: ":PORT"}[t.Action])
	case to != nil && !t.Addr.IsValid() && t.Port == 0: // reported
		return
	case t.Action == SNAT && (t.Port != 0 || !t.Addr.IsValid()):
		bad(to.At, "snat translates addresses only", "write to=ADDRESS")
	case t.Action == DNAT && !t.Addr.IsValid():
		bad(to.At, "dnat without an address", "write to=ADDRESS:PORT, or action=redirect for a port of this host")
	case t.Action == Redirect && (t.Addr.IsValid() || t.Port == 0):
		bad(to.At, "redirect leads to a port of this host", "write to=:PORT, or action=dnat for another host")
	case t.Port != 0 && !c.Protos.HavePorts():
		bad(to.At, fmt.Sprintf("proto=%s has no ports", c.Protos), "write proto=tcp, proto=udp or proto=tcp,udp")
	case t.Addr.IsValid() && c.Family != 0 && c.Family&familyOf(t.Addr) == 0:
		bad(to.At, fmt.Sprintf("%s is not of the family of the other fields, which is %s", diag.Quote(to.Value), c.Family), "write an address of that family: NAT leads from one family to the same one")
	case t.Action.Dir() == In && !c.dst.given && !c.dport.given:
		bad(st.At, "this translates every packet that arrives and hides all services of this host, SSH too", "write proto= and dport=, or dst= with the address to translate")
	}
	if !good {
		return
	}
	if t.Addr.IsValid() {
		c.Family &= familyOf(t.Addr)
	}
	for _, i := range []struct {
		key  string
		text interfacesText
	}{{"iif", c.iif}, {"oif", c.oif}} {
		if slices.Contains(i.text.Names, Loopback) && !i.text.Not {
			r.fail(at(i.key), "packets over lo are not translated", "remove lo")
		}
	}
	if unchanged(c) {
		r.fail(to.At, "this leads packets to where they go anyway", "remove the statement, or write another port or address")
	}
}

// unchanged reports whether a translation leads all its packets to where they are addressed.
func unchanged(c *clause) bool {
	only := func(p portsText) uint16 {
		if len(p.sets) > 0 || len(p.ranges) != 1 || p.ranges[0].First != p.ranges[0].Last {
			return 0
		}
		return p.ranges[0].First
	}
	t := c.NAT
	samePort := t.Port == 0 || t.Port == only(c.dport)
	switch t.Action {
	case Redirect:
		return samePort
	case DNAT:
		return samePort && len(c.dst.sets) == 0 && !c.dst.not && slices.Equal(c.dst.prefixes, []netip.Prefix{netip.PrefixFrom(t.Addr, t.Addr.BitLen())})
	}
	return false
}

// NeverTranslates begins the message about a nat statement that earlier ones hide.
const NeverTranslates = "this translation never decides"

// translations looks at the nat statements as a whole: each must decide about some packet, and none may lead where another one leads back.
func (r *reader) translations() {
	if len(r.src.nats) == 0 || len(r.errs) > 0 || r.frozen { // on this host, more may be hidden: auto may be what another statement names
		return
	}
	// An interface of the name auto cannot exist, so that auto is compared with itself alone.
	p := r.src.Policy(Facts{Auto: []string{"auto"}})
	p.Rules = nil
	m := NewModel(p)
	for _, d := range []Dir{In, Out} {
		for i := range m.nat[d] {
			mr := &m.nat[d][i]
			if mr.rule.In.Fits(Loopback) || mr.rule.Out.Fits(Loopback) {
				r.fail(mr.rule.At, "packets over lo are not translated", "remove lo from the set of interfaces")
			}
			if r.namesHosts(&mr.rule.Src) || r.namesHosts(&mr.rule.Dst) || p.guesses(mr.rule) {
				continue // it is not known yet whom it fits
			}
			if before := taken(m.nat[d], i, upTo(i)); before != nil && (mr.in(0) != nil || mr.in(1) != nil) {
				r.fail(mr.rule.At, NeverTranslates+": all its packets match "+places(before)+" before it", "remove it, or move it up")
			}
			if d == Out {
				continue
			}
			if ring := m.ring(i); ring != nil {
				r.fail(mr.rule.At, "this translation and that of "+places(ring)+" lead back to each other; a packet is translated once", "lead to where the service is")
			}
		}
	}
}

// namesHosts reports whether an address is that of a set with names of hosts in it.
func (r *reader) namesHosts(a *Addrs) bool {
	var names func(set string, depth int) bool
	names = func(set string, depth int) bool {
		s := r.src.sets[set]
		return s != nil && depth > 0 && (len(s.names) > 0 || slices.ContainsFunc(s.addrs.sets, func(inner string) bool { return names(inner, depth-1) }))
	}
	return a.Set != "" && names(a.Set, len(r.src.sets)) || a.Set == "" && a.Given && r.anyHosts()
}

// anyHosts reports whether any set has names of hosts in it.
func (r *reader) anyHosts() bool { return len(r.src.Hosts())+len(r.src.Groups()) > 0 }

// ring returns the statements by which destinations come back to statement i of those that translate them, nil if they do not.
func (m *Model) ring(i int) (ring []*Rule) {
	all := m.nat[In]
	for at := i; len(ring) < len(all); {
		next := m.leadsTo(at)
		if next < 0 || next == at {
			return nil
		}
		if next == i {
			return ring
		}
		ring = append(ring, all[next].rule)
		at = next
	}
	return nil
}

// leadsTo returns the statement that names the destination to which statement i leads packets, -1 if none does.
func (m *Model) leadsTo(i int) int {
	from := &m.nat[In][i]
	t := from.rule.NAT
	for f, family := range families {
		fits := from.in(f)
		if fits == nil {
			continue
		}
		s := *fits
		if t.Addr.IsValid() {
			s.dst = prefixset.New(netip.PrefixFrom(t.Addr, t.Addr.BitLen()))
		}
		if t.Port != 0 {
			s.dport = []PortRange{{t.Port, t.Port}}
		}
		for j := range m.nat[In] {
			to := &m.nat[In][j]
			if to.in(f) != nil && (t.Action == Redirect || to.rule.Dst.of(family).Len() > 0 && to.rule.Dst.Given) && s.meets(to.in(f)) {
				return j
			}
		}
	}
	return -1
}

// dropped asks whether packets that are translated pass the rules of the way that they take.
func (m *Model) dropped() (all []Question) {
	for i := range m.policy.NAT {
		r := m.policy.NAT[i]
		q := Question{Rule: r, AnyPart: true}
		switch q.Dir, q.States = In, New; r.NAT.Action {
		case DNAT:
			q.Dir = Forward
		case Redirect:
		default:
			continue
		}
		as := fmt.Sprintf("rule dir=%s action=accept proto=%s", q.Dir, r.Protos)
		if r.Dport.Given {
			as += " dport=" + portWords(r.Dport.In)
		} else {
			as += " dst=" + addrWords(r.Dst.In)
		}
		q.Lost = fmt.Sprintf("packets of this translation (%s) are dropped: rules match the destination that the sender used", r.NAT)
		q.Remedy = as
		all = append(all, q)
	}
	return all
}
