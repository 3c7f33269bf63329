package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/prefixset"
)

// A Warning is something in a policy that its author may not have intended. The policy can be loaded nevertheless.
type Warning struct {
	At   conf.Pos
	Msg  string
	Hint string
}

// String returns "FILE:LINE: message; hint".
func (w Warning) String() string { return (&conf.Error{Pos: w.At, Msg: w.Msg, Hint: w.Hint}).Error() }

// A Question is about packets that a host can hardly do without.
type Question struct {
	Rule           // which packets; their action does not matter
	Lost    string // what is lost without them: "answers to connections of this host are dropped"
	Remedy  string // a rule that lets them pass
	AnyPart bool   // it is enough if some of them pass
}

// ephemeral are the ports from which a host connects to others, unless somebody has changed that.
var ephemeral = []PortRange{{32768, 60999}}

// usual are the questions for every host.
func usual() []Question {
	local, group := prefixset.New(netip.MustParsePrefix("fe80::/10")), prefixset.New(netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff02::/16"))
	return []Question{
		{
			Rule: Rule{Dir: In, Family: Any, States: AnyState, In: Interfaces{Names: []string{Loopback}}},
			Lost: "programs on this host cannot reach each other over loopback", Remedy: "rule dir=in action=accept proto=all iif=lo",
		},
		{
			Rule: Rule{Dir: Out, Family: Any, States: AnyState, Out: Interfaces{Names: []string{Loopback}}},
			Lost: "programs on this host cannot reach each other over loopback", Remedy: "rule dir=out action=accept proto=all oif=lo",
		},
		{
			Rule: Rule{Dir: In, Family: Any, Protos: Protos{TCP}, States: Established, Dport: Ports{Given: true, In: ephemeral}}, AnyPart: true,
			Lost: "replies to connections of this host are dropped", Remedy: "rule dir=in action=accept proto=all ct=established,related",
		},
		{
			Rule: Rule{Dir: Out, Family: Any, Protos: Protos{TCP}, States: Established}, AnyPart: true,
			Lost: "replies to clients are dropped", Remedy: "rule dir=out action=accept proto=all ct=established,related",
		},
		{
			Rule: Rule{Dir: In, Family: V4, Protos: Protos{ICMP}, States: Related}, AnyPart: true,
			Lost: "ICMP errors of IPv4 routers about packets that are too large (path MTU) are dropped", Remedy: "rule dir=in action=accept proto=all ct=established,related",
		},
		{
			Rule: Rule{Dir: In, Family: V6, Protos: Protos{ICMP6}, States: Untracked, Src: Addrs{Given: true, In: local}, Dst: Addrs{Given: true, In: group}}, AnyPart: true,
			Lost: "incoming IPv6 neighbour discovery is dropped, which cuts this host off from IPv6", Remedy: "rule dir=in action=accept proto=icmp6",
		},
		{
			Rule: Rule{Dir: Out, Family: V6, Protos: Protos{ICMP6}, States: Untracked, Src: Addrs{Given: true, In: local}, Dst: Addrs{Given: true, In: group}}, AnyPart: true,
			Lost: "outgoing IPv6 neighbour discovery is dropped, which cuts this host off from IPv6", Remedy: "rule dir=out action=accept proto=icmp6",
		},
	}
}

// DHCP are the questions for a host that gets its address by DHCP.
func DHCP() []Question {
	return []Question{
		{
			Rule: Rule{Dir: In, Family: V4, Protos: Protos{UDP}, States: New, Sport: port(67), Dport: port(68)}, AnyPart: true,
			Lost: "replies of DHCP servers are dropped; this host has its address by DHCP", Remedy: "rule dir=in action=accept proto=udp family=ip sport=67 dport=68",
		},
		{
			Rule: Rule{Dir: Out, Family: V4, Protos: Protos{UDP}, States: New, Sport: port(68), Dport: port(67)}, AnyPart: true,
			Lost: "requests to DHCP servers are dropped; this host has its address by DHCP", Remedy: "rule dir=out action=accept proto=udp family=ip sport=68 dport=67",
		},
	}
}

func port(n uint16) Ports { return Ports{Given: true, In: []PortRange{{n, n}}} }

// Warnings returns what in the policy its author may not have meant, on a host that has addresses of some families. Further questions
// are those of the host at hand.
func (m *Model) Warnings(has Family, further ...Question) []Warning {
	var all []Warning
	for _, q := range slices.Concat(usual(), further, m.dropped()) {
		if q.Family&has == 0 {
			continue
		}
		if w, lost := m.lost(q); lost {
			if q.NAT != nil {
				w.At = q.At
			}
			all = append(all, w)
		}
	}
	for i := range m.policy.NAT {
		if r := &m.policy.NAT[i]; r.NAT.Action == Masquerade && r.Family&has == Any && !r.Src.Given {
			all = append(all, Warning{r.At, "this translates IPv6 too, where hosts have addresses that others can reach", "write family=ip, or src= with the addresses to translate"})
		}
	}
	all = append(all, m.silent()...)
	for i := range m.policy.Rules {
		r := &m.policy.Rules[i]
		if r.Log != "" && r.LogRate == (Rate{}) {
			all = append(all, Warning{r.At, "every packet of this rule is logged", "add ratelimit=5/s, otherwise any sender can fill the log"})
		}
	}
	return all
}

// lost reports whether packets that are asked about do not pass.
func (m *Model) lost(q Question) (w Warning, lost bool) {
	if m.policy.Defaults[q.Dir] == nil {
		return w, false
	}
	passes := func(a Action) bool { return a == Accept }
	if q.AnyPart {
		if _, found, err := m.Find(&q.Rule, passes); found || err != nil {
			return w, false
		}
	}
	c, found, err := m.Find(&q.Rule, func(a Action) bool { return !passes(a) })
	if !found || err != nil {
		return w, false
	}
	at := m.policy.Defaults[q.Dir].At
	if c.Rule != nil {
		at = c.Rule.At
	}
	return Warning{at, q.Lost, "write " + q.Remedy}, true
}

// maxCompared bounds how many pairs of rules are compared to find those that never decide.
const maxCompared = 20_000_000

// silent finds rules that never decide, because earlier ones fit all of their packets.
func (m *Model) silent() []Warning {
	var all []Warning
	compared := 0
	for d := range Dirs {
		earlier := byPort{ports: map[uint16][]int{}}
		for i := range m.rules[d] {
			mr := &m.rules[d][i]
			candidates := earlier.next(i, mr.rule)
			if m.policy.guesses(mr.rule) {
				continue
			}
			if mr.in(0) == nil && mr.in(1) == nil {
				all = append(all, Warning{mr.rule.At, "no packet matches this rule: one of its sets is empty, or has no addresses of its family", ""})
				continue
			}
			if compared += len(candidates); compared > maxCompared {
				all = append(all, Warning{mr.rule.At, "the policy has too many rules: those from here on are not checked for rules that never decide", ""})
				return all
			}
			if before := taken(m.rules[d], i, candidates); before != nil {
				all = append(all, Warning{mr.rule.At, "this rule never decides: all its packets match " + places(before) + " before it", "remove it, or move it up"})
			}
		}
	}
	return all
}

// guesses reports whether a rule looks into a set of ipset, of which nobody knows here what is in it.
func (p *Policy) guesses(r *Rule) bool {
	return slices.ContainsFunc(p.Sets, func(s Set) bool { return s.IPSet != "" && (s.Name == r.Src.Set || s.Name == r.Dst.Set) })
}

// byPort finds the rules that may fit packets of a rule: those of the same port, if it has one alone, and those of several or of none.
type byPort struct {
	ports map[uint16][]int
	wide  []int
}

// next returns the numbers of such rules before rule number i, ascending, and takes it in.
func (b *byPort) next(i int, r *Rule) (candidates []int) {
	if in := r.Dport.In; len(in) != 1 || in[0].First != in[0].Last {
		b.wide = append(b.wide, i)
		return upTo(i)
	}
	port := r.Dport.In[0].First
	candidates = slices.Concat(b.wide, b.ports[port])
	slices.Sort(candidates)
	b.ports[port] = append(b.ports[port], i)
	return candidates
}

// upTo returns the numbers below n.
func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// taken returns the fewest of some earlier rules that leave nothing to rule number i of a list, nil if something is left.
func taken(rules []modelRule, i int, earlier []int) []*Rule {
	before, all := take(rules, i, earlier)
	if !all {
		return nil
	}
	for _, j := range slices.Clone(before) {
		others := slices.DeleteFunc(slices.Clone(before), func(k int) bool { return k == j })
		if _, all := take(rules, i, others); all {
			before = others
		}
	}
	var list []*Rule
	for _, j := range before {
		list = append(list, rules[j].rule)
	}
	return list
}

// take returns which of some earlier rules take packets from rule number i of a list, and whether they take all.
func take(rules []modelRule, i int, among []int) (by []int, all bool) {
	for f := range families {
		if rules[i].in(f) == nil {
			continue
		}
		left := []space{*rules[i].in(f)}
		for _, j := range among {
			if len(left) == 0 {
				break
			}
			earlier := &rules[j]
			if earlier.in(f) == nil || !slices.ContainsFunc(left, func(s space) bool { return s.meets(earlier.in(f)) }) {
				continue
			}
			if left = without(left, earlier.in(f)); len(left) > fewParts {
				return nil, false // most likely not
			}
			if !slices.Contains(by, j) {
				by = append(by, j)
			}
		}
		if len(left) > 0 {
			return nil, false
		}
	}
	return by, true
}

// fewParts is into how many parts a rule may be cut by earlier ones before it is taken to be within reach.
const fewParts = 256

// places names rules by where they stand.
func places(rules []*Rule) string {
	var list []string
	for _, r := range rules {
		list = append(list, r.At.InLine())
	}
	if len(list) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:3], ", "), len(list)-3)
	}
	return strings.Join(list, " and ")
}

// Missing warns of interfaces that rules name and that are not among those of the host, once each. They may come later (a VPN that is
// down), or be mistyped.
func (p *Policy) Missing(there []string) (all []Warning) {
	var named []string
	check := func(r *Rule) {
		for _, name := range slices.Concat(r.In.Names, r.Out.Names) {
			if Exists(name, there) || slices.Contains(named, name) {
				continue
			}
			named = append(named, name)
			hint := diag.DidYouMean(name, there)
			if hint == "" {
				hint = "there are " + strings.Join(there, ", ")
			}
			all = append(all, Warning{At: r.At, Msg: fmt.Sprintf("there is no interface %q now; the rule matches once it exists", name), Hint: hint})
		}
	}
	for i := range p.Rules {
		check(&p.Rules[i])
	}
	for i := range p.NAT {
		check(&p.NAT[i])
	}
	return all
}
