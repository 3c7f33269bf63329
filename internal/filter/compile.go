package filter

import (
	"regexp/syntax"
	"strconv"

	"mef/internal/conf"
)

// compilePattern checks a pattern's syntax and groups. If addressed, something else says where the address is.
func compilePattern(c conf.Pattern, v verdict, addressed bool) (pattern, *conf.Error) {
	p := pattern{verdict: v}
	re, err := compileRegexp(c)
	if err != nil {
		return p, err
	}
	p.text = anchor(c.Text, re)
	for i, name := range re.CapNames() {
		switch name {
		case "ip":
			p.ip = i
		case "host":
			p.host = i
		case "user":
			p.user = i
		case "unknownuser":
			p.unknown = i
		case "count":
			p.count = i
		case "session":
			p.session = i
		}
	}
	p.whole = c.WholeLine()
	if v != orphan && p.ip == 0 && p.host == 0 && !addressed {
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
	first := re
	for first.Op == syntax.OpConcat || first.Op == syntax.OpCapture {
		first = first.Sub[0]
	}
	if first.Op == syntax.OpBeginText {
		return text
	}
	return "^(?s:.*?)(?:" + text + ")"
}

// uids turns user names and numbers into numbers. Root is always believed and needs no entry.
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
