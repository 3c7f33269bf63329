package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
)

// A hook is a chain of iptables that packets meet, and ours.
type hook struct{ chain, ours string }

// hooks are those of the table filter, by way; translators are those of the table nat; helpers are those of the table raw.
var (
	hooks       = [...]hook{policy.In: {"INPUT", "MEF-IN"}, policy.Out: {"OUTPUT", "MEF-OUT"}, policy.Forward: {"FORWARD", "MEF-FWD"}}
	translators = [...]hook{policy.In: {"PREROUTING", "MEF-PRE"}, policy.Out: {"POSTROUTING", "MEF-POST"}}
	helpers     = [...]hook{policy.In: {"PREROUTING", "MEF-HELP-IN"}, policy.Out: {"OUTPUT", "MEF-HELP-OUT"}}
)

// The tables that have chains of ours.
const (
	filter = iota
	nat
	raw
)

// A netTable is one of these tables.
type netTable struct {
	name  string
	hooks []hook
}

var tables = [...]netTable{filter: {"filter", hooks[:]}, nat: {"nat", translators[:]}, raw: {"raw", helpers[:]}}

// rejectChain is where packets are rejected.
const rejectChain = "MEF-REJECT"

// A chain is one of ours, with what stands behind "-A NAME" for each of its rules.
type chain struct {
	name  string
	lines []string
}

// A writer gathers the chains of one family.
type writer struct {
	family  policy.Family
	sets    *ipsets
	chains  []chain
	logs    map[*policy.Rule]string // where the rules go that log
	limits  map[*policy.Rule]string // where those go that limit
	rejects bool
}

func (w *writer) add(name string, lines ...string) {
	w.chains = append(w.chains, chain{name, lines})
}

// A way is what the policy says of one way of packets. Loopback has a chain of its own there, and so have interfaces that a rule
// excepts together with others (iif=!eth0,eth1), which iptables cannot say in one rule.
type way struct {
	dir       policy.Dir
	top       string // name of the first chain
	table     int    // filter, nat or raw
	def       policy.Action
	mss       bool // the maximum segment size follows the MTU
	rules     []*policy.Rule
	ins, outs []string // interfaces with a chain of their own
}

// maxPlaces is how many chains of a way there may be for interfaces.
const maxPlaces = 100

// early adds a way of the table nat or raw, whose chains come before or beside translations.
func (w *writer) early(table int, d policy.Dir, rules []*policy.Rule) error {
	wy, err := newWay(d, policy.Accept, rules)
	if err != nil || len(wy.at(place{}, w.family)) == 0 {
		return err
	}
	wy.top, wy.table = tables[table].hooks[d].ours, table
	return w.way(wy)
}

func newWay(d policy.Dir, def policy.Action, rules []*policy.Rule) (*way, error) {
	wy := &way{dir: d, top: hooks[d].ours, def: def, rules: rules}
	switch d {
	case policy.In:
		wy.ins = []string{policy.Loopback}
	case policy.Out:
		wy.outs = []string{policy.Loopback}
	}
	for _, r := range wy.rules {
		for _, i := range []*policy.Interfaces{&r.In, &r.Out} {
			if names := excepted(i); len(names) > 1 && slices.ContainsFunc(names, policy.IsPattern) {
				return nil, fmt.Errorf("%s: iptables cannot except a pattern of interfaces together with others; write the pattern alone, or use the nft backend", r.At)
			}
		}
		wy.ins, wy.outs = apart(wy.ins, &r.In), apart(wy.outs, &r.Out)
		if (len(wy.ins)+1)*(len(wy.outs)+1) > maxPlaces {
			return nil, fmt.Errorf("%s: iptables needs a chain for each pair of interfaces that rules exclude together, and with this rule there are more than %d; "+
				"name the included interfaces, or use the nft backend", r.At, maxPlaces)
		}
	}
	return wy, nil
}

// apart adds to a list the interfaces that are excepted together.
func apart(list []string, i *policy.Interfaces) []string {
	names := excepted(i)
	if len(names) < 2 {
		return list
	}
	for _, name := range names {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// excepted returns the interfaces that a rule does not fit, but for loopback, which has a chain of its own or does not occur.
func excepted(i *policy.Interfaces) []string {
	if !i.Not {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(i.Names), func(name string) bool { return name == policy.Loopback })
}

// A place is where in the chains of a way a rule stands.
type place struct {
	in, out string // the interface, if it is one with a chain of its own; empty: any other
	nat     bool   // among packets whose destination was translated
}

// way writes the chains of a way.
func (w *writer) way(wy *way) error {
	top := wy.top
	var lines []string
	if wy.mss {
		lines = append(lines, "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu")
	}
	for i, pl := range wy.places() {
		name := fmt.Sprintf("%s-%d", top, i+1)
		if pl.in == policy.Loopback || pl.out == policy.Loopback {
			name = top + "-LO"
		}
		target := w.target(wy.def)
		if all := wy.at(pl, w.family); len(all) > 0 {
			target = "-g " + name
			if err := w.branch(wy, pl, name, nil, all); err != nil {
				return err
			}
		}
		lines = append(lines, join(linkMatch("-i", pl.in), linkMatch("-o", pl.out), target))
	}
	return w.branch(wy, place{}, top, lines, wy.at(place{}, w.family))
}

// at returns the rules that fit packets of a family at a place.
func (wy *way) at(pl place, f policy.Family) []*policy.Rule {
	return slices.DeleteFunc(slices.Clone(wy.rules), func(r *policy.Rule) bool {
		return r.Family&f == 0 || pl.in != "" && !r.In.Fits(pl.in) || pl.out != "" && !r.Out.Fits(pl.out)
	})
}

// places returns those of interfaces with a chain of their own. One of two such interfaces stands before those of each.
func (wy *way) places() []place {
	var all []place
	for _, in := range slices.Concat(wy.ins, []string{""}) {
		for _, out := range slices.Concat(wy.outs, []string{""}) {
			if in != "" || out != "" {
				all = append(all, place{in: in, out: out})
			}
		}
	}
	return all
}

// branch writes the chain of a place, of some lines and rules, and beside it one for translated packets if that makes a difference.
func (w *writer) branch(wy *way, pl place, name string, lines []string, all []*policy.Rule) error {
	if wy.table == filter && slices.ContainsFunc(all, func(r *policy.Rule) bool { return r.Dst.Given || r.Dport.Given }) {
		translated := pl
		translated.nat = true
		if err := w.fill(wy, translated, name+"-NAT", nil, all); err != nil {
			return err
		}
		lines = append(lines, "-m conntrack --ctstate DNAT --ctdir ORIGINAL -g "+name+"-NAT")
	}
	return w.fill(wy, pl, name, lines, all)
}

// fill writes a chain of some lines, rules and the default.
func (w *writer) fill(wy *way, pl place, name string, lines []string, all []*policy.Rule) error {
	for _, r := range all {
		matches, err := w.matches(wy, pl, r)
		if err != nil {
			return err
		}
		for _, m := range matches {
			lines = append(lines, join(m, note(r), w.verdict(wy, r)))
		}
	}
	w.add(name, append(lines, w.target(wy.def))...)
	return nil
}

// note returns the comment of a rule.
func note(r *policy.Rule) string { return "-m comment --comment=" + quoted(r.Remark()) }

// verdict returns what a rule does with its packets.
func (w *writer) verdict(wy *way, r *policy.Rule) string {
	switch {
	case wy.table == raw:
		return "-j CT --helper " + r.Helper
	case r.NAT != nil:
		return translation(r.NAT)
	case r.Limit != (policy.Rate{}):
		return w.limited(r)
	}
	return w.decision(r)
}

// translation returns what a nat statement does.
func translation(t *policy.Translation) string {
	switch {
	case t.Action == policy.Masquerade:
		return "-j MASQUERADE"
	case t.Action == policy.Redirect:
		return fmt.Sprintf("-j REDIRECT --to-ports %d", t.Port)
	case t.Action == policy.SNAT:
		return "-j SNAT --to-source " + t.Addr.String()
	case t.Port == 0:
		return "-j DNAT --to-destination " + t.Addr.String()
	}
	return "-j DNAT --to-destination " + netip.AddrPortFrom(t.Addr, t.Port).String()
}

// limited makes the chain of a rule that accepts so much from each source, and returns what leads there. The kernel knows a limit by its
// name, also while another policy takes the place of this one, so the name says all that it is.
func (w *writer) limited(r *policy.Rule) string {
	if limit, ok := w.limits[r]; ok {
		return limit
	}
	mask := ""
	if w.family == policy.V6 {
		mask = fmt.Sprintf(" --hashlimit-srcmask %d", policy.LimitedBits)
	}
	number := len(w.limits) + 1
	name := fmt.Sprintf("%s-LIMIT-%d", hooks[r.Dir].ours, number)
	match := fmt.Sprintf("-m hashlimit --hashlimit-above %d/%s --hashlimit-burst %d --hashlimit-mode srcip%s --hashlimit-name mef-%s-%d-%d-%s-%s "+
		"--hashlimit-htable-max %d --hashlimit-htable-expire %d", r.Limit.N, r.Limit.Per, r.Limit.N, mask, r.Dir, number, r.Limit.N, r.Limit.Per, w.family,
		policy.LimitedSources, 1000*r.Limit.Seconds())
	w.limits[r] = "-g " + name
	w.add(name, join(match, note(r), w.target(policy.Drop)), w.decision(r))
	return w.limits[r]
}

// decision returns what a rule does with its packets but for its limit.
func (w *writer) decision(r *policy.Rule) string {
	if r.Log == "" {
		return w.target(r.Action)
	}
	if log, ok := w.logs[r]; ok {
		return log
	}
	limit := ""
	if r.LogRate != (policy.Rate{}) {
		limit = fmt.Sprintf("-m limit --limit %d/%s", r.LogRate.N, r.LogRate.Per)
	}
	name := fmt.Sprintf("%s-LOG-%d", hooks[r.Dir].ours, len(w.logs)+1)
	w.add(name, join(limit, note(r), "-j LOG --log-prefix="+quoted(r.Log+" ")), w.target(r.Action))
	w.logs[r] = "-g " + name
	return w.logs[r]
}

// target returns what iptables calls an action.
func (w *writer) target(a policy.Action) string {
	switch a {
	case policy.Accept:
		return "-j RETURN"
	case policy.Drop:
		return "-j DROP"
	}
	w.rejects = true
	return "-g " + rejectChain
}

// rejects returns the rules that reject all packets of a family.
func rejects(f policy.Family) []string {
	with := "icmp-port-unreachable"
	if f == policy.V6 {
		with = "icmp6-port-unreachable"
	}
	return []string{"-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT --reject-with " + with}
}

// join puts words behind each other, without those that are empty.
func join(words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " ")
}

// quoted returns a text, which has neither quotes nor backslashes, as iptables-restore takes it. It stands behind "=" because a word
// that begins with "-t" is refused even as the value of another option.
func quoted(s string) string { return `"` + s + `"` }
