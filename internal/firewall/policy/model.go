package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/prefixset"
)

// A Packet is what a policy decides about.
type Packet struct {
	Dir      Dir
	In, Out  string // interfaces; In is empty for packets from this host, Out for packets to it
	Proto    Proto
	Type     uint8 // of a message of ICMP; otherwise 0
	Src, Dst netip.Addr
	Sport    uint16 // 0 for protocols without ports
	Dport    uint16
	Syn      bool   // of TCP: the segment opens a connection
	State    States // one of them
	Owner    Owner  // of a packet from this host
}

// String returns the packet as people speak of it: "new tcp from 192.0.2.7 port 40000 to 192.0.2.1 port 22, in by eth0".
func (p Packet) String() string {
	name := p.Proto.String()
	switch {
	case p.Proto == ICMP || p.Proto == ICMP6:
		name += " " + typeName(p.Proto, p.Type)
	case name[0] <= '9':
		name = "protocol " + name
	case p.Proto == TCP && p.State == New && !p.Syn:
		name += " (not SYN)"
	}
	end := func(a netip.Addr, port uint16) string {
		if port == 0 {
			return a.String()
		}
		return fmt.Sprintf("%s port %d", a, port)
	}
	s := fmt.Sprintf("%s %s from %s to %s", p.State, name, end(p.Src, p.Sport), end(p.Dst, p.Dport))
	if p.In != "" {
		s += ", in by " + p.In
	}
	if p.Out != "" {
		s += ", out by " + p.Out
	}
	if p.Owner.Process {
		s += ", sent by " + p.Owner.String()
	}
	return s
}

// A Verdict is what becomes of a packet, and why.
type Verdict struct {
	Action Action
	Rule   *Rule    // that decides; nil if none fits
	NAT    *Rule    // the nat statement that led the packet to where it is decided about; nil for none
	Policy *Default // that decides if no rule does; nil if the policy says nothing about this way
}

// String returns the verdict with the place of what decides: "drop by /etc/mef/mef.rules:12".
func (v Verdict) String() string {
	switch {
	case v.NAT != nil:
		nat := v.NAT
		v.NAT = nil
		return v.String() + ", after " + nat.translates()
	case v.Rule != nil:
		s := fmt.Sprintf("%s by %s", v.Action, v.Rule.At.InLine())
		if v.Rule.Limit != (Rate{}) {
			s += fmt.Sprintf(", up to %s from each source", v.Rule.Limit)
		}
		if v.Rule.Helper != "" {
			s += ", with helper " + v.Rule.Helper
		}
		return s
	case v.Policy != nil:
		return fmt.Sprintf("%s by policy %s", v.Action, v.Policy.At.InLine())
	}
	return v.Action.String() + " without a policy"
}

// translates reports what a nat statement does, with its place; "not translated" for none.
func (r *Rule) translates() string {
	if r == nil {
		return "not translated"
	}
	return fmt.Sprintf("%s by %s", r.NAT, r.At.InLine())
}

// besides returns what the rule does beside its action: how much it accepts from each source, and its helper.
func (v Verdict) besides() (limit Rate, helper string) {
	if v.Rule == nil {
		return Rate{}, ""
	}
	return v.Rule.Limit, v.Rule.Helper
}

// Decide returns what becomes of a packet.
func (p *Policy) Decide(pkt Packet) Verdict {
	for i := range p.Rules {
		if r := &p.Rules[i]; r.Dir == pkt.Dir && r.Fits(pkt) {
			return Verdict{Action: r.Action, Rule: r}
		}
	}
	return p.otherwise(pkt.Dir)
}

// otherwise returns what becomes of packets that no rule fits.
func (p *Policy) otherwise(d Dir) Verdict {
	if def := p.Defaults[d]; def != nil {
		return Verdict{Action: def.Action, Policy: def}
	}
	return Verdict{Action: Accept}
}

// Fits reports whether the rule fits a packet of its way.
func (r *Rule) Fits(p Packet) bool {
	return r.Family&familyOf(p.Src) != 0 &&
		r.Protos.fits(p.Proto, familyOf(p.Src)) && (len(r.Types) == 0 || slices.Contains(r.Types, p.Type)) &&
		r.States&p.State != 0 && (r.Flags == 0 || (r.Flags == Syn) == p.Syn) &&
		(r.Dir == Out || r.In.Fits(p.In)) &&
		(r.Dir == In || r.Out.Fits(p.Out)) &&
		r.Src.fits(p.Src) && r.Dst.fits(p.Dst) &&
		r.Sport.fits(p.Sport) && r.Dport.fits(p.Dport) && r.Owners.fits(p.Owner)
}

func (a Addrs) fits(addr netip.Addr) bool { return !a.Given || a.In.Contains(addr) }

func (p Ports) fits(port uint16) bool {
	return !p.Given || slices.ContainsFunc(p.In, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// A Model answers questions about many packets at once.
type Model struct {
	policy *Policy
	rules  [len(Dirs)][]modelRule
	nat    [len(Dirs)][]modelRule
}

// A modelRule is a rule with the packets that fit it, which are found when they are first asked for: most questions are about few rules.
type modelRule struct {
	rule  *Rule
	asked [2]bool
	parts [2]*space // by family
}

// in returns the packets of a family that fit, nil if there are none.
func (mr *modelRule) in(f int) *space {
	if !mr.asked[f] {
		mr.asked[f] = true
		if s, ok := mr.rule.space(families[f]); ok {
			mr.parts[f] = &s
		}
	}
	return mr.parts[f]
}

// apart reports whether a rule fits no packet of a space, as its ports show.
func (mr *modelRule) apart(s *space) bool {
	return mr.rule.Dport.Given && !portsMeet(s.dport, mr.rule.Dport.In)
}

var families = [2]Family{V4, V6}

// NewModel returns a model of a policy, which must not change.
func NewModel(p *Policy) *Model {
	m := &Model{policy: p}
	for i := range p.Rules {
		r := &p.Rules[i]
		m.rules[r.Dir] = append(m.rules[r.Dir], modelRule{rule: r})
	}
	for i := range p.NAT {
		r := &p.NAT[i]
		m.nat[r.Dir] = append(m.nat[r.Dir], modelRule{rule: r})
	}
	return m
}

// ErrTooMany says that a question falls into too many cases to be answered.
var ErrTooMany = errors.New("too many cases")

// Bounds of a question: into how many parts a space is cut, and how often two spaces are compared, which takes a second or two.
const (
	maxParts = 20_000
	maxWork  = 5_000_000
)

// part cuts a space of packets by the first rule of a list that fits: visit gets each part and its rule, nil for none, until it
// returns false. Work counts comparisons.
func part(rules []modelRule, f int, start space, work *int, visit func(part *space, r *Rule) bool) error {
	left := []space{start}
	for i := range rules {
		mr := &rules[i]
		if len(left) == 0 || mr.apart(&start) || mr.in(f) == nil {
			continue
		}
		if *work += len(left); len(left) > maxParts || *work > maxWork {
			return ErrTooMany
		}
		for j := range left {
			if both, ok := left[j].meet(mr.in(f)); ok && !visit(&both, mr.rule) {
				return nil
			}
		}
		left = without(left, mr.in(f))
	}
	for j := range left {
		if !visit(&left[j], nil) {
			return nil
		}
	}
	return nil
}

// Find returns a packet that fits a rule, whose action does not matter, and of which the policy makes what is wanted; found is false
// if there is none. Unlike Ask it looks only at rules that would do what is wanted, each with those before it.
func (m *Model) Find(about *Rule, wanted func(Action) bool) (c Case, found bool, err error) {
	work := 0
	for f, family := range families {
		start, ok := about.space(family)
		if !ok {
			continue
		}
		for _, way := range m.routes(about.Dir, f, start) {
			part, r, err := m.reach(way.dir, f, way.space, &work, wanted)
			if err != nil {
				return c, false, err
			}
			if part != nil {
				start.out = way.space.out
				v := m.policy.verdict(way.dir, r)
				v.NAT = way.by
				return Case{v, part.sample(way.dir, family), part.differs(&start)}, true, nil
			}
		}
	}
	return c, false, nil
}

// reach returns packets of a space that a rule decides about, or the default, by an action that is wanted; nil if there are none.
func (m *Model) reach(d Dir, f int, start space, work *int, wanted func(Action) bool) (*space, *Rule, error) {
	for i := range m.rules[d] {
		mr := &m.rules[d][i]
		if !wanted(mr.rule.Action) || mr.apart(&start) || mr.in(f) == nil {
			continue
		}
		region, ok := start.meet(mr.in(f))
		if !ok {
			continue
		}
		left, err := m.left(d, f, i, []space{region}, work)
		if err != nil {
			return nil, nil, err
		}
		if len(left) > 0 {
			return &left[0], mr.rule, nil
		}
	}
	if !wanted(m.policy.otherwise(d).Action) {
		return nil, nil, nil
	}
	// Most often some packet that an ordinary one stands for meets no rule at all; to prove that none does takes longer.
	if p := start.sample(d, families[f]); m.policy.Decide(p).Rule == nil {
		return &start, nil, nil
	}
	left, err := m.left(d, f, len(m.rules[d]), []space{start}, work)
	if err != nil || len(left) == 0 {
		return nil, nil, err
	}
	return &left[0], nil, nil
}

// left returns what the first n rules of a way leave of some spaces. Work counts comparisons.
func (m *Model) left(d Dir, f, n int, parts []space, work *int) ([]space, error) {
	for i := 0; i < n && len(parts) > 0; i++ {
		if mr := &m.rules[d][i]; mr.in(f) != nil {
			if *work += len(parts); len(parts) > maxParts || *work > maxWork {
				return nil, ErrTooMany
			}
			if slices.ContainsFunc(parts, func(s space) bool { return s.meets(mr.in(f)) }) {
				parts = without(parts, mr.in(f))
			}
		}
	}
	return parts, nil
}

// A Case is a part of the packets that were asked about, and what becomes of it.
type Case struct {
	Verdict
	Sample Packet // one of them
	What   string // how they differ from what was asked about: "from 192.0.2.0/24"; empty if they do not
}

// Ask returns what becomes of the packets that fit a rule, whose action does not matter. Cases with one verdict follow each other.
func (m *Model) Ask(about *Rule) ([]Case, error) {
	var cases []Case
	work := 0
	for f, family := range families {
		start, ok := about.space(family)
		if !ok {
			continue
		}
		for _, way := range m.routes(about.Dir, f, start) {
			whole := start
			whole.out = way.space.out
			err := part(m.rules[way.dir], f, way.space, &work, func(part *space, r *Rule) bool {
				v := m.policy.verdict(way.dir, r)
				v.NAT = way.by
				cases = append(cases, Case{v, part.sample(way.dir, family), part.differs(&whole)})
				return len(cases) <= maxParts
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return cases, nil
}

// Failure reports how an expectation is not met.
type Failure struct {
	Expect *Expectation
	Case   Case  // one for which it is not; its Sample is invalid if no packet fits the expectation at all
	Err    error // why it is not known
}

// String returns what is wrong, without the place.
func (f Failure) String() string {
	switch {
	case f.Err != nil:
		return "the verdict is not known: " + f.Err.Error()
	case !f.Case.Sample.Src.IsValid():
		return "no packet matches"
	}
	return fmt.Sprintf("expected %s, but %s is: %s", f.Expect.Action, f.Case.Sample, f.Case.Verdict)
}

// Unmet returns the expectations that the policy does not meet, with one case for each.
func (m *Model) Unmet(expects []Expectation) []Failure {
	var failures []Failure
	for i := range expects {
		e := &expects[i]
		c, found, err := m.Find(&e.Rule, func(a Action) bool { return a != e.Action })
		switch _, fits4 := e.space(V4); {
		case err != nil:
			failures = append(failures, Failure{Expect: e, Err: err})
		case found:
			failures = append(failures, Failure{Expect: e, Case: c})
		default:
			if _, fits6 := e.space(V6); !fits4 && !fits6 {
				failures = append(failures, Failure{Expect: e})
			}
		}
	}
	return failures
}

// sample returns a packet of the space, an ordinary one if there is one.
func (s *space) sample(d Dir, f Family) Packet {
	p := Packet{Dir: d, Proto: Proto(s.proto.first(uint8(TCP), uint8(UDP), uint8(ICMP), uint8(ICMP6))), Src: sampleAddr(s.src, f, 7), Dst: sampleAddr(s.dst, f, 1)}
	for i := range stateNames {
		if s.states&(1<<i) != 0 {
			p.State = 1 << i
			break
		}
	}
	if d != Out {
		p.In = s.in.sample()
	}
	if d != In {
		p.Out = s.out.sample()
	}
	if names := typeNames(p.Proto); p.Proto == ICMP || p.Proto == ICMP6 {
		p.Type = s.types.first(names["echo-request"])
	}
	if p.Proto.HasPorts() {
		p.Sport, p.Dport = samplePort(s.sport, 40000), samplePort(s.dport, 80)
	}
	p.Syn = p.Proto == TCP && s.flags&Syn != 0 && (p.State == New || s.flags == Syn)
	if d == Out {
		p.Owner = sampleOwner(s.users, s.groups)
	}
	return p
}

// sampleAddr returns an address of the set, a documentation address if there is one.
func sampleAddr(s prefixset.Set, f Family, last byte) netip.Addr {
	usual := netip.AddrFrom4([4]byte{192, 0, 2, last})
	if f == V6 {
		usual = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: last})
	}
	if s.Contains(usual) {
		return usual
	}
	r := s.Ranges()[0]
	if next := r.First.Next(); r.First.IsUnspecified() && next.Compare(r.Last) <= 0 {
		return next
	}
	return r.First
}

func samplePort(ranges []PortRange, usual uint16) uint16 {
	for _, r := range ranges {
		if r.First <= usual && usual <= r.Last {
			return usual
		}
	}
	for _, r := range ranges {
		if r.Last > 0 {
			return max(1, r.First)
		}
	}
	return 0 // which a packet can have, though no rule names it
}

// differs says in which properties the part differs from the whole.
func (s *space) differs(whole *space) string {
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if s.states != whole.states {
		add("ct=%s", s.states)
	}
	if s.proto != whole.proto {
		add("%s", s.proto.words("proto", func(n uint8) string { return Proto(n).String() }))
	}
	if s.types != whole.types {
		p := Proto(s.proto.first())
		add("%s", s.types.words("icmp-type", func(n uint8) string { return typeName(p, n) }))
	}
	if s.flags != whole.flags {
		add("tcp-flags=%s", s.flags)
	}
	if !s.in.Equal(whole.in) {
		add("iif=%s", s.in.Words())
	}
	if !s.out.Equal(whole.out) {
		add("oif=%s", s.out.Words())
	}
	if !s.src.Equal(whole.src) {
		add("src=%s", addrWords(s.src))
	}
	if !s.dst.Equal(whole.dst) {
		add("dst=%s", addrWords(s.dst))
	}
	if !slices.Equal(s.sport, whole.sport) {
		add("sport=%s", portWords(s.sport))
	}
	if !slices.Equal(s.dport, whole.dport) {
		add("dport=%s", portWords(s.dport))
	}
	if !s.users.Equal(whole.users) {
		add("owner=%s", s.users.Words())
	}
	if !s.groups.Equal(whole.groups) {
		add("owner=group:%s", s.groups.Words())
	}
	return strings.Join(words, " ")
}

const fewWords = 8 // items of a list that are shown

func some(list []string) string {
	if len(list) > fewWords {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:fewWords], ","), len(list)-fewWords)
	}
	return strings.Join(list, ",")
}

// list returns the numbers of the set.
func (s octets) list() (in []uint8) {
	for n := range 256 {
		if s.has(uint8(n)) {
			in = append(in, uint8(n))
		}
	}
	return in
}

// words returns the set in words, as a value of a field: by the names of what is in it, or of what is not if that is less.
func (s octets) words(field string, name func(uint8) string) string {
	list, relation := s.list(), "="
	if others := allOctets.minus(s).list(); len(others) < len(list) {
		list, relation = others, " other than "
	}
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = name(n)
	}
	return field + relation + some(words)
}

func addrWords(s prefixset.Set) string { return some(AddrList(s)) }

// AddrList returns the addresses of a set as they are written in a policy.
func AddrList(s prefixset.Set) []string {
	list := make([]string, s.Len())
	for i, r := range s.Ranges() {
		list[i] = RangeText(r)
	}
	return list
}

// RangeText returns a range as it is written in a policy: an address, a prefix, or a range of addresses.
func RangeText(r prefixset.Range) string {
	if r.First == r.Last {
		return r.First.String()
	}
	if p, ok := r.Prefix(); ok {
		return p.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

func portWords(ranges []PortRange) string { return some(PortList(ranges)) }

// PortList returns ports as they are written in a policy.
func PortList(ranges []PortRange) []string {
	list := make([]string, len(ranges))
	for i, r := range ranges {
		list[i] = r.String()
	}
	return list
}
