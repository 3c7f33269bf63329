// Package tdfa matches many regular expressions against one text in a single pass and returns which one
// matched and where its capture groups are.
//
// # The idea
//
// A regular expression compiles to an NFA: a graph whose nodes consume a rune, branch, note the current
// position in a capture slot (a "tag"), or match. Running it means following all branches at once with a
// list of threads, the most preferred first, each with its own copy of the slots. That is linear in the text
// but slow, because every byte touches every thread.
//
// A DFA does the bookkeeping once: the list of threads becomes one state, and a table has the state that follows
// on which rune. A plain DFA forgets the slots. A tagged DFA (Ville Laurikari, "NFAs with Tagged Transitions",
// 2000) keeps them in numbered registers: a state is a list of (NFA node, register of each slot), and a
// transition may carry a few operations, "register := position" or "register := register". States that differ
// only in the numbers of their registers are made one by copying registers on the way in, so there are
// finitely many. Most transitions carry no operation, and following one is a table look-up.
//
// States are built when a text first needs them and kept in a cache of bounded size. A warm Machine allocates
// nothing. A Program whose states do not fit (a counted wildcard, for example) costs a rebuild per byte, which
// is still linear in the text; when that no longer pays, texts are given to package regexp for a while, which
// allocates but answers the same.
//
// # Details worth knowing
//
// A state's threads have not yet followed their empty branches. They do so in the transition, when the next
// rune is known, and so all assertions (^ $ \b ...) are decided there; of the text before, a state keeps only
// what its assertions ask about. The end of the text is one more input symbol.
//
// A match that was found while a more preferred thread still runs is itself kept as a last thread, which no
// longer moves. It needs no operations of its own: mostly it shares registers with the thread that found it.
//
// Runes are divided into classes that no pattern tells apart, and tables have a column for each class. ASCII is
// classified by table; other bytes are decoded first. An invalid byte is one U+FFFD of width 1, as in regexp.
package tdfa

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"sync"
)

// A Program is a list of patterns compiled to be matched together. It is immutable; goroutines may share it.
type Program struct {
	patterns []pattern
	insts    []inst // of all patterns; insts[0] is opSearch
	slots    int    // the most that any pattern has
	floating bool   // some pattern may begin later than at the start of the text
	runes    alphabet
	plain    func() []*regexp.Regexp // the patterns for package regexp, compiled when first asked for
}

type pattern struct {
	start uint32   // its first inst
	slots int      // two for each group, the whole match being group 0
	names []string // of its groups
}

// opSearch is the node from which each match begins: it tries all patterns at this position, the first being
// preferred, and failing those goes on to the next position.
const opSearch = syntax.InstOp(255)

// An inst is a node of the NFA: a syntax.Inst with node numbers that are unique in the Program.
type inst struct {
	op      syntax.InstOp
	out     uint32
	arg     uint32         // InstAlt: the other way; InstCapture: the slot; InstEmptyWidth: the syntax.EmptyOp
	set     uint32         // InstRune...: which set of runes, an index into alphabet
	lone    rune           // InstRune1: the only rune; else -1
	pattern int32          // whose node it is; -1 for opSearch
	asks    syntax.EmptyOp // the assertions that may be met before a rune is consumed
}

// Compile joins patterns, in the syntax of package regexp. A match is what
//
//	regexp.MustCompile("(?:pattern0)|(?:pattern1)|...").FindSubmatchIndex
//
// finds: the leftmost, among those the first pattern's, and of that the one that a Perl-like search prefers.
// An error has the pattern's index and what is wrong, quoting the place.
//
// A Program in which each pattern begins with ^ or \A gives up on most texts after a few bytes. One floating
// pattern makes it read all texts to the end, so it is better to keep these in a Program of their own.
func Compile(patterns []string) (*Program, error) {
	p := &Program{insts: []inst{{op: opSearch, lone: -1, pattern: -1}}}
	var sets setTable
	for i, expr := range patterns {
		if err := p.add(expr, &sets); err != nil {
			return nil, fmt.Errorf("pattern %d: %w", i, err)
		}
	}
	p.markAssertions()
	var asks syntax.EmptyOp
	for i := range p.insts {
		asks |= p.insts[i].asks
	}
	p.runes = newAlphabet(sets.list, asks)
	p.plain = sync.OnceValue(func() []*regexp.Regexp {
		list := make([]*regexp.Regexp, len(patterns))
		for i, expr := range patterns {
			list[i] = regexp.MustCompile(expr)
		}
		return list
	})
	return p, nil
}

// Len returns the number of patterns.
func (p *Program) Len() int { return len(p.patterns) }

// LocLen returns the length that Match's loc must have to hold any pattern's groups: two for each group.
func (p *Program) LocLen() int { return p.slots }

// Group returns the number of the group of that name in a pattern, 0 if there is none.
func (p *Program) Group(pattern int, name string) int {
	return max(0, slices.Index(p.patterns[pattern].names, name))
}

// Group returns what the n-th group of a match of text holds; nil if it took no part or n is 0. loc is as Machine.Match filled it in.
func Group(text []byte, loc []int, n int) []byte {
	if n == 0 || loc[2*n] < 0 {
		return nil
	}
	return text[loc[2*n]:loc[2*n+1]]
}

// add parses expr and appends its nodes.
func (p *Program) add(expr string, sets *setTable) error {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return err
	}
	names := re.CapNames()
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return err
	}
	first := uint32(len(p.insts))
	for i := range prog.Inst {
		p.insts = append(p.insts, newInst(&prog.Inst[i], first, int32(len(p.patterns)), sets))
	}
	pat := pattern{start: first + uint32(prog.Start), slots: 2 * len(names), names: names}
	p.patterns = append(p.patterns, pat)
	p.slots = max(p.slots, pat.slots)
	p.floating = p.floating || !anchored(prog)
	return nil
}

// newInst returns in as a node of pattern, whose first node has the number first.
func newInst(in *syntax.Inst, first uint32, pattern int32, sets *setTable) inst {
	n := inst{op: in.Op, out: first + in.Out, lone: -1, pattern: pattern}
	switch in.Op {
	case syntax.InstAlt, syntax.InstAltMatch:
		n.arg = first + in.Arg
	case syntax.InstCapture, syntax.InstEmptyWidth:
		n.arg = in.Arg
	case syntax.InstRune1:
		n.lone = in.Rune[0]
		n.set = sets.id(in)
	case syntax.InstRune, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		n.set = sets.id(in)
	}
	return n
}

// anchored reports whether prog can match only at the beginning of the text: no way leads to a rune or to the
// end without an assertion of it.
func anchored(prog *syntax.Prog) bool {
	seen := make([]bool, len(prog.Inst))
	todo := []uint32{uint32(prog.Start)}
	for len(todo) > 0 {
		pc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		switch in := &prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&syntax.EmptyBeginText == 0 {
				todo = append(todo, in.Out)
			}
		case syntax.InstFail:
		default:
			return false
		}
	}
	return true
}

// markAssertions sets each node's asks. Most edges lead to a higher number, so going backwards needs few rounds.
func (p *Program) markAssertions() {
	for changed := true; changed; {
		changed = false
		for pc := len(p.insts) - 1; pc >= 0; pc-- {
			if asks := p.asks(&p.insts[pc]); asks != p.insts[pc].asks {
				p.insts[pc].asks = asks
				changed = true
			}
		}
	}
}

// asks returns the assertions that may be met from in on, as far as its successors know theirs.
func (p *Program) asks(in *inst) (asks syntax.EmptyOp) {
	switch in.op {
	case syntax.InstAlt, syntax.InstAltMatch:
		return p.insts[in.out].asks | p.insts[in.arg].asks
	case syntax.InstCapture, syntax.InstNop:
		return p.insts[in.out].asks
	case syntax.InstEmptyWidth:
		return syntax.EmptyOp(in.arg) | p.insts[in.out].asks
	case opSearch:
		for i := range p.patterns {
			asks |= p.insts[p.patterns[i].start].asks
		}
	}
	return asks
}

// matchPlain is Match by package regexp, a pattern at a time: linear and in constant memory for any Program.
func (p *Program) matchPlain(text []byte, loc []int) (pattern int, ok bool) {
	var best []int
	for i, re := range p.plain() {
		if found := re.FindSubmatchIndex(text); found != nil && (best == nil || found[0] < best[0]) {
			pattern, best = i, found
		}
	}
	copy(loc, best)
	return pattern, best != nil
}
