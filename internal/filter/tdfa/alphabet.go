package tdfa

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"sort"
	"unicode"
	"unicode/utf8"
)

// A class is a column of the transition table: a set of runes that no pattern tells apart.
type class uint16

// The columns that are not sets of runes.
const (
	classEnd   class = iota // the end of the text
	classMulti              // a byte outside ASCII; the rune has to be decoded to know its class
	classFirst              // the first set of runes
)

// An alphabet divides all runes into classes.
type alphabet struct {
	ascii   [256]uint8 // class by byte; ASCII has at most 128 classes, which come first
	bounds  []rune     // ascending; the interval that begins at bounds[i] is of class classes[i]
	classes []class
	beyond  class  // the class of all runes outside ASCII, if it is only one; else classEnd
	size    int    // number of columns
	sample  []rune // by class: a rune of it, -1 for classEnd
	member  []bool // by set*size+class
}

// contains reports whether the runes of class c are in set.
func (a *alphabet) contains(set uint32, c class) bool {
	return a.member[int(set)*a.size+int(c)]
}

// class returns the class of r.
func (a *alphabet) class(r rune) class {
	i, found := slices.BinarySearch(a.bounds, r)
	if !found {
		i--
	}
	return a.classes[i]
}

// decode returns the class and the width of the first rune of text, which must not be empty.
func (a *alphabet) decode(text []byte) (class, int) {
	r, width := utf8.DecodeRune(text)
	return a.class(r), width
}

// newAlphabet returns the coarsest division that respects sets and what the assertions ask about a rune.
func newAlphabet(sets []*syntax.Inst, asks syntax.EmptyOp) alphabet {
	a := alphabet{size: int(classFirst), sample: []rune{-1, -1}}
	var signatures []string
	known := make(map[string]class)
	for _, r := range boundaries(sets) {
		sign := signature(r, sets, asks)
		c, ok := known[sign]
		if !ok {
			c = class(a.size)
			known[sign] = c
			signatures = append(signatures, sign)
			a.sample = append(a.sample, r)
			a.size++
		}
		a.bounds = append(a.bounds, r)
		a.classes = append(a.classes, c)
	}
	for b := range a.ascii {
		a.ascii[b] = uint8(classMulti)
		if b < utf8.RuneSelf {
			a.ascii[b] = uint8(a.class(rune(b)))
		}
	}
	first := a.class(utf8.RuneSelf)
	if i, _ := slices.BinarySearch(a.bounds, utf8.RuneSelf); !slices.ContainsFunc(a.classes[i:], func(c class) bool { return c != first }) {
		a.beyond = first
	}
	a.member = make([]bool, len(sets)*a.size)
	for i, sign := range signatures {
		for set := range sets {
			a.member[set*a.size+int(classFirst)+i] = sign[set] == 'y'
		}
	}
	return a
}

// boundaries returns, ascending, where runes may begin to differ.
func boundaries(sets []*syntax.Inst) []rune {
	cuts := []rune{0, '\n', '\n' + 1, '0', '9' + 1, 'A', 'Z' + 1, '_', '_' + 1, 'a', 'z' + 1, utf8.RuneSelf} // newline, \w, ASCII
	for _, set := range sets {
		if len(set.Rune) == 1 {
			cuts = append(cuts, set.Rune[0], set.Rune[0]+1)
			for r := unicode.SimpleFold(set.Rune[0]); r != set.Rune[0]; r = unicode.SimpleFold(r) {
				cuts = append(cuts, r, r+1)
			}
			continue
		}
		for i := 0; i < len(set.Rune); i += 2 {
			cuts = append(cuts, set.Rune[i], set.Rune[i+1]+1)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	end := sort.Search(len(cuts), func(i int) bool { return cuts[i] > unicode.MaxRune })
	return cuts[:end]
}

// signature describes all that patterns depend on of r: a 'y' or 'n' for each set, then for the assertions.
func signature(r rune, sets []*syntax.Inst, asks syntax.EmptyOp) string {
	sign := make([]byte, 0, len(sets)+1)
	for _, set := range sets {
		if set.MatchRune(r) {
			sign = append(sign, 'y')
		} else {
			sign = append(sign, 'n')
		}
	}
	return string(append(sign, byte(summary(r, asks))))
}

// summary returns a rune that the assertions in asks cannot tell from r when it is the rune before or after
// them. Its results are few: -1 (none: the text begins or ends there), a newline, a letter and a space.
func summary(r rune, asks syntax.EmptyOp) rune {
	const (
		text = syntax.EmptyBeginText | syntax.EmptyEndText
		line = syntax.EmptyBeginLine | syntax.EmptyEndLine
		word = syntax.EmptyWordBoundary | syntax.EmptyNoWordBoundary
	)
	switch {
	case r < 0 && asks&text != 0:
		return -1
	case (r < 0 || r == '\n') && asks&line != 0:
		return '\n'
	case asks&word != 0 && r >= 0 && syntax.IsWordChar(r):
		return 'a'
	}
	return ' '
}

// A setTable numbers the different sets of runes that nodes consume.
type setTable struct {
	list []*syntax.Inst
	ids  map[string]uint32
}

// id returns the number of the set that in consumes.
func (t *setTable) id(in *syntax.Inst) uint32 {
	var key []byte
	if len(in.Rune) == 1 { // the only form that may fold case; a set of ranges has it expanded
		key = append(key, "lone"...)
		if in.Op != syntax.InstRune1 && syntax.Flags(in.Arg)&syntax.FoldCase != 0 {
			key = append(key, "fold"...)
		}
	}
	for _, r := range in.Rune {
		key = binary.AppendUvarint(key, uint64(r))
	}
	id, ok := t.ids[string(key)]
	if !ok {
		if t.ids == nil {
			t.ids = make(map[string]uint32)
		}
		id = uint32(len(t.list))
		t.ids[string(key)] = id
		t.list = append(t.list, in)
	}
	return id
}
