package filter

import (
	"mef/internal/filter/tdfa"
	"mef/internal/logtext"
)

// A group is the rules that one program's messages meet.
type group struct {
	rules []*rule
	texts *texts // patterns of messages; nil if there are none
	whole *texts // patterns of whole lines, with the date; nil if there are none

	reader *logtext.Reader // nil if no rule is about JSON
	places []jsonPlace
}

// texts are patterns of some rules, joined.
type texts struct {
	patterns []*pattern // by the machine's numbers
	machine  *tdfa.Machine
	loc      []int
	ignore   map[*rule]*tdfa.Machine // of rules that have ignore patterns
}

func newGroup(rules []*rule) *group {
	g := &group{rules: rules}
	var plain []*rule
	for _, r := range rules {
		if r.JSON == nil {
			plain = append(plain, r)
		}
	}
	g.texts = newTexts(plain, func(p *pattern) bool { return !p.whole })
	g.whole = newTexts(plain, func(p *pattern) bool { return p.whole })
	g.reader, g.places = newJSONReader(rules)
	return g
}

// newTexts joins those patterns of the rules that include accepts, nil if there are none.
func newTexts(rules []*rule, include func(*pattern) bool) *texts {
	t := &texts{ignore: make(map[*rule]*tdfa.Machine)}
	var list []string
	for _, r := range rules {
		before := len(list)
		for i := range r.patterns {
			if p := &r.patterns[i]; include(p) {
				t.patterns = append(t.patterns, p)
				list = append(list, p.text)
			}
		}
		if len(list) > before && len(r.ignore) > 0 {
			t.ignore[r] = mustCompile(r.ignore).NewMachine()
		}
	}
	if len(list) == 0 {
		return nil
	}
	program := mustCompile(list)
	t.machine = program.NewMachine()
	t.loc = make([]int, program.LocLen())
	return t
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
func (t *texts) match(message []byte) (*pattern, bool) {
	if t == nil {
		return nil, false
	}
	i, ok := t.machine.Match(message, t.loc)
	if !ok {
		return nil, false
	}
	return t.patterns[i], true
}

// group returns what the n-th group of the last match holds; nil if it took no part or n is 0.
func (t *texts) group(message []byte, n int) []byte {
	if n == 0 || t.loc[2*n] < 0 {
		return nil
	}
	return message[t.loc[2*n]:t.loc[2*n+1]]
}

// ignores reports whether the rule's ignore patterns take the message back.
func (t *texts) ignores(r *rule, message []byte) bool {
	machine := t.ignore[r]
	if machine == nil {
		return false
	}
	_, ok := machine.Match(message, nil)
	return ok
}
