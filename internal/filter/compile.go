package filter

import (
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
)

// compilePattern checks a pattern's syntax and groups, unless it is one of ours: those are checked by tests, and parsed when the first
// line comes that they may match. If addressed, the address is not in the pattern.
func compilePattern(c conf.Pattern, v verdict, addressed bool) (pattern, *conf.Error) {
	p := pattern{text: c.Text, whole: c.WholeLine(), verdict: v}
	if c.Shipped {
		p.namesSession = strings.Contains(c.Text, "(?P<session>")
		return p, nil
	}
	re, err := compileRegexp(c)
	if err != nil {
		return p, err
	}
	names := re.CapNames()
	p.namesSession = slices.Contains(names, "session")
	if v != orphan && !addressed && !slices.Contains(names, "ip") && !slices.Contains(names, "host") {
		return p, &conf.Error{Pos: c.Pos, Msg: "pattern has no group (?P<ip>...)", Hint: "write <HOST> where the address is"}
	}
	return p, nil
}

func compileRegexp(c conf.Pattern) (*syntax.Regexp, *conf.Error) {
	re, err := syntax.Parse(c.Text, syntax.Perl)
	if err != nil {
		return nil, &conf.Error{Pos: c.Pos, Msg: err.Error()}
	}
	return re, nil
}

// anchor returns text so that it matches from the start of a message. The machine prefers what matches further left; once
// all patterns begin at the start, only their order counts.
func anchor(text string, re *syntax.Regexp) string {
	if isAnchored(re) {
		return text
	}
	if _, err := syntax.Parse("(?:"+text+")", syntax.Perl); err != nil {
		text += `\E` // \Q without an end quotes all that follows
	}
	return "^(?s:.*?)(?:" + text + ")"
}

func isAnchored(re *syntax.Regexp) bool {
	first := re
	for first.Op == syntax.OpConcat || first.Op == syntax.OpCapture {
		first = first.Sub[0]
	}
	return first.Op == syntax.OpBeginText
}

// uids turns user names and numbers into numbers. Root is always trusted and needs no entry.
func uids(names []string, lookup func(string) (uint32, bool)) []uint32 {
	var list []uint32
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 32); err == nil {
			list = append(list, uint32(n))
		} else if uid, ok := lookup(name); ok {
			list = append(list, uid)
		}
	}
	return list
}
