package rulefile

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
)

// groups are the names of groups that mean something.
var groups = []string{"ip", "host", "user", "unknownuser", "count", "session"}

// foreign finds what stands for something in fail2ban's filters only.
var foreign = regexp.MustCompile(`</?F-[A-Z_]+/?>|<(?:IP4|IP6|DNS|CIDR|SUBNET|SKIPLINES)>|%\([^)]*\)s`)

// maxPatterns bounds the patterns of one key of a rule.
const maxPatterns = 200

// patterns is a regular expression, added to those that are there. It must name an address if address is set. The compiled-in
// patterns are not checked here: tests do that, and parsing them would be half of a start.
func patterns(address bool, field func(*conf.Rule) *[]conf.Pattern) ini.Form[draft] {
	return ini.Form[draft]{Syntax: "a regular expression (RE2)", Empty: true, Set: func(d *draft, s ini.Setting) *ini.Fault {
		if s.Value == "" {
			return nil
		}
		expanded := conf.Expand(s.Value)
		if !d.shipped {
			if f := d.checkPattern(s, expanded, address); f != nil {
				return f
			}
		}
		list := field(&d.Rule)
		if len(*list) >= maxPatterns {
			return &ini.Fault{Msg: fmt.Sprintf("more than %d patterns", maxPatterns), Hint: "join some of them with |, or split the rule"}
		}
		*list = append(*list, conf.Pattern{Text: expanded, Pos: s.Pos, Shipped: d.shipped})
		return nil
	}}
}

// checkPattern returns what is wrong with a pattern, and adds notices of what may be.
func (d *draft) checkPattern(s ini.Setting, expanded string, address bool) *ini.Fault {
	re, err := syntax.Parse(expanded, syntax.Perl)
	if f := findForeign(s.Value); f != nil {
		return f
	}
	if err != nil {
		return explain(s.Value, err)
	}
	names := re.CapNames()
	if address && !d.addr && !slices.Contains(names, "ip") && !slices.Contains(names, "host") {
		return &ini.Fault{Msg: "no address in " + diag.Quote(s.Value), Hint: "write <HOST> or (?P<ip>...) where the address is"}
	}
	for i, name := range names {
		if name != "" && slices.Index(names, name) < i {
			return &ini.Fault{Msg: "group " + diag.Quote(name) + " occurs twice", Hint: "write two patterns"}
		}
	}
	d.noticeGroups(s, names)
	return nil
}

func findForeign(text string) *ini.Fault {
	at := foreign.FindStringIndex(text)
	if at == nil {
		return nil
	}
	return &ini.Fault{Offset: at[0], Msg: diag.Quote(text[at[0]:at[1]]) + " is unknown", Hint: "use <HOST>, <ADDR> or <USER>; otherwise write the expression out"}
}

// noticeGroups reports groups whose names mean nothing.
func (d *draft) noticeGroups(s ini.Setting, names []string) {
	for _, name := range names {
		if name == "" || slices.Contains(groups, name) {
			continue
		}
		text := fmt.Sprintf("%s: group %s is unknown", s.Key, diag.Quote(name))
		if hint := diag.DidYouMean(name, groups); hint != "" {
			text += "; " + hint
		}
		d.notices = append(d.notices, diag.Notice{Pos: s.Pos, Text: text})
	}
}

// describesHeader reports whether a pattern of messages expects what stands in front of them in a file: the name of a program with
// its process ID.
func describesHeader(p conf.Pattern) bool {
	return strings.Contains(p.Text, `\[\d+\]:`) && !p.WholeLine()
}

// explain reports what RE2 has against text, and what to write instead where another engine would take it.
func explain(text string, err error) *ini.Fault {
	f := &ini.Fault{Msg: "invalid regular expression: " + err.Error()}
	var at *syntax.Error
	if errors.As(err, &at) {
		f.Msg = "invalid regular expression: " + string(at.Code)
		if i := strings.Index(text, at.Expr); i >= 0 { // else <HOST> is in it
			f.Offset = i
			f.Msg += " " + diag.Quote(at.Expr)
		}
	}
	for _, other := range []struct{ mark, hint string }{
		{"(?=", "RE2 has no lookahead: write what follows as part of the pattern"},
		{"(?!", "RE2 has no lookahead: put what must not match into ignoreregex"},
		{"(?<=", "RE2 has no lookbehind: write what comes before as part of the pattern"},
		{"(?<!", "RE2 has no lookbehind: put what must not match into ignoreregex"},
		{"(?>", "RE2 has no atomic groups and needs none: write (?:"},
		{"(?P=", "RE2 has no back references: repeat its expression"},
		{"++", "RE2 has no possessive repetitions and needs none: remove the last +"},
		{"*+", "RE2 has no possessive repetitions and needs none: remove the last +"},
		{"?+", "RE2 has no possessive repetitions and needs none: remove the last +"},
	} {
		if i := strings.Index(text, other.mark); i >= 0 {
			f.Offset, f.Hint = i, other.hint
			if at != nil {
				f.Msg = "invalid regular expression: " + string(at.Code) + " " + diag.Quote(other.mark)
			}
			return f
		}
	}
	if at != nil && len(at.Expr) == 2 && at.Expr[0] == '\\' && at.Expr[1] >= '1' && at.Expr[1] <= '9' {
		f.Hint = "RE2 has no back references: repeat its expression"
	}
	return f
}
