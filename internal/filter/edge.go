package filter

import (
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

// An edge has the bytes with which a text may begin, or end, that an expression matches there.
type edge struct {
	set   [256]bool
	empty bool // the expression may match without looking at a byte, so the text may have any there, or be empty
}

// firstOf returns the bytes with which the texts begin that re matches from their start. It may return more, never fewer.
func firstOf(re *syntax.Regexp) edge {
	if !isAnchored(re) {
		return edge{empty: true}
	}
	return edgeOf(re, false)
}

// lastOf returns the bytes with which the texts end that re matches to their end. It may return more, never fewer.
func lastOf(re *syntax.Regexp) edge {
	end := re
	for end.Op == syntax.OpConcat || end.Op == syntax.OpCapture {
		end = end.Sub[len(end.Sub)-1]
	}
	if end.Op != syntax.OpEndText {
		return edge{empty: true}
	}
	return edgeOf(re, true)
}

// edgeOf returns the bytes with which the matches of re begin, or those with which they end.
func edgeOf(re *syntax.Regexp, last bool) (f edge) {
	switch re.Op {
	case syntax.OpLiteral:
		r := re.Rune[0]
		if last {
			r = re.Rune[len(re.Rune)-1]
		}
		f.addRune(r, re.Flags&syntax.FoldCase != 0)
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			f.addRange(re.Rune[i], re.Rune[i+1])
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		f.addRange(0, unicode.MaxRune)
	case syntax.OpCapture, syntax.OpPlus:
		return edgeOf(re.Sub[0], last)
	case syntax.OpStar, syntax.OpQuest:
		f = edgeOf(re.Sub[0], last)
		f.empty = true
	case syntax.OpRepeat:
		f = edgeOf(re.Sub[0], last)
		f.empty = f.empty || re.Min == 0
	case syntax.OpConcat:
		f.empty = true
		for i, sub := range re.Sub {
			if last {
				sub = re.Sub[len(re.Sub)-1-i]
			}
			if !f.empty {
				break
			}
			f.empty = false
			f.add(edgeOf(sub, last))
		}
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			f.add(edgeOf(sub, last))
		}
	case syntax.OpNoMatch:
	default: // assertions, the empty match
		f.empty = true
	}
	return f
}

// add makes f the bytes of f or g.
func (f *edge) add(g edge) {
	for b, has := range g.set {
		f.set[b] = f.set[b] || has
	}
	f.empty = f.empty || g.empty
}

func (f *edge) addRune(r rune, fold bool) {
	f.addRange(r, r)
	if !fold {
		return
	}
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		f.addRange(other, other)
	}
}

// addRange adds the first or last bytes of runes. What is outside ASCII may be any byte outside it: an invalid one is read as U+FFFD.
func (f *edge) addRange(low, high rune) {
	for r := low; r <= high && r < utf8.RuneSelf; r++ {
		f.set[r] = true
	}
	if high >= utf8.RuneSelf {
		for b := utf8.RuneSelf; b < len(f.set); b++ {
			f.set[b] = true
		}
	}
}
