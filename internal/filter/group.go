package filter

import "mef/internal/filter/tdfa"

// A group is the rules that one program's messages meet, their patterns joined.
type group struct {
	rules    []*rule
	patterns []*pattern // by the machine's numbers
	machine  *tdfa.Machine
	loc      []int
	ignore   map[*rule]*tdfa.Machine // of rules that have ignore patterns
}

func newGroup(rules []*rule) *group {
	g := &group{rules: rules, ignore: make(map[*rule]*tdfa.Machine)}
	var texts []string
	for _, r := range rules {
		for i := range r.patterns {
			g.patterns = append(g.patterns, &r.patterns[i])
			texts = append(texts, r.patterns[i].text)
		}
		if len(r.ignore) > 0 {
			g.ignore[r] = mustCompile(r.ignore).NewMachine()
		}
	}
	program := mustCompile(texts)
	g.machine = program.NewMachine()
	g.loc = make([]int, program.LocLen())
	return g
}

// mustCompile joins patterns that were found to be well-formed one by one.
func mustCompile(patterns []string) *tdfa.Program {
	p, err := tdfa.Compile(patterns)
	if err != nil {
		panic(err)
	}
	return p
}

// match returns the pattern that decides, and leaves the groups for group.
func (g *group) match(message []byte) (*pattern, bool) {
	i, ok := g.machine.Match(message, g.loc)
	if !ok {
		return nil, false
	}
	return g.patterns[i], true
}

// group returns what the n-th group of the last match holds; nil if it took no part or n is 0.
func (g *group) group(message []byte, n int) []byte {
	if n == 0 || g.loc[2*n] < 0 {
		return nil
	}
	return message[g.loc[2*n]:g.loc[2*n+1]]
}

// ignores reports whether the rule's ignore patterns take the message back.
func (g *group) ignores(r *rule, message []byte) bool {
	machine := g.ignore[r]
	if machine == nil {
		return false
	}
	_, ok := machine.Match(message, nil)
	return ok
}
