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
	ignore   []*tdfa.Machine // by the machine's numbers: the ignore patterns of the pattern's rule; nil if it has none
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
	t := new(texts)
	var list []string
	for _, r := range rules {
		var ignore *tdfa.Machine
		for i := range r.patterns {
			p := &r.patterns[i]
			if !include(p) {
				continue
			}
			if ignore == nil && len(r.ignore) > 0 {
				ignore = mustCompile(r.ignore).NewMachine()
			}
			t.patterns = append(t.patterns, p)
			t.ignore = append(t.ignore, ignore)
			list = append(list, p.text)
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

// match returns the pattern that decides, and leaves the groups for group. It reports false if none matches, or if the ignore
// patterns of its rule take the message back.
func (t *texts) match(message []byte) (*pattern, bool) {
	if t == nil {
		return nil, false
	}
	i, ok := t.machine.Match(message, t.loc)
	if !ok {
		return nil, false
	}
	if ignore := t.ignore[i]; ignore != nil {
		if _, ignored := ignore.Match(message, nil); ignored {
			return nil, false
		}
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
