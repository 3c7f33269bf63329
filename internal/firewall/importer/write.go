package importer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"mef/internal/firewall/policy"
)

// A writer writes the text of a policy.
type writer struct {
	b     strings.Builder
	sets  []namedSet
	count int    // rules
	last  string // where the statements before came from
}

// A namedSet is a set of the policy.
type namedSet struct {
	key      string // what it is here: the name of a set, or a list too long for a line
	name     string
	ports    bool
	elements []string
}

const (
	maxLine   = 60 << 10 // of a set's elements
	maxText   = 400      // of what is repeated of a ruleset's text
	maxInline = 300      // of a list in a rule; longer ones become sets
)

// comment writes a comment, a line of whatever was found.
func (w *writer) comment(text string) { w.b.WriteString("# " + clean(text, maxText) + "\n") }

// clean returns text of others without what no line may have, cut to a length.
func clean(text string, longest int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case r < ' ' || r == 0x7f || r == utf8.RuneError:
			return '?'
		}
		return r
	}, text)
	if len(text) <= longest {
		return strings.TrimSpace(text)
	}
	for longest > 0 && !utf8.RuneStart(text[longest]) {
		longest--
	}
	return strings.TrimSpace(text[:longest]) + " …"
}

// heading begins a way.
func (w *writer) heading(text string) {
	w.b.WriteByte('\n')
	w.comment(text)
	w.last = ""
}

// policy writes what becomes of packets that no rule fits.
func (w *writer) policy(d policy.Dir, a policy.Action, from []*Rule) {
	w.origin(from)
	w.statement("policy", "dir", d.String(), "action", a.String())
}

// origin writes where the next statements come from, unless those before it came from there.
func (w *writer) origin(from []*Rule) {
	var texts []string
	for _, r := range from {
		if n := len(texts); n == 0 || texts[n-1] != r.line() {
			texts = append(texts, r.line())
		}
	}
	if all := strings.Join(texts, "\n"); all != w.last {
		w.last = all
		for _, text := range texts {
			w.comment(text)
		}
	}
}

// statement writes a statement of keys and values; those without a value are left out.
func (w *writer) statement(kind string, pairs ...string) {
	w.b.WriteString(statement(kind, pairs...) + "\n")
}

func statement(kind string, pairs ...string) string {
	st := policy.Statement{Kind: kind}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			st.Fields = append(st.Fields, policy.Field{Key: pairs[i], Value: pairs[i+1]})
		}
	}
	return st.String()
}

// rule writes a piece.
func (w *writer) rule(d policy.Dir, p *piece) {
	w.origin(p.from)
	w.b.WriteString(w.text(d, p) + "\n")
	w.count++
}

// text returns a piece as a rule.
func (w *writer) text(d policy.Dir, p *piece) string {
	family := p.Family.String()
	if p.Src.Given || p.Dst.Given || p.Protos.Families() != policy.Any {
		family = "" // goes without saying
	}
	iif, oif := linksText(p.In), linksText(p.Out)
	if d == policy.Out {
		iif = ""
	}
	if d == policy.In {
		oif = ""
	}
	log, rate := "", ""
	if p.log != nil {
		log = "prefix:" + LogPrefix(p.log.Prefix)
		if r := p.log.Rate; r != (policy.Rate{}) {
			rate = fmt.Sprintf("%d/%.1s", r.N, r.Per)
		}
	}
	return statement("rule", "dir", d.String(), "family", family, "action", p.action.String(), "log", log, "ratelimit", rate, "proto", p.Protos.String(), "icmp-type", typesText(p.Protos, p.Types), "tcp-flags", (p.Flags % anyFlags).String(),
		"iif", iif, "oif", oif, "src", w.addrs(p.Src), "dst", w.addrs(p.Dst), "sport", w.ports(p.Sport), "dport", w.ports(p.Dport),
		"owner", ownersText(p.Users, p.Groups), "ct", p.States.String(), "limit", p.limit.String(), "helper", p.helper, "comment", clean(p.comment(), maxText))
}

func typesText(protos policy.Protos, types policy.ICMPTypes) string {
	if types == nil {
		return ""
	}
	return types.Words(protos[0])
}

func ownersText(users, groups []uint32) string {
	if users != nil {
		return policy.Owners{IDs: users}.Words()
	}
	return policy.Owners{Groups: true, IDs: groups}.Words()
}

func linksText(l policy.Links) string {
	names, not, _ := l.Names()
	if not {
		names = slices.DeleteFunc(names, func(name string) bool { return name == policy.Loopback })
	}
	if not && len(names) > 0 {
		return "!" + strings.Join(names, ",")
	}
	return strings.Join(names, ",")
}

// maxPrefix is how long the text before log lines may be.
const maxPrefix = 28

// LogPrefix returns the text of log lines as mef.rules takes it: it has to have one, and a blank follows it.
func LogPrefix(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
	if s == "" {
		return mef
	}
	return strings.TrimSpace(s[:min(len(s), maxPrefix)])
}

func (w *writer) addrs(a policy.Addrs) string {
	if !a.Given {
		return ""
	}
	return w.list(a.Set, false, policy.AddrList(a.In))
}

func (w *writer) ports(p policy.Ports) string {
	if !p.Given {
		return ""
	}
	return w.list(p.Set, true, policy.PortList(p.In))
}

// list returns a list as it stands in a rule: as a set, if it is one or is long.
func (w *writer) list(set string, ports bool, elements []string) string {
	text := strings.Join(elements, ",")
	if set == "" && len(text) <= maxInline && text != "" {
		return text
	}
	key := set
	if key == "" {
		key = text
	}
	for _, s := range w.sets {
		if s.key == key && s.ports == ports {
			return "@" + s.name
		}
	}
	name, at := w.freeName(set), len(w.sets)
	w.sets = append(w.sets, namedSet{key, name, ports, elements})
	if parts := lines(elements); len(parts) > 1 {
		w.sets[at].elements = nil
		for _, part := range parts {
			one := w.freeName(name)
			w.sets = append(w.sets, namedSet{"", one, ports, part})
			w.sets[at].elements = append(w.sets[at].elements, "@"+one)
		}
	}
	return "@" + name
}

// lines parts elements so that each part fits on a line.
func lines(elements []string) (parts [][]string) {
	start, length := 0, 0
	for i, e := range elements {
		if length += len(e) + 1; length > maxLine {
			parts = append(parts, elements[start:i])
			start, length = i, len(e)+1
		}
	}
	return append(parts, elements[start:])
}

// maxName is how long names of sets may be.
const maxName = 20

// freeName returns a name for a set that no other has: its own, as far as it can be one.
func (w *writer) freeName(set string) string {
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, set[strings.LastIndexByte(set, ' ')+1:])
	if name == "" {
		name = "list"
	} else if strings.ContainsAny(name[:1], "0123456789_-") {
		name = "set" + name
	}
	name = name[:min(len(name), maxName)]
	free := name
	for n := 2; slices.ContainsFunc(w.sets, func(s namedSet) bool { return s.name == free }); n++ {
		free = fmt.Sprintf("%.13s-%d", name, n)
	}
	return free
}

// set writes a set.
func (w *writer) set(s namedSet) {
	typ, elements := "", strings.Join(s.elements, ",")
	if s.ports {
		typ = "port"
	}
	if elements == "" {
		elements = "none"
	}
	w.statement("set", "name", s.name, "type", typ, "elements", elements)
}

// left writes that a piece is not carried over.
func (w *writer) left(p *piece, l Left, part bool) {
	w.last = ""
	what := "not imported: "
	if part {
		what = "imported in part: "
	}
	w.comment(what + p.from[0].line())
	w.b.WriteString("#   " + clean(l.Reason+"; "+l.Effect, maxText) + "\n")
}
