package nftlist

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// A parser reads one rule.
type parser struct {
	*reader
	rule    rule
	base    bool // the chain is a base chain
	opens   bool // the rule asks for state new alone
	now     bool // it asks for a destination as it is after translation
	nexthdr bool // it asks for the first header behind that of IPv6
	out     importer.Rule
	limit   *policy.Rate    // that log lines behind it are under
	end     []importer.Rule // what a verdict map makes of the rule
	closed  bool            // a verdict was given
	unknown bool            // there may be one that is not known
}

// parse returns the rule, as several if it has a verdict map.
func (p *parser) parse() []*importer.Rule {
	p.out = importer.Rule{Place: p.chains[key{p.rule.Family, p.rule.Table, p.rule.Chain}].Place, Text: p.text(), Comment: p.rule.Comment, Any: []importer.Match{importer.All()}}
	if !p.base {
		p.out.Within = "chain " + p.rule.Chain
	}
	p.opens = slices.ContainsFunc(p.rule.Expr, asksNew)
	for _, e := range p.rule.Expr {
		if len(e) != 1 {
			p.out.Cannot("mef does not know it")
			p.unknown = true
			break
		}
		for name, value := range e {
			p.statement(name, value)
		}
	}
	p.out.Widen(p.rs)
	p.firstHeader()
	if p.out.Limit != (policy.Rate{}) && (p.out.To != nil || p.out.Source != nil) {
		p.out.Cannot("mef.rules limits log lines, and what is accepted")
	}
	if p.now && p.out.OriginalDst {
		p.out.Cannot("it matches the destination both before and after NAT")
	}
	if p.unknown && p.out.Do == importer.Nothing {
		p.out.Do = importer.Unknown
	}
	if p.end == nil {
		return []*importer.Rule{&p.out}
	}
	var all []*importer.Rule
	for i := range p.end {
		p.end[i].Beyond = p.out.Beyond
		all = append(all, &p.end[i])
	}
	return all
}

// firstHeader reads a rule that asks for the first header behind that of IPv6, though mef.rules compares the protocol behind all extension headers.
// A rule that would accept more by that is left out, but for ICMPv6: with ip6 nexthdr icmpv6 administrators mean all of it, and without it IPv6
// does not work. What such a rule and one that drops match more is noted.
func (p *parser) firstHeader() {
	const note = "ip6 nexthdr compares the first header, mef.rules the protocol behind all extension headers: rules that drop by ip6 nexthdr drop packets " +
		"with extension headers too, and those that accept ICMPv6 accept it behind such headers too"
	drops := func(r *importer.Rule) bool { return r.Do == importer.Decide && r.Action != policy.Accept }
	icmp := !slices.ContainsFunc(p.out.Any, func(m importer.Match) bool { return !slices.Equal(m.Protos, importer.ProtosOf(policy.ICMP6)) })
	switch {
	case !p.nexthdr || p.out.Beyond != "":
	case !icmp && (p.end == nil && !drops(&p.out) || slices.ContainsFunc(p.end, func(r importer.Rule) bool { return !drops(&r) })):
		p.out.Cannot("ip6 nexthdr does not match packets with extension headers, which mef.rules cannot tell apart: write proto= without ip6 nexthdr, if they may match")
	case !slices.Contains(p.rs.Notes, note):
		p.rs.Notes = append(p.rs.Notes, note)
	}
}

// asksNew reports whether a statement lets packets through that open a connection, and no others.
func asksNew(e map[string]any) bool {
	op, right := get(e, "match", "op"), list(get(e, "match", "right"))
	return get(e, "match", "left", "ct", "key") == "state" && (op == "in" || op == "==") && len(right) == 1 && right[0] == "new"
}

// text returns the rule as people write it.
func (p *parser) text() string {
	text := p.lines[fmt.Sprintf("%s %s %d", p.rule.Family, p.rule.Table, p.rule.Handle)]
	if text == "" {
		b, _ := json.Marshal(p.rule.Expr)
		text = string(b)
	}
	return text
}

// statement reads a statement of the rule.
func (p *parser) statement(name string, value any) {
	if p.closed && name != "comment" {
		p.out.Cannot("it has statements after its verdict")
	}
	switch name {
	case "match":
		p.match(value)
	case "counter", "comment", "continue", "last":
	case "accept", "drop":
		p.verdict(&p.out, name, nil)
	case "reject":
		p.reject(value)
	case "jump", "goto", "return":
		p.verdict(&p.out, name, value)
	case "vmap":
		p.vmap(value)
	case "limit":
		p.limited(value)
	case "log":
		p.log(value)
	case "set", "map":
		p.update(value)
	case "dnat":
		p.translate(value, false)
	case "redirect":
		p.translate(value, true)
	case "masquerade":
		p.verdict(&p.out, "accept", nil)
		if p.out.Source = (&importer.Source{}); get(value, "port") != nil {
			p.out.Cannot("nat does not translate the port of the sender")
		}
	case "snat":
		p.source(value)
	case "xt":
		if target, _ := get(value, "name").(string); target == "DNAT" || target == "REDIRECT" || target == "NETMAP" {
			p.out.To = &importer.Destination{Here: target == "REDIRECT"}
		}
		p.out.Cannot("mef.rules has no %s", name)
		p.unknown = p.out.To == nil
		if p.out.To != nil {
			p.out.Do = importer.Decide
		}
	case "ct helper":
		object, _ := value.(string)
		if p.out.Helper = p.helpers[key{p.rule.Family, p.rule.Table, object}]; p.out.Helper == "" {
			p.lose("conntrack helper " + object)
		}
	default:
		if what := besides[name]; what != "" {
			p.lose(what)
			return
		}
		p.out.Cannot("mef.rules has no %s", name)
		p.unknown = true
	}
}

// besides are statements that decide nothing.
var besides = map[string]string{
	"mangle": "marks and other changes of packets", "flow": "flow tables", "notrack": "notrack", "dup": "copies of packets",
	"ct timeout": "conntrack timeouts", "ct expectation": "conntrack expectations", "secmark": "security marks",
}

// verdict gives a rule its end.
func (p *parser) verdict(r *importer.Rule, name string, value any) {
	p.closed = true
	switch name {
	case "accept":
		r.Do, r.Action = importer.Decide, policy.Accept
	case "drop":
		r.Do, r.Action = importer.Decide, policy.Drop
	case "return":
		r.Do = importer.Return
	case "jump", "goto":
		if r.Do = importer.Jump; name == "goto" {
			r.Do = importer.Goto
		}
		target, _ := get(value, "target").(string)
		r.Target = p.chains[key{p.rule.Family, p.rule.Table, target}]
	case "continue":
		r.Do = importer.Nothing
	default:
		r.Do = importer.Unknown
	}
	switch l := p.limit; {
	case l != nil && p.out.Log == nil && name == "accept" && l.Valid():
		r.Limit = *l
	case l != nil && p.out.Log == nil:
		p.out.Cannot("mef.rules limits log lines, and what is accepted")
	case l != nil:
		p.out.Cannot("mef.rules limits log lines only, and here the verdict is limited too")
	}
}

// reject reads how the rule rejects.
func (p *parser) reject(value any) {
	p.verdict(&p.out, "drop", nil)
	p.out.Action = policy.Reject
	kind, _ := get(value, "type").(string)
	code, _ := get(value, "expr").(string)
	if kind == "" {
		kind, code = "icmpx", "port-unreachable"
	}
	// TCP gets a reset from mef.rules, and everything else port unreachable.
	tcp, other := p.mayBe(6), p.mayBe(0)
	if kind == "tcp reset" && !other || strings.HasPrefix(kind, "icmp") && code == "port-unreachable" && !tcp {
		return
	}
	p.out.Answer = strings.TrimSpace(kind + " " + code)
}

// mayBe reports whether packets of a protocol fit the rule so far; 0 is one that is none in particular.
func (p *parser) mayBe(proto policy.Proto) bool {
	return slices.ContainsFunc(p.out.Any, func(m importer.Match) bool {
		return m.Protos == nil || slices.ContainsFunc(m.Protos, func(n policy.Proto) bool { return n == proto || proto == 0 && n != 6 })
	})
}

// translate reads where packets are led. What cannot be read is not known, and neither is then which packets are led there: those that
// a map does not have are not.
func (p *parser) translate(value any, here bool) {
	p.verdict(&p.out, "accept", nil)
	if m := get(value, "addr", "map"); m != nil && get(value, "port") == nil {
		p.translateByMap(m)
		return
	}
	p.lead(&p.out, get(value, "addr"), get(value, "port"), here)
}

// source reads which source packets get.
func (p *parser) source(value any) {
	p.verdict(&p.out, "accept", nil)
	p.out.Source = &importer.Source{}
	text, _ := get(value, "addr").(string)
	addr, err := netip.ParseAddr(text)
	if err != nil || get(value, "port") != nil {
		p.out.Cannot("nat leads to one address")
		return
	}
	p.out.Source.Addr = addr
	p.out.Require(ofFamily(policy.Addrs{Given: true, In: prefixset.New(netip.PrefixFrom(addr, addr.BitLen()))}.Families()))
}

// lead gives a rule the destination to which it leads packets.
func (p *parser) lead(r *importer.Rule, addr, port any, here bool) {
	r.To = &importer.Destination{Here: here}
	to := importer.Destination{Here: here}
	if addr != nil {
		among, ok := addrRange(addr)
		if !ok {
			r.Cannot("it is not known where it leads packets")
			return
		}
		to.Addrs = prefixset.FromRanges([]prefixset.Range{among})
		r.Require(ofFamily(policy.Addrs{Given: true, In: to.Addrs}.Families()))
	}
	if port != nil {
		matches, why := portField(importer.All(), false).read([]any{port}, "")
		if why != "" || len(matches) != 1 {
			r.Cannot("it is not known to which port it leads packets")
			return
		}
		to.Ports = matches[0].Dport.In
	}
	r.To = &to
}

// translateByMap reads a map from packets to destinations: a rule for each of its elements.
func (p *parser) translateByMap(m any) {
	p.byMap(get(m, "key"), get(m, "data"), func(one *importer.Rule, to any) {
		if both, _ := get(to, "concat").([]any); len(both) == 2 {
			p.lead(one, both[0], both[1], false)
		} else {
			p.lead(one, to, nil, false)
		}
	})
	switch {
	case p.out.Beyond != "":
		p.out.Do, p.out.To = importer.Decide, &importer.Destination{}
	case p.end == nil:
		p.out.Do = importer.Nothing // the map is empty
	}
}

// lose notes that a statement that decides nothing is not carried over.
func (p *parser) lose(what string) {
	if p.out.Lost == "" {
		p.out.Lost = what
	}
}

// limited reads a limit, which is one of log lines or of verdicts.
func (p *parser) limited(value any) {
	n, _ := get(value, "rate").(float64)
	per, _ := get(value, "per").(string)
	unit, _ := get(value, "rate_unit").(string)
	over, _ := get(value, "inv").(bool)
	if p.limit != nil || over || unit != "" && unit != "packets" {
		p.out.Cannot("mef.rules limits only the number of log lines")
		return
	}
	p.limit = &policy.Rate{N: int(n), Per: per}
}

// log reads a log statement.
func (p *parser) log(value any) {
	if get(value, "group") != nil || get(value, "queue-threshold") != nil || get(value, "snaplen") != nil || get(value, "level") == "audit" {
		p.lose("log to a group or to audit")
		return
	}
	if p.out.Log != nil {
		p.lose("second log line for a packet")
		return
	}
	prefix, _ := get(value, "prefix").(string)
	l := &importer.Log{Prefix: prefix}
	if p.limit != nil {
		l.Rate = *p.limit
		if !l.Rate.Valid() {
			p.lose(fmt.Sprintf("log line limited to %d a %s", l.Rate.N, l.Rate.Per))
			return
		}
	}
	p.out.Log = l
}

// update reads what adds elements to a set: with conditions in it, it is one itself.
func (p *parser) update(value any) {
	if get(value, "stmt") != nil {
		p.out.Cannot("mef.rules has no sets that packets fill")
		return
	}
	p.lose("sets that packets fill")
}

// vmap reads a verdict map: a rule for each of its elements.
func (p *parser) vmap(value any) {
	p.byMap(get(value, "key"), get(value, "data"), func(one *importer.Rule, verdict any) {
		verdicts, _ := verdict.(map[string]any)
		for name, value := range verdicts {
			p.verdict(one, name, value)
		}
	})
}

// byMap reads a map: a rule for each of its elements, which end gives its end.
func (p *parser) byMap(of, data any, end func(one *importer.Rule, value any)) {
	key, elements, err := p.field(of), []any(nil), ""
	if key.why != "" {
		p.out.Cannot("%s", key.why)
	}
	elements, err = p.elements(data)
	if err != "" {
		p.out.Cannot("%s", err)
	}
	p.closed = true
	if p.out.Beyond != "" {
		p.out.Do = importer.Unknown
		return
	}
	if p.out.Log != nil || p.out.Lost != "" {
		one := p.out
		p.end = append(p.end, one)
		p.out.Log, p.out.Lost = nil, ""
	}
	for _, e := range elements {
		pair, ok := e.([]any)
		if !ok || len(pair) != 2 {
			p.out.Cannot("mef.rules has no such map")
			continue
		}
		one := p.out
		one.Any = slices.Clone(one.Any)
		matches, why := key.read([]any{pair[0]}, "")
		if why != "" {
			p.out.Cannot("%s", why)
			continue
		}
		one.Require(key.implied)
		one.Require(matches...)
		end(&one, pair[1])
		p.end = append(p.end, one)
	}
	if p.out.Beyond != "" {
		p.end, p.out.Do = nil, importer.Unknown
	}
}

// elements returns the elements of a set or map: one that stands in the rule, or "@name". Those that match only under a condition of their
// own, such as a limit, cannot be carried over.
func (p *parser) elements(v any) (elements []any, why string) {
	elements = []any{v}
	if name, ok := v.(string); ok && strings.HasPrefix(name, "@") {
		at := key{p.rule.Family, p.rule.Table, name[1:]}
		s := p.sets[at]
		switch {
		case s == nil:
			return nil, "there is no set " + name
		case p.changing[at]:
			return nil, "the elements of set " + name + " change at run time"
		}
		elements = s.Elem
	} else if s := get(v, "set"); s != nil {
		elements = list(s)
	}
	for _, e := range elements {
		if pair, ok := e.([]any); ok && len(pair) > 0 { // of a map
			e = pair[0]
		}
		about, _ := get(e, "elem").(map[string]any)
		for _, what := range slices.Sorted(maps.Keys(about)) {
			if !slices.Contains([]string{"val", "comment", "counter", "last"}, what) {
				return nil, "mef.rules has no elements of sets with " + what
			}
		}
	}
	return elements, ""
}
