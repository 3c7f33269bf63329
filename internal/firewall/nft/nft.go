// Package nft compiles a policy into a script for nft(8): one table, "inet mef", replaced in one transaction.
//
// Each way of packets (in, out, fwd) has a base chain whose policy is the default, and in front of its rules it parts what is
// asked about differently:
//
//	chain input {
//		type filter hook input priority filter; policy drop;
//		iifname "lo" goto input_lo                              loopback must be named, so only rules that do are there
//		ct status dnat ct direction original goto input_nat     the same rules over the address and port that the sender used
//		ct state established,related accept comment "mef.rules:5"
//		tcp dport 22 accept comment "mef.rules:7 ssh"
//	}
//
// The nat statements are two more base chains, prerouting and postrouting. Connection tracking helpers are chosen in chains of their own,
// helpers_in and helpers_out, before any translation.
//
// A rule that logs goes to a chain of its own, so that its limit of log lines never limits its verdict. Interfaces are matched by
// name: one that is not there yet is no error, and one that comes back is the same.
package nft

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
)

// Table names the table, as nft takes it.
const Table = "inet mef"

// clearing is the part of a script that removes the table, if it is there.
const clearing = "table " + Table + "\ndelete table " + Table + "\n"

// Script returns the script that makes the policy hold in place of what the table held before. The error reports which statement nft
// cannot do.
func Script(p *policy.Policy) (string, error) {
	var b strings.Builder
	err := Write(&b, p, func() error { return nil })
	return b.String(), err
}

// Write writes the script to nft(8) while it is made. Before the last line it calls ready and returns its error, if it has one: nft loads
// nothing of a script without that line, whoever ended it.
func Write(out io.Writer, p *policy.Policy, ready func() error) error {
	w := &writer{b: bufio.NewWriterSize(out, 16<<10), logOf: map[*policy.Rule]string{}, limitOf: map[*policy.Rule]string{}, declared: map[string]bool{}, lists: map[string]string{}}
	for i := range p.Sets {
		if s := &p.Sets[i]; s.IPSet != "" {
			return fmt.Errorf("%s: set %q is a set of ipset, which nftables cannot read; list its elements here, or use the iptables backend", s.At, s.Name)
		}
	}
	// In one write, which a pipe takes whole: the first two lines alone would remove the table, and what follows is nothing without its end.
	if _, err := io.WriteString(out, clearing+"table "+Table+" {\n"); err != nil {
		return err
	}
	for i := range p.Sets {
		w.set(&p.Sets[i])
	}
	for _, d := range policy.Dirs {
		if p.Defaults[d] != nil {
			w.way(d, p.Defaults[d], p.Of(d))
		}
	}
	w.translations(policy.In, "type nat hook prerouting priority dstnat - 5; policy accept;", p.Translations(policy.In))
	w.translations(policy.Out, "type nat hook postrouting priority srcnat - 5; policy accept;", p.Translations(policy.Out))
	w.helpers("helpers_in", "prerouting", policy.In, p.Helpers(policy.In))
	w.helpers("helpers_out", "output", policy.Out, p.Helpers(policy.Out))
	if w.rejects {
		w.chain("rejected", []string{"meta l4proto tcp reject with tcp reset", "reject"})
	}
	for _, c := range w.logs {
		w.chain(c.name, c.lines)
	}
	if err := w.b.Flush(); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	_, err := io.WriteString(out, "}\n")
	return err
}

// A writer gathers the objects of the table.
type writer struct {
	b        *bufio.Writer // whose error Flush returns
	rejects  bool
	logs     []chain
	logOf    map[*policy.Rule]string // the chain of a rule that logs, which may stand at several places
	limitOf  map[*policy.Rule]string // the chain of a rule that limits, likewise
	declared map[string]bool         // helpers
	lists    map[string]string       // names of sets, by the list of ports that they hold
}

type chain struct {
	name  string
	lines []string
}

// blockSize is how many rules a chain has at most. The kernel lists a chain from its beginning for each part of an answer, so that the time
// to read a chain back grows with the square of its length.
const blockSize = 1000

// long writes a chain of rules behind some first lines. If they are many, they stand in further chains, to which it jumps one after the
// other. All rules must end with a verdict or a goto to a chain that decides about all packets: what came to the end of one would come back.
func (w *writer) long(name string, first, rules []string) {
	if len(rules) > blockSize {
		var jumps []string
		for block := range slices.Chunk(rules, blockSize) {
			jumps = append(jumps, fmt.Sprintf("jump %s_%d", name, len(jumps)+1))
			w.chain(fmt.Sprintf("%s_%d", name, len(jumps)), block)
		}
		rules = jumps
	}
	w.chain(name, slices.Concat(first, rules))
}

// chain writes a chain.
func (w *writer) chain(name string, lines []string) {
	w.b.WriteString("\tchain " + name + " {\n")
	for _, line := range lines {
		w.b.WriteString("\t\t")
		w.b.WriteString(line)
		w.b.WriteByte('\n')
	}
	w.b.WriteString("\t}\n")
}

// set declares a named set: one for each family, or one for ports. What follows the name keeps it from being a word of nft's.
func (w *writer) set(s *policy.Set) {
	if s.Type == policy.PortSet {
		w.declare(s.Name+"_p", "inet_service", policy.PortList(s.In))
		return
	}
	w.declare(s.Name+"_4", "ipv4_addr", policy.AddrList(policy.V4.Of(s.Addrs)))
	w.declare(s.Name+"_6", "ipv6_addr", policy.AddrList(policy.V6.Of(s.Addrs)))
}

func (w *writer) declare(name, typ string, elements []string) {
	fmt.Fprintf(w.b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n", name, typ)
	if len(elements) > 0 {
		fmt.Fprintf(w.b, "\t\telements = { %s }\n", strings.Join(elements, ", "))
	}
	w.b.WriteString("\t}\n")
}

// hooks are the hooks of netfilter, by way; their chains have the same names.
var hooks = [...]string{policy.In: "input", policy.Out: "output", policy.Forward: "forward"}

// A place is where in the chains of a way a rule stands.
type place struct {
	loopback bool // among packets over loopback
	nat      bool // among packets whose destination was translated
}

func (pl place) suffix() (s string) {
	if pl.loopback {
		s += "_lo"
	}
	if pl.nat {
		s += "_nat"
	}
	return s
}

// way writes the chains of one way.
func (w *writer) way(d policy.Dir, standard *policy.Default, all []*policy.Rule) {
	hook := hooks[d]
	def := standard.Action
	pol := def
	if def == policy.Reject {
		pol = policy.Drop
	}
	base := []string{fmt.Sprintf("type filter hook %s priority filter; policy %s;", hook, pol)}
	if standard.MSS {
		base = append(base, "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu")
	}
	outer := all
	if d != policy.Forward { // nothing is forwarded from or to loopback
		var inner []*policy.Rule
		inner, outer = byLoopback(d, all)
		match := linkMatch(d, policy.Loopback)
		switch {
		case len(inner) > 0:
			base = append(base, match+" goto "+hook+"_lo")
			w.branch(hook, place{loopback: true}, nil, inner, def)
		case len(outer) > 0 && def == policy.Reject:
			base = append(base, match+" goto rejected")
		case len(outer) > 0:
			base = append(base, match+" "+def.String())
		}
	}
	w.branch(hook, place{}, base, outer, def)
}

// branch writes a chain that begins with some lines and has the rules, and beside it one for translated packets if that makes a
// difference.
func (w *writer) branch(hook string, pl place, lines []string, all []*policy.Rule, def policy.Action) {
	if slices.ContainsFunc(all, func(r *policy.Rule) bool { return r.Dst.Given || r.Dport.Given }) {
		pl.nat = true
		lines = append(lines, "ct status dnat ct direction original goto "+hook+pl.suffix())
		w.long(hook+pl.suffix(), nil, w.rules(pl, all, def))
		pl.nat = false
	}
	w.long(hook+pl.suffix(), lines, w.rules(pl, all, def))
}

// translations writes the chain of the nat statements of a way. It comes before those of others, so that their order does not depend on
// which was loaded last.
func (w *writer) translations(d policy.Dir, base string, all []*policy.Rule) {
	if len(all) == 0 {
		return
	}
	lines := append([]string{base, linkMatch(d, policy.Loopback) + " accept"}, w.rules(place{}, all, policy.Accept)...)
	w.chain(map[policy.Dir]string{policy.In: "prerouting", policy.Out: "postrouting"}[d], lines)
}

// helpers writes the chain that gives helpers to connections at a hook, and the helpers.
func (w *writer) helpers(name, hook string, d policy.Dir, all []*policy.Rule) {
	if len(all) == 0 {
		return
	}
	lines := []string{fmt.Sprintf("type filter hook %s priority mangle; policy accept;", hook), linkMatch(d, policy.Loopback) + " accept"}
	for _, r := range all {
		helper := r.Helper + "_" + r.Protos.String()
		if !w.declared[helper] {
			w.declared[helper] = true
			fmt.Fprintf(w.b, "\tct helper %s {\n\t\ttype \"%s\" protocol %s;\n\t}\n", helper, r.Helper, r.Protos)
		}
		lines = append(lines, w.rule(place{}, r, `ct helper set "`+helper+`"`)...)
	}
	w.chain(name, lines)
}

// byLoopback parts rules by whether they fit packets over loopback, others, or both.
func byLoopback(d policy.Dir, all []*policy.Rule) (inner, outer []*policy.Rule) {
	for _, r := range all {
		link := r.In
		if d == policy.Out {
			link = r.Out
		}
		if link.Fits(policy.Loopback) {
			inner = append(inner, r)
		}
		if !link.Fits(policy.Loopback) || len(link.Names) > 1 {
			outer = append(outer, r)
		}
	}
	return inner, outer
}

// rules returns the lines of rules at a place, and of the default if that is no policy of nft's.
func (w *writer) rules(pl place, all []*policy.Rule, def policy.Action) []string {
	var lines []string
	for _, r := range all {
		lines = append(lines, w.rule(pl, r, w.verdict(r))...)
	}
	if def == policy.Reject {
		w.rejects = true
		lines = append(lines, "goto rejected")
	}
	return lines
}

// rule returns the lines of a rule at a place, that end with a verdict.
func (w *writer) rule(pl place, r *policy.Rule, verdict string) (lines []string) {
	if r.Sport.Given && len(r.Sport.In) == 0 || r.Dport.Given && len(r.Dport.In) == 0 {
		return nil // no packet fits an empty set
	}
	for _, f := range split(r) {
		lines = append(lines, w.lines(pl, r, f, verdict)...)
	}
	return lines
}

// split returns the families that a rule needs a line for: both at once if it names nothing that differs between them.
func split(r *policy.Rule) []policy.Family {
	if r.Family != policy.Any || !r.Src.Given && !r.Dst.Given && !r.Protos.Differ() {
		return slices.DeleteFunc([]policy.Family{r.Family}, func(f policy.Family) bool { return f == 0 })
	}
	return []policy.Family{policy.V4, policy.V6}
}

// lines returns a rule for one family, or for both: a line for each match of interfaces.
func (w *writer) lines(pl place, r *policy.Rule, f policy.Family, verdict string) (lines []string) {
	ins, outs := []string{""}, []string{""}
	if !pl.loopback && r.Dir != policy.Out {
		ins = linkMatches(policy.In, &r.In)
	}
	if !pl.loopback && r.Dir != policy.In {
		outs = linkMatches(policy.Out, &r.Out)
	}
	rest := w.line(pl, r, f, verdict)
	for _, in := range ins {
		for _, out := range outs {
			words := slices.DeleteFunc([]string{in, out, rest}, func(s string) bool { return s == "" })
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return lines
}

// line returns a rule for one family, or for both, without interfaces.
func (w *writer) line(pl place, r *policy.Rule, f policy.Family, verdict string) string {
	words := make([]string, 0, 8)
	ip, nfproto := "ip ", "ipv4"
	if f == policy.V6 {
		ip, nfproto = "ip6 ", "ipv6"
	}
	if f != policy.Any && !r.Src.Given && (!r.Dst.Given || pl.nat) {
		words = append(words, "meta nfproto "+nfproto)
	}
	if r.Src.Given {
		words = append(words, ip+"saddr "+addrSet(r.Src, f))
	}
	if r.Dst.Given && pl.nat {
		words = append(words, "ct original "+ip+"daddr "+addrSet(r.Dst, f))
	} else if r.Dst.Given {
		words = append(words, ip+"daddr "+addrSet(r.Dst, f))
	}
	words = append(words, w.transport(pl, r, f)...)
	if r.States != policy.AnyState {
		words = append(words, "ct state "+r.States.String())
	}
	if ids := r.Owners.IDs; len(ids) > 0 {
		key := "meta skuid "
		if r.Owners.Groups {
			key = "meta skgid "
		}
		words = append(words, key+braces(numbers(ids)))
	}
	words = append(words, verdict, `comment "`+r.Remark()+`"`)
	return strings.Join(words, " ")
}

// transport returns the matches of protocol, ports and types of messages in a family.
func (w *writer) transport(pl place, r *policy.Rule, f policy.Family) []string {
	var words []string
	protos := r.Protos.Of(f)
	header := "th" // of any protocol
	if len(protos) == 1 && (protos[0] == policy.TCP || protos[0] == policy.UDP) {
		header = protos[0].String()
	}
	inHeader := r.Flags != 0 || header != "th" && (r.Sport.Given || r.Dport.Given && !pl.nat) || len(r.Types) > 0
	if len(protos) > 0 && !inHeader {
		names := make([]string, len(protos))
		for i, p := range protos {
			names[i] = protoName(p)
		}
		words = append(words, "meta l4proto "+braces(names))
	}
	if len(r.Types) > 0 {
		words = append(words, protoName(protos[0])+" type "+braces(numbers(r.Types)))
	}
	if r.Flags != 0 {
		words = append(words, "tcp flags & (fin | syn | rst | ack) "+map[policy.TCPFlags]string{policy.Syn: "==", policy.NotSyn: "!="}[r.Flags]+" syn")
	}
	if r.Sport.Given {
		words = append(words, header+" sport "+portSet(r.Sport))
	}
	if r.Dport.Given && pl.nat {
		words = append(words, "ct original proto-dst "+w.originalPorts(r.Dport, header == "th"))
	} else if r.Dport.Given {
		words = append(words, header+" dport "+portSet(r.Dport))
	}
	return words
}

// protoName returns a protocol as nft takes it: by a word of its own, otherwise by its number, as names in /etc/protocols are missing on
// small systems.
func protoName(p policy.Proto) string {
	switch p {
	case policy.ICMP6:
		return "icmpv6"
	case policy.ICMP, policy.TCP, policy.UDP:
		return p.String()
	}
	return fmt.Sprint(uint8(p))
}

func numbers[T uint8 | uint32](list []T) []string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = fmt.Sprint(n)
	}
	return words
}

// linkMatch returns the match of one interface.
func linkMatch(d policy.Dir, name string) string { return linkKeys[d] + ` "` + name + `"` }

// linkKeys are what nft calls the interface by which packets arrive, and leave.
var linkKeys = [...]string{policy.In: "iifname", policy.Out: "oifname"}

// linkMatches returns the matches of what a rule says of an interface, each for a line of its own: patterns cannot stand in a set on older nft.
func linkMatches(d policy.Dir, i *policy.Interfaces) []string {
	var names, matches []string
	for _, name := range i.Names {
		if quoted := `"` + name + `"`; policy.IsPattern(name) {
			matches = append(matches, quoted)
		} else {
			names = append(names, quoted)
		}
	}
	if len(names) > 0 {
		matches = append([]string{braces(names)}, matches...)
	}
	op := linkKeys[d] + " "
	if i.Not {
		op += "!= "
	}
	for n := range matches {
		matches[n] = op + matches[n]
	}
	switch {
	case len(matches) == 0:
		return []string{""}
	case i.Not:
		return []string{strings.Join(matches, " ")}
	}
	return matches
}

// braces returns one value as it is and several as an anonymous set. No value at all is a set that nothing is in.
func braces(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return "{ " + strings.Join(list, ", ") + " }"
}

// addrSet returns what an address is compared with in a family.
func addrSet(a policy.Addrs, f policy.Family) string {
	if a.Set != "" {
		op := ""
		if a.Not {
			op = "!= "
		}
		return op + map[policy.Family]string{policy.V4: "@" + a.Set + "_4", policy.V6: "@" + a.Set + "_6"}[f]
	}
	return braces(policy.AddrList(f.Of(a.In)))
}

func portSet(p policy.Ports) string {
	if p.Set != "" {
		return "@" + p.Set + "_p"
	}
	return braces(policy.PortList(p.In))
}

// originalPorts is portSet for the port before translation. Several ports, and ports of no protocol or several, are a named set there: nft
// 1.0.6 lists anonymous ones in a form that no nft reads again.
func (w *writer) originalPorts(p policy.Ports, anyHeader bool) string {
	if p.Set != "" || len(p.In) == 1 && !anyHeader {
		return portSet(p)
	}
	list := policy.PortList(p.In)
	key := strings.Join(list, ",")
	if w.lists[key] == "" {
		w.lists[key] = fmt.Sprintf("ports_%d", len(w.lists)+1)
		w.declare(w.lists[key], "inet_service", list)
	}
	return "@" + w.lists[key]
}

// verdict returns what a rule does with its packets.
func (w *writer) verdict(r *policy.Rule) string {
	switch {
	case r.NAT != nil:
		return translation(r.NAT)
	case r.Limit != (policy.Rate{}):
		return w.limited(r)
	}
	return w.decision(r)
}

// translation returns what a nat statement does, in a chain of both families.
func translation(t *policy.Translation) string {
	family := map[bool]string{true: "ip", false: "ip6"}[t.Addr.Is4()]
	switch {
	case t.Action == policy.Masquerade:
		return "masquerade"
	case t.Action == policy.Redirect:
		return fmt.Sprintf("redirect to :%d", t.Port)
	case t.Port == 0:
		return fmt.Sprintf("%s %s to %s", t.Action, family, t.Addr)
	}
	return fmt.Sprintf("%s %s to %s", t.Action, family, netip.AddrPortFrom(t.Addr, t.Port))
}

// limited makes the chain of a rule that accepts so much from each source, and returns what leads there.
func (w *writer) limited(r *policy.Rule) string {
	if name, ok := w.limitOf[r]; ok {
		return "goto " + name
	}
	name := fmt.Sprintf("limit_%s_%d", hooks[r.Dir], len(w.limitOf)+1)
	w.limitOf[r] = name
	fmt.Fprintf(w.b, "\tcounter %s {\n\t}\n", name) // one of a rule would change the rule with each packet
	var lines []string
	for _, f := range []struct {
		family         policy.Family
		name, typ, key string
	}{
		{policy.V4, "ipv4", "ipv4_addr", "ip saddr"},
		{policy.V6, "ipv6", "ipv6_addr", "ip6 saddr & ffff:ffff:ffff:ffff::"},
	} {
		if r.Family&f.family == 0 {
			continue
		}
		set := fmt.Sprintf("%s_%s", name, f.name)
		fmt.Fprintf(w.b, "\tset %s {\n\t\ttype %s\n\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout %ds\n\t}\n", set, f.typ, policy.LimitedSources, r.Limit.Seconds())
		lines = append(lines, fmt.Sprintf(`meta nfproto %s update @%s { %s limit rate over %d/%s burst %d packets } counter name %s drop comment "%s"`,
			f.name, set, f.key, r.Limit.N, r.Limit.Per, r.Limit.N, name, r.Remark()))
	}
	w.logs = append(w.logs, chain{name, append(lines, w.decision(r))})
	return "goto " + name
}

// decision returns what a rule does with its packets but for its limit.
func (w *writer) decision(r *policy.Rule) string {
	verdict := r.Action.String()
	if r.Action == policy.Reject {
		w.rejects = true
		verdict = "goto rejected"
	}
	if r.Log == "" {
		return verdict
	}
	if name, ok := w.logOf[r]; ok {
		return "goto " + name
	}
	name := fmt.Sprintf("log_%s_%d", hooks[r.Dir], len(w.logs)+1)
	limit := ""
	if r.LogRate != (policy.Rate{}) {
		limit = fmt.Sprintf("limit rate %d/%s ", r.LogRate.N, r.LogRate.Per)
	}
	line := fmt.Sprintf(`%slog prefix "%s " comment "%s"`, limit, r.Log, r.Remark())
	w.logs = append(w.logs, chain{name, []string{line, verdict}})
	w.logOf[r] = name
	return "goto " + name
}
