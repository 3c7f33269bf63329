package filter

import (
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

// A firstBytes has the bytes with which a text may begin that an expression matches from its start.
type firstBytes struct {
	set   [256]bool
	empty bool // the expression may match without looking at a byte, so the text may begin with anything, or be empty
}

// firstOf returns the bytes with which the matches of re begin. It may return more, never fewer.
func firstOf(re *syntax.Regexp) (f firstBytes) {
	switch re.Op {
	case syntax.OpLiteral:
		f.addRune(re.Rune[0], re.Flags&syntax.FoldCase != 0)
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			f.addRange(re.Rune[i], re.Rune[i+1])
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		f.addRange(0, unicode.MaxRune)
	case syntax.OpCapture, syntax.OpPlus:
		return firstOf(re.Sub[0])
	case syntax.OpStar, syntax.OpQuest:
		f = firstOf(re.Sub[0])
		f.empty = true
	case syntax.OpRepeat:
		f = firstOf(re.Sub[0])
		f.empty = f.empty || re.Min == 0
	case syntax.OpConcat:
		f.empty = true
		for _, sub := range re.Sub {
			if !f.empty {
				break
			}
			f.empty = false
			f.add(firstOf(sub))
		}
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			f.add(firstOf(sub))
		}
	case syntax.OpNoMatch:
	default: // assertions, the empty match
		f.empty = true
	}
	return f
}

// add makes f the bytes of f or g.
func (f *firstBytes) add(g firstBytes) {
	for b, has := range g.set {
		f.set[b] = f.set[b] || has
	}
	f.empty = f.empty || g.empty
}

func (f *firstBytes) addRune(r rune, fold bool) {
	f.addRange(r, r)
	if !fold {
		return
	}
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		f.addRange(other, other)
	}
}

// addRange adds the first bytes of runes. What is outside ASCII may be any byte outside it: an invalid one is read as U+FFFD.
func (f *firstBytes) addRange(low, high rune) {
	for r := low; r <= high && r < utf8.RuneSelf; r++ {
		f.set[r] = true
	}
	if high >= utf8.RuneSelf {
		for b := utf8.RuneSelf; b < len(f.set); b++ {
			f.set[b] = true
		}
	}
}
