package filter

import (
	"encoding/binary"
	"regexp/syntax"

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

// texts are patterns of some rules. If they are many, they are divided by the byte that a message begins with, and a machine is made only
// of patterns that messages have met.
type texts struct {
	patterns []candidate
	masks    *masks       // nil if there are too many patterns
	one      *joined      // all patterns, if they are not divided; once there was a message
	byFirst  [256]*joined // of the messages that begin with this byte, once there was one
	ofEmpty  *joined      // of the empty message
	joined   map[string]*joined
}

// A candidate is a pattern that messages may match.
type candidate struct {
	*pattern
	text   string // anchored
	first  edge   // of the messages that it matches
	last   edge
	ignore *ignorer // nil if the rule has no ignore patterns
}

// An ignorer has the ignore patterns of a rule, joined when the first message comes that another of its patterns matches.
type ignorer struct {
	patterns []string
	machine  *tdfa.Machine
}

// maxJoined is how many patterns are one machine whatever messages begin with.
const maxJoined = 128

// joined are some of the patterns, in order, as one machine; nil if there are none.
type joined struct {
	patterns []located // by the machine's numbers
	machine  *tdfa.Machine
	loc      []int
}

// located is a pattern with its groups found. A group is its number, 0 if the pattern lacks it.
type located struct {
	*pattern
	ignore *ignorer

	ip, host, user, unknown, count, session int
}

// newTexts returns those patterns of the rules that include accepts, nil if there are none.
func newTexts(rules []*rule, include func(*pattern) bool) *texts {
	t := new(texts)
	for _, r := range rules {
		var ignore *ignorer
		if len(r.ignore) > 0 {
			ignore = &ignorer{patterns: r.ignore}
		}
		for i := range r.patterns {
			if p := &r.patterns[i]; include(p) {
				t.patterns = append(t.patterns, newCandidate(p, ignore))
			}
		}
	}
	if len(t.patterns) == 0 {
		return nil
	}
	t.joined = make(map[string]*joined)
	t.masks = newMasks(t.patterns)
	return t
}

// masks show by the first and the last byte of a message that no pattern matches it: each bit is a pattern. They are for programs that no
// rule names, whose messages meet the few rules that name no program: mostly for nothing.
type masks struct{ first, last [256]uint16 }

const maxMasked = 16

func newMasks(patterns []candidate) *masks {
	if len(patterns) > maxMasked {
		return nil
	}
	m := new(masks)
	for i := range patterns {
		c := &patterns[i]
		for b := range 256 {
			if c.first.empty || c.first.set[b] {
				m.first[b] |= 1 << i
			}
			if c.last.empty || c.last.set[b] {
				m.last[b] |= 1 << i
			}
		}
	}
	return m
}

// exclude reports whether no pattern matches the message.
func (m *masks) exclude(message []byte) bool {
	return m != nil && len(message) > 0 && m.first[message[0]]&m.last[message[len(message)-1]] == 0
}

func newCandidate(p *pattern, ignore *ignorer) candidate {
	re, err := syntax.Parse(p.text, syntax.Perl)
	if err != nil {
		panic(err) // it was found to be well-formed
	}
	return candidate{pattern: p, text: anchor(p.text, re), first: firstOf(re), last: lastOf(re), ignore: ignore}
}

// mustCompile joins patterns that were found to be well-formed one by one.
func mustCompile(patterns []string) *tdfa.Program {
	p, err := tdfa.Compile(patterns)
	if err != nil {
		panic(err)
	}
	return p
}

// of returns the patterns that a message may match.
func (t *texts) of(message []byte) *joined {
	if t.one != nil {
		return t.one
	}
	at := &t.ofEmpty
	if len(message) > 0 {
		at = &t.byFirst[message[0]]
	}
	if *at == nil {
		*at = t.join(message)
	}
	return *at
}

// join returns the patterns that may match what begins like message.
func (t *texts) join(message []byte) *joined {
	var list []*candidate
	var key []byte
	for i := range t.patterns {
		if c := &t.patterns[i]; len(t.patterns) <= maxJoined || c.first.empty || len(message) > 0 && c.first.set[message[0]] {
			list = append(list, c)
			key = binary.AppendUvarint(key, uint64(i))
		}
	}
	j := t.joined[string(key)]
	if j == nil {
		j = newJoined(list)
		if len(t.patterns) <= maxJoined {
			t.one = j
		}
		t.joined[string(key)] = j
	}
	return j
}

func newJoined(list []*candidate) *joined {
	j := new(joined)
	if len(list) == 0 {
		return j
	}
	var texts []string
	for _, c := range list {
		texts = append(texts, c.text)
	}
	program := mustCompile(texts)
	j.machine = program.NewMachine()
	j.loc = make([]int, program.LocLen())
	for i, c := range list {
		group := func(name string) int { return program.Group(i, name) }
		j.patterns = append(j.patterns, located{pattern: c.pattern, ignore: c.ignore, ip: group("ip"), host: group("host"), user: group("user"),
			unknown: group("unknownuser"), count: group("count"), session: group("session")})
	}
	return j
}

// match returns the pattern that decides and where its groups are, until the next match. It reports false if none matches, or if an
// ignore pattern of its rule matches too.
func (t *texts) match(message []byte) (p *located, loc []int, ok bool) {
	if t == nil || t.masks.exclude(message) {
		return nil, nil, false
	}
	j := t.of(message)
	if j.machine == nil {
		return nil, nil, false
	}
	i, ok := j.machine.Match(message, j.loc)
	if !ok {
		return nil, nil, false
	}
	p = &j.patterns[i]
	return p, j.loc, p.ignore == nil || !p.ignore.match(message)
}

// match reports whether a message is to be ignored.
func (g *ignorer) match(message []byte) bool {
	if g.machine == nil {
		g.machine = mustCompile(g.patterns).NewMachine()
	}
	_, ok := g.machine.Match(message, nil)
	return ok
}
