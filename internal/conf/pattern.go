package conf

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// HostPattern is what <HOST> and <ADDR> stand for: an IPv4 or IPv6 address, IPv4-mapped ones too, with or without brackets
// and zone. It only finds where an address stands, so that its automaton stays small; netip.ParseAddr decides what is one.
const HostPattern = `\[?(?P<ip>[0-9A-Fa-f:.]+(?:%[0-9A-Za-z_.-]+)?)\]?`

// UserPattern is what <USER> stands for: a user name as the client sent it, which may be empty and contain anything.
const UserPattern = `(?P<user>.*)`

// Expand returns text with <HOST>, <ADDR> and <USER> replaced by what they stand for.
func Expand(text string) string {
	return strings.NewReplacer("<HOST>", HostPattern, "<ADDR>", HostPattern, "<USER>", UserPattern).Replace(text)
}

// groups are the names of groups that mean something.
var groups = []string{"ip", "host", "user", "unknownuser", "count", "session"}

// foreign finds what stands for something in fail2ban's filters only.
var foreign = regexp.MustCompile(`</?F-[A-Z_]+/?>|<(?:IP4|IP6|DNS|CIDR|SUBNET|SKIPLINES)>|%\([^)]*\)s`)

// maxPatterns bounds the patterns of one key of a rule.
const maxPatterns = 200

// patterns is a regular expression, added to those that are there. It must name an address if address is set.
func patterns(address bool, field func(*Rule) *[]Pattern) form[draft] {
	return form[draft]{syntax: "a regular expression (RE2)", empty: true, set: func(d *draft, s setting) *fault {
		if s.value == "" {
			return nil
		}
		expanded := Expand(s.value)
		re, err := syntax.Parse(expanded, syntax.Perl)
		if f := findForeign(s.value); f != nil {
			return f
		}
		if err != nil {
			return explain(s.value, err)
		}
		names := re.CapNames()
		if address && !d.addr && !slices.Contains(names, "ip") && !slices.Contains(names, "host") {
			return &fault{0, "no address in " + Quote(s.value), "write <HOST> or (?P<ip>...) where the address is"}
		}
		for i, name := range names {
			if name != "" && slices.Index(names, name) < i {
				return &fault{0, "group " + Quote(name) + " occurs twice", "write two patterns"}
			}
		}
		d.noticeGroups(s, names)
		list := field(&d.Rule)
		if len(*list) >= maxPatterns {
			return &fault{0, fmt.Sprintf("more than %d patterns", maxPatterns), "join some of them with |, or split the rule"}
		}
		*list = append(*list, Pattern{Text: expanded, Pos: s.pos, Shipped: d.shipped})
		return nil
	}}
}

func findForeign(text string) *fault {
	at := foreign.FindStringIndex(text)
	if at == nil {
		return nil
	}
	return &fault{at[0], Quote(text[at[0]:at[1]]) + " is unknown", "use <HOST>, <ADDR> or <USER>; otherwise write the expression out"}
}

// noticeGroups reports groups whose names mean nothing.
func (d *draft) noticeGroups(s setting, names []string) {
	for _, name := range names {
		if name == "" || slices.Contains(groups, name) {
			continue
		}
		text := fmt.Sprintf("%s: group %s is unknown", s.key, Quote(name))
		if hint := DidYouMean(name, groups); hint != "" {
			text += "; " + hint
		}
		d.notices = append(d.notices, Notice{s.pos, text})
	}
}

// WholeLine reports whether the pattern begins with a date, so that it is about whole lines and not about messages.
func (p Pattern) WholeLine() bool {
	return strings.HasPrefix(p.Text, `^\d{4}`) || strings.HasPrefix(p.Text, `^[0-9]{4}`) ||
		strings.HasPrefix(p.Text, `^\[?\d{4}-`)
}

// describesHeader reports whether a pattern of messages expects what stands in front of them in a file: the name of a program with
// its process ID.
func describesHeader(p Pattern) bool { return strings.Contains(p.Text, `\[\d+\]:`) && !p.WholeLine() }

// explain reports what RE2 has against text, and what to write instead where another engine would take it.
func explain(text string, err error) *fault {
	f := &fault{0, "invalid regular expression: " + err.Error(), ""}
	var at *syntax.Error
	if errors.As(err, &at) {
		f.msg = "invalid regular expression: " + string(at.Code)
		if i := strings.Index(text, at.Expr); i >= 0 { // else <HOST> is in it
			f.offset = i
			f.msg += " " + Quote(at.Expr)
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
			f.offset, f.hint = i, other.hint
			if at != nil {
				f.msg = "invalid regular expression: " + string(at.Code) + " " + Quote(other.mark)
			}
			return f
		}
	}
	if at != nil && len(at.Expr) == 2 && at.Expr[0] == '\\' && at.Expr[1] >= '1' && at.Expr[1] <= '9' {
		f.hint = "RE2 has no back references: repeat its expression"
	}
	return f
}
