// Package nftlist reads rulesets as nft(8) lists them: by "nft -j list ruleset", and for people by "nft -a list ruleset".
//
// The first reports what there is, the second how it is written; the handle of a rule, a number, reports which of one is which of the
// other. What hooks elsewhere than at input, output and forward, what translates addresses, and what a program keeps for itself is
// left out with a word.
package nftlist

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
)

// Listing is what nft lists.
type Listing struct {
	JSON []byte
	Text []byte // of "nft -a list ruleset"; may be empty
}

// object is one of the things in a listing, of which each has one.
type object struct {
	Table *table `json:"table"`
	Chain *chain `json:"chain"`
	Rule  *rule  `json:"rule"`
	Set   *set   `json:"set"`
	Map   *set   `json:"map"`

	Helper *helper `json:"ct helper"`
}

type helper struct {
	Family   string `json:"family"`
	Table    string `json:"table"`
	Name     string `json:"name"`
	Type     string `json:"type"`
	Protocol string `json:"protocol"`
}

type table struct {
	Family string `json:"family"`
	Name   string `json:"name"`
	Flags  any    `json:"flags"`
}

func (t table) String() string { return t.Family + " " + t.Name }

// dormant reports whether the kernel does not run the table's chains. Some versions of nft write another word into the JSON.
func (r *reader) dormant(t table) bool {
	return r.asleep[t.String()] || slices.Contains(list(t.Flags), any("dormant"))
}

type chain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	Hook   string `json:"hook"` // empty: it is no base chain
	Prio   int    `json:"prio"`
	Policy string `json:"policy"`
}

type rule struct {
	Family  string           `json:"family"`
	Table   string           `json:"table"`
	Chain   string           `json:"chain"`
	Handle  int              `json:"handle"`
	Comment string           `json:"comment"`
	Expr    []map[string]any `json:"expr"`
}

type set struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Flags  any    `json:"flags"` // one, or some
	Elem   []any  `json:"elem"`
}

// key names a chain or a set in a table.
type key struct{ family, table, name string }

// A reader turns a listing into a ruleset.
type reader struct {
	rs       *importer.Ruleset
	tables   []table
	bases    []chain
	chains   map[key]*importer.Chain
	all      []chain
	rules    map[key][]rule
	sets     map[key]*set
	helpers  map[key]string    // that mef.rules has too
	changing map[key]bool      // sets whose elements come and go
	lines    map[string]string // the text of rules, by table and handle
	asleep   map[string]bool   // tables of which the text says that they are dormant
}

// Parse reads a listing. source is what the ruleset calls itself.
func Parse(l Listing, source string) (*importer.Ruleset, error) {
	var top struct {
		Objects []object `json:"nftables"`
	}
	if err := json.Unmarshal(l.JSON, &top); err != nil {
		return nil, fmt.Errorf("read the JSON of nft: %w", err)
	}
	r := &reader{rs: &importer.Ruleset{Source: source}, chains: map[key]*importer.Chain{}, rules: map[key][]rule{}, sets: map[key]*set{}, helpers: map[key]string{},
		changing: map[key]bool{}, lines: map[string]string{}, asleep: map[string]bool{}}
	r.text(string(l.Text))
	for _, o := range top.Objects {
		r.object(o)
	}
	all := slices.Clone(r.all)
	r.skip()
	for _, c := range r.all {
		r.fill(c)
	}
	for _, c := range all {
		if !slices.ContainsFunc(r.all, func(o chain) bool { return o.Family == c.Family && o.Table == c.Table }) {
			r.chains[key{c.Family, c.Table, c.Name}].Foreign = true
		}
	}
	r.translations(all)
	var kept []string
	for _, c := range r.all {
		if name := c.Family + " " + c.Table; c.Type == "nat" && !slices.Contains(kept, name) {
			kept = append(kept, name)
		}
	}
	if text := natText(string(l.Text), kept); text != "" {
		r.rs.NATText = map[string]string{"": text}
	}
	slices.SortStableFunc(r.bases, func(a, b chain) int { return cmp.Compare(a.Prio, b.Prio) })
	for _, c := range r.bases {
		r.rs.Bases = append(r.rs.Bases, r.chains[key{c.Family, c.Table, c.Name}])
	}
	return r.rs, nil
}

// object takes one object down.
func (r *reader) object(o object) {
	switch {
	case o.Table != nil:
		r.tables = append(r.tables, *o.Table)
	case o.Chain != nil:
		c := *o.Chain
		r.all = append(r.all, c)
		r.chains[key{c.Family, c.Table, c.Name}] = &importer.Chain{Name: c.Name, Place: fmt.Sprintf("table %s %s, chain %s", c.Family, c.Table, c.Name)}
	case o.Rule != nil:
		at := key{o.Rule.Family, o.Rule.Table, o.Rule.Chain}
		r.rules[at] = append(r.rules[at], *o.Rule)
		for _, e := range o.Rule.Expr {
			r.update(*o.Rule, e)
		}
	case o.Set != nil:
		r.set(o.Set)
	case o.Helper != nil:
		h := o.Helper
		if p, ok := importer.Protocol(h.Protocol); ok && policy.IsHelper(h.Type, p) {
			r.helpers[key{h.Family, h.Table, h.Name}] = h.Type
		}
	case o.Map != nil:
		r.set(o.Map)
	}
}

func (r *reader) set(s *set) {
	at := key{s.Family, s.Table, s.Name}
	r.sets[at] = s
	for _, flag := range list(s.Flags) {
		if flag == "timeout" || flag == "dynamic" {
			r.changing[at] = true
		}
	}
}

// update notes that a rule adds elements to a set, or takes some away.
func (r *reader) update(at rule, e map[string]any) {
	for _, kind := range []string{"set", "map"} {
		if name, ok := get(e, kind, "set").(string); ok {
			r.changing[key{at.Family, at.Table, strings.TrimPrefix(name, "@")}] = true
		}
		if name, ok := get(e, kind, "map").(string); ok {
			r.changing[key{at.Family, at.Table, strings.TrimPrefix(name, "@")}] = true
		}
	}
}

// get returns what stands in nested objects under keys, nil if there is nothing.
func get(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// list returns a value that may be one or some as some.
func list(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{v}
}

// families are the families of addresses whose packets the chains of a table see.
var families = map[string]policy.Family{"ip": policy.V4, "ip6": policy.V6, "inet": policy.Any}

// translations reads the chains that translate destinations, those of tables that are left alone included.
func (r *reader) translations(all []chain) {
	var bases []chain
	for _, c := range all {
		at := key{c.Family, c.Table, c.Name}
		out := r.chains[at]
		if len(out.Rules) == 0 {
			out.Rules = r.read(at, c.Hook != "")
		}
		_, dnat := translating[c.Hook]
		if (dnat || c.Hook == postrouting) && c.Type == "nat" && families[c.Family] != 0 && !r.dormant(table{Family: c.Family, Name: c.Table}) {
			bases = append(bases, c)
		}
	}
	slices.SortStableFunc(bases, func(a, b chain) int { return cmp.Compare(a.Prio, b.Prio) })
	for _, c := range bases {
		out := r.chains[key{c.Family, c.Table, c.Name}]
		if out.Family = families[c.Family]; c.Hook == postrouting {
			out.Dir = policy.Out
			r.rs.Sources = append(r.rs.Sources, out)
			continue
		}
		out.Dir = translating[c.Hook]
		r.rs.NAT = append(r.rs.NAT, out)
	}
}

// postrouting is the hook at which sources are translated.
const postrouting = "postrouting"

// translating are the hooks at which destinations are translated, with the way of the packets that are seen there.
var translating = map[string]policy.Dir{"prerouting": policy.In, "output": policy.Out}

// hooks are the ways by their hook.
var hooks = map[string]policy.Dir{"input": policy.In, "output": policy.Out, "forward": policy.Forward}

// skip drops tables that are somebody's own, and reports it.
func (r *reader) skip() {
	gone := map[string]bool{}
	for _, t := range r.tables {
		program := importer.KeeperOfTable(t.Name)
		switch {
		case r.dormant(t):
			r.rs.Notes = append(r.rs.Notes, fmt.Sprintf("table %s is dormant: it does nothing, and is not imported", t))
			gone[t.String()] = true
		case program != "":
			r.rs.Notes = append(r.rs.Notes, fmt.Sprintf("table %s is not imported: %s maintains it, and it stays in force", t, program))
			gone[t.String()] = true
		case r.ofIPTables(t):
			gone[t.String()] = true
		}
	}
	r.all = slices.DeleteFunc(r.all, func(c chain) bool { return gone[c.Family+" "+c.Table] })
}

// ofIPTables reports whether iptables keeps a table, in which case what it filters is left out: extensions of iptables are not
// listed in full.
func (r *reader) ofIPTables(t table) bool {
	if !slices.ContainsFunc(r.all, func(c chain) bool {
		return c.Family == t.Family && c.Table == t.Name && slices.ContainsFunc(r.rules[key{c.Family, c.Table, c.Name}], extended)
	}) {
		return false
	}
	for _, c := range r.all {
		if _, filters := hooks[c.Hook]; c.Family != t.Family || c.Table != t.Name || c.Type != "filter" || !filters {
			continue
		}
		if n := len(r.rules[key{c.Family, c.Table, c.Name}]); n > 0 || c.Policy == "drop" {
			r.rs.Left = append(r.rs.Left, importer.Left{Place: r.chains[key{c.Family, c.Table, c.Name}].Place, Line: count(n) + ", policy " + c.Policy,
				Reason: "iptables maintains this table; mef import iptables reads it"})
		}
	}
	return true
}

// extended reports whether a rule has an extension of iptables.
func extended(one rule) bool {
	return slices.ContainsFunc(one.Expr, func(e map[string]any) bool { _, ok := e["xt"]; return ok })
}

func count(n int) string {
	if n == 1 {
		return "1 rule"
	}
	return fmt.Sprintf("%d rules", n)
}

// fill reads the rules of a chain, or reports why they are left out.
func (r *reader) fill(c chain) {
	at := key{c.Family, c.Table, c.Name}
	out := r.chains[at]
	if c.Hook != "" {
		d, known := hooks[c.Hook]
		family := families[c.Family]
		if !known || family == 0 || c.Type != "filter" {
			r.elsewhere(c)
			return
		}
		out.Dir, out.Family = d, family
		if c.Policy == "drop" {
			out.Policy = policy.Drop
		}
		r.bases = append(r.bases, c)
	}
	if families[c.Family] == 0 {
		return // reported with the base chain
	}
	out.Rules = r.read(at, c.Hook != "")
}

// read reads the rules of a chain.
func (r *reader) read(at key, base bool) (all []*importer.Rule) {
	for _, one := range r.rules[at] {
		p := parser{reader: r, rule: one, base: base}
		all = append(all, p.parse()...)
	}
	return all
}

// elsewhere reports what becomes of a base chain that no policy of mef.rules has a place for.
func (r *reader) elsewhere(c chain) {
	at := key{c.Family, c.Table, c.Name}
	all := r.rules[at]
	helping := 0
	for _, one := range r.read(at, true) {
		if _, before := translating[c.Hook]; before && one.Helper != "" {
			m := ofFamily(families[c.Family])
			one.Require(m)
			r.rs.Helpers = append(r.rs.Helpers, one)
			helping++
		}
	}
	what := fmt.Sprintf("%s of type %s at hook %s", r.chains[at].Place, c.Type, c.Hook)
	switch {
	case len(all) == helping && c.Policy != "drop":
	case c.Type == "nat" && c.Hook != "input": // those are read elsewhere
	case c.Policy == "drop" || slices.ContainsFunc(all, drops):
		r.rs.Left = append(r.rs.Left, importer.Left{Place: r.chains[at].Place, Line: fmt.Sprintf("%s at hook %s of %s, policy %s", count(len(all)), c.Hook, c.Family, c.Policy),
			Reason: "mef.rules has the hooks input, output and forward of IPv4 and IPv6"})
	default:
		r.rs.Notes = append(r.rs.Notes, what+" drops nothing by itself: it is not imported")
	}
}

// drops reports whether a rule may lead to a drop.
func drops(one rule) bool {
	return slices.ContainsFunc(one.Expr, func(e map[string]any) bool {
		return slices.ContainsFunc([]string{"drop", "reject", "jump", "goto", "vmap", "xt"}, func(k string) bool { _, ok := e[k]; return ok })
	})
}

// text reads the listing for people. A long anonymous set goes over several lines.
func (r *reader) text(text string) {
	var table string
	var words []string // of a rule, so far
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		said, handle, isRule := cutLast(line, " # handle ")
		if isRule {
			line = said
		}
		switch {
		case strings.HasPrefix(line, "table ") && strings.HasSuffix(line, "{"):
			table = strings.TrimSuffix(strings.TrimPrefix(line, "table "), " {")
			words = nil
		case line == "flags dormant":
			r.asleep[table] = true
		case strings.HasSuffix(line, "{"), strings.HasSuffix(line, ";"), line == "}", line == "", strings.HasPrefix(line, `comment "`):
			words = nil
		case isRule:
			r.lines[table+" "+handle] = strings.Join(append(words, line), " ")
			words = nil
		default:
			words = append(words, line)
		}
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
