package iptables

import (
	"fmt"
	"slices"
	"strings"
)

// A State is what of ours is loaded. The zero value is nothing.
type State struct {
	v4, v6 family
	sets   []string        // all of ours
	used   map[byte]bool   // generations that rules look into
	held   map[string]bool // sets of ours that rules of others look into
}

// ReadState reads the state from what iptables-save, ip6tables-save and "ipset list -n" print. Each may be empty, if there is no such
// program or nothing loaded.
func ReadState(v4, v6, sets string) State {
	s := State{used: map[byte]bool{}, held: map[string]bool{}}
	for _, name := range strings.Fields(sets) {
		if _, ok := generation(name); ok {
			s.sets = append(s.sets, name)
		}
	}
	s.v4, s.v6 = s.readTables(v4), s.readTables(v6)
	return s
}

// Empty reports whether nothing of ours is loaded.
func (s State) Empty() bool { return s.v4.empty() && s.v6.empty() && len(s.sets) == 0 }

// Sets returns the names of our sets.
func (s State) Sets() []string { return slices.Clone(s.sets) }

// String returns what of ours is in the tables, as iptables-save prints it, without what changes by itself.
func (s State) String() string {
	var b strings.Builder
	for _, family := range [...]struct {
		name string
		table
	}{{"iptables", s.v4[filter]}, {"ip6tables", s.v6[filter]}, {"iptables -t nat", s.v4[nat]}, {"ip6tables -t nat", s.v6[nat]},
		{"iptables -t raw", s.v4[raw]}, {"ip6tables -t raw", s.v6[raw]}} {
		if family.empty() {
			continue
		}
		fmt.Fprintf(&b, "# %s\n", family.name)
		for _, jump := range family.jumps {
			fmt.Fprintf(&b, "-A %s\n", jump)
		}
		for _, c := range family.chains {
			fmt.Fprintf(&b, ":%s\n", c.name)
			for _, line := range c.lines {
				fmt.Fprintf(&b, "-A %s %s\n", c.name, line)
			}
		}
	}
	return b.String()
}

// letter returns a generation of sets that no rule looks into.
func (s State) letter() byte {
	for letter := byte('a'); letter < 'z'; letter++ {
		if !s.used[letter] {
			return letter
		}
	}
	return 'z'
}

// destroy returns the text that removes our sets, those of a generation or those of others.
func (s State) destroy(letter byte, same bool) string {
	var b strings.Builder
	for _, name := range s.sets {
		if l, _ := generation(name); (l == letter) == same && !s.held[name] {
			fmt.Fprintf(&b, "destroy %s\n", name)
		}
	}
	return b.String()
}

// A family is what the tables of iptables, or of ip6tables, have of ours.
type family [len(tables)]table

func (f *family) empty() bool {
	return !slices.ContainsFunc(f[:], func(t table) bool { return !t.empty() })
}

// chains returns the chains by table.
func (f *family) chains() (all [len(tables)][]chain) {
	for i := range f {
		all[i] = f[i].chains
	}
	return all
}

// replace returns the text that puts chains in place of those that are there, by table.
func (f *family) replace(all [len(tables)][]chain) string {
	var b strings.Builder
	for i := range f {
		b.WriteString(f[i].replace(tables[i], all[i]))
	}
	return b.String()
}

// A table is what a table of one family has of ours.
type table struct {
	chains []chain
	index  map[string]int  // of chains, by name
	jumps  []string        // rules that lead there from the hooks, as "INPUT -j MEF-IN"; several if somebody added one
	held   map[string]bool // chains that rules of others lead to
}

func (t *table) empty() bool { return len(t.chains) == 0 && len(t.jumps) == 0 }

// readTables reads what iptables-save prints: a line "*TABLE" before the chains and rules of each table.
func (s *State) readTables(text string) (f family) {
	for i := range f {
		f[i] = table{index: map[string]int{}, held: map[string]bool{}}
	}
	at := filter // -1: a table in which nothing is ours
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			at = slices.IndexFunc(tables[:], func(k netTable) bool { return k.name == line[1:] })
		case strings.HasPrefix(line, ":"):
			if name, _, _ := strings.Cut(line[1:], " "); at >= 0 && tables[at].isOurs(name) {
				t := &f[at]
				t.index[name] = len(t.chains)
				t.chains = append(t.chains, chain{name: name})
			}
		case strings.HasPrefix(line, "-A "):
			s.readRule(line[len("-A "):])
			if at >= 0 {
				f[at].readRule(tables[at], line[len("-A "):])
			}
		}
	}
	return f
}

// readRule takes in a rule, which begins with its chain.
func (t *table) readRule(k netTable, rule string) {
	name, rest, _ := strings.Cut(rule, " ")
	switch {
	case k.isJump(rule):
		t.jumps = append(t.jumps, rule)
	case k.isOurs(name):
		if i, ok := t.index[name]; ok {
			t.chains[i].lines = append(t.chains[i].lines, rest)
		}
	default:
		words := strings.Fields(rest)
		for i, word := range words {
			if i > 0 && k.isOurs(word) && (words[i-1] == "-j" || words[i-1] == "-g") {
				t.held[word] = true
			}
		}
	}
}

// readRule takes in which of our sets a rule looks into.
func (s *State) readRule(rule string) {
	words := strings.Fields(rule)
	for _, word := range words {
		letter, ok := generation(word)
		if !ok {
			continue
		}
		s.used[letter] = true
		if !slices.ContainsFunc(tables[:], func(k netTable) bool { return k.isOurs(words[0]) }) {
			s.held[word] = true
		}
	}
}

// isOurs reports whether a chain is one of ours.
func (k netTable) isOurs(name string) bool {
	return k.name == tables[filter].name && name == rejectChain || slices.ContainsFunc(k.hooks, func(h hook) bool {
		return name == h.ours || strings.HasPrefix(name, h.ours+"-")
	})
}

// isJump reports whether a rule is one that we put into a hook.
func (k netTable) isJump(rule string) bool {
	return slices.ContainsFunc(k.hooks, func(h hook) bool { return rule == h.chain+" -j "+h.ours })
}

// replace returns the text that puts chains in place of those that are there, and empties those that rules of others lead to. It is
// empty if there is nothing to do.
func (t *table) replace(k netTable, chains []chain) string {
	var declared, jumps, lines, removed strings.Builder
	stay := map[string]bool{}
	for _, jump := range t.jumps {
		fmt.Fprintf(&jumps, "-D %s\n", jump)
	}
	for _, c := range chains {
		stay[c.name] = true
		fmt.Fprintf(&declared, ":%s - [0:0]\n", c.name) // empties it if it is there
		for _, h := range k.hooks {
			if c.name == h.ours {
				fmt.Fprintf(&jumps, "-I %s -j %s\n", h.chain, h.ours)
			}
		}
		for _, line := range c.lines {
			fmt.Fprintf(&lines, "-A %s %s\n", c.name, line)
		}
	}
	for _, old := range t.chains {
		if stay[old.name] {
			continue
		}
		fmt.Fprintf(&declared, ":%s - [0:0]\n", old.name)
		if !t.held[old.name] {
			fmt.Fprintf(&removed, "-X %s\n", old.name)
		}
	}
	if body := declared.String() + jumps.String() + lines.String() + removed.String(); body != "" {
		return "*" + k.name + "\n" + body + "COMMIT\n"
	}
	return ""
}
