package filter_test

import (
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/logtext"
)

// Whoever writes a part of a line, such as the name of a user, an agent or a path, writes what he likes: also a whole message of this or
// any other rule, with the address of somebody else. For each sample, put into each part that its pattern leaves free each sample of all
// rules: the sample's own address and kind stay as they are, or the line says nothing.
func TestNoMessageHidesInAField(t *testing.T) {
	rules := shippedRules(t)
	views := compile(t, rules).Views()
	texts := hostileTexts(t, rules)
	step := 5
	if testing.Short() {
		step = 97
	}
	forged, fields := 0, 0
	for _, rule := range rules {
		if rule.JSON != nil {
			continue // the daemon escapes what the peer writes, see TestJSON
		}
		v := views.View(func(r *conf.Rule) bool { return r.Name == rule.Name }) // as its file is read
		patterns := fieldPatterns(t, rule)
		for _, s := range readSamples(t, rule.Name) {
			var m filter.Match
			if !v.Match(line(s.text), &m) || !m.Addr.IsValid() {
				continue
			}
			addr, kind := m.Addr, m.Kind
			for _, f := range fieldsOf(s.text, addr, patterns) {
				if f.user && kind == event.Success || checkedByDaemon(rule.Name, s.text, f) { // a user who is let in exists
					continue
				}
				fields++
				for i := fields % step; i < len(texts); i += step {
					text := s.text[:f.start] + f.accepted(texts[i]) + s.text[f.end:]
					forged++
					if !v.Match(line(text), &m) || !m.Addr.IsValid() {
						continue
					}
					if m.Addr != addr || m.Kind != kind && m.Kind == event.Success {
						t.Errorf("%s.log:%d: %v of %v, want %v of %v, with %q for %q\n%s", rule.Name, s.number, m.Kind, m.Addr, kind, addr, texts[i], s.text[f.start:f.end], text)
						break
					}
				}
			}
		}
	}
	t.Logf("%d lines of %d fields", forged, fields)
}

// hostileTexts returns all samples with a victim's address in place of theirs, whole and without their headers.
func hostileTexts(t *testing.T, rules []conf.Rule) []string {
	const victim = "198.51.100.77"
	var texts []string
	for _, rule := range rules {
		for _, s := range readSamples(t, rule.Name) {
			text := s.text
			for word := range strings.FieldsSeq(s.want) {
				if _, err := netip.ParseAddr(word); err == nil {
					text = strings.ReplaceAll(text, word, victim)
				}
			}
			texts = append(texts, text)
			if tail := strings.Index(text, ": "); tail > 0 {
				texts = append(texts, "x "+text[tail+2:])
			}
		}
	}
	return texts
}

// A fieldPattern is a rule's pattern with a group around each part that is free text.
type fieldPattern struct {
	re     *regexp.Regexp
	fields []fieldGroup
}

// A fieldGroup is a group of a pattern, and what it accepts.
type fieldGroup struct {
	group  int
	user   bool
	accept *regexp.Regexp // of one character; nil: any
}

// A field is a part of a sample that the peer may have written.
type field struct {
	fieldGroup
	start, end int
}

// fieldPatterns returns the rule's patterns.
func fieldPatterns(t *testing.T, rule conf.Rule) []fieldPattern {
	t.Helper()
	var out []fieldPattern
	for _, list := range [][]conf.Pattern{rule.Fail, rule.Attempt, rule.Echo, rule.Probe, rule.OK} {
		for _, p := range list {
			re, err := syntax.Parse(p.Text, syntax.Perl)
			if err != nil {
				t.Fatal(err)
			}
			w := wrapper{next: re.MaxCap() + 1}
			w.wrap(re, false)
			compiled, err := regexp.Compile(re.String())
			if err != nil {
				t.Fatalf("%s: %v", p.Text, err)
			}
			var unnamed []int
			for i, name := range compiled.SubexpNames() {
				if i > 0 && name == "" {
					unnamed = append(unnamed, i)
				}
			}
			if len(unnamed) != len(w.fields) {
				t.Fatalf("%s: %d groups without name, want %d", p.Text, len(unnamed), len(w.fields))
			}
			for i := range w.fields {
				w.fields[i].group = unnamed[i]
			}
			out = append(out, fieldPattern{compiled, w.fields})
		}
	}
	return out
}

// A wrapper puts groups around the free parts of an expression.
type wrapper struct {
	next   int
	fields []fieldGroup
}

func (w *wrapper) wrap(re *syntax.Regexp, user bool) {
	if re.Op == syntax.OpCapture && re.Name == "ip" {
		return
	}
	user = user || re.Op == syntax.OpCapture && re.Name == "user"
	for i, sub := range re.Sub {
		if accept, ok := freePart(sub); ok {
			w.fields = append(w.fields, fieldGroup{user: user, accept: accept})
			re.Sub[i] = &syntax.Regexp{Op: syntax.OpCapture, Cap: w.next, Sub: []*syntax.Regexp{sub}}
			w.next++
			continue
		}
		w.wrap(sub, user)
	}
}

// freePart reports whether re is a repetition of characters among which are letters, and which these are.
func freePart(re *syntax.Regexp) (accept *regexp.Regexp, ok bool) {
	if re.Op != syntax.OpStar && re.Op != syntax.OpPlus && re.Op != syntax.OpRepeat {
		return nil, false
	}
	switch char := re.Sub[0]; char.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return nil, true
	case syntax.OpCharClass:
		accept = regexp.MustCompile("^" + char.String() + "$")
	case syntax.OpAlternate: // (?:[^"\\]|\\.)*
		for _, sub := range char.Sub {
			if sub.Op == syntax.OpCharClass {
				accept = regexp.MustCompile("^" + sub.String() + "$")
			}
		}
	}
	return accept, accept != nil && accept.MatchString("g") && accept.MatchString("z")
}

// fieldsOf returns the free parts of a line, by the first pattern that finds the address in it.
func fieldsOf(text string, addr netip.Addr, patterns []fieldPattern) []field {
	for start := 0; start < len(text); start++ {
		if start > 0 && text[start-1] != ' ' && text[start-1] != '\t' {
			continue
		}
		for _, p := range patterns {
			loc := p.re.FindStringSubmatchIndex(text[start:])
			if loc == nil || loc[0] != 0 {
				continue
			}
			if ip := p.re.SubexpIndex("ip"); loc[2*ip] < 0 || !sameAddr(text[start+loc[2*ip]:start+loc[2*ip+1]], addr) {
				continue
			}
			var out []field
			for _, g := range p.fields {
				if at := loc[2*g.group]; at >= 0 {
					out = append(out, field{g, start + at, start + loc[2*g.group+1]})
				}
			}
			return out
		}
	}
	return nil
}

func sameAddr(text string, addr netip.Addr) bool {
	got, ok := logtext.Addr([]byte(text))
	return ok && got == addr
}

// accepted returns what of the text the peer can put into the field: all of it, if that is the name of a user or text with blanks, and what the
// pattern accepts, if that is one word, as the name of a host.
func (f field) accepted(text string) string {
	if f.accept == nil || f.user || f.accept.MatchString(" ") {
		return text
	}
	return strings.Map(func(r rune) rune {
		if f.accept.MatchString(string(r)) {
			return r
		}
		return -1
	}, text)
}

// checkedByDaemon reports whether the field is the daemon's own text, or is checked or escaped before it is written.
func checkedByDaemon(rule, text string, f field) bool {
	before, own := text[:f.end], text[f.start:f.end]
	switch {
	case rule == "asterisk" && strings.HasPrefix(own, "2024-"): // the date
		return true
	case rule == "dovecot" && !f.user && (strings.Contains(before, "user=<") || strings.Contains(before, "method=")): // the name comes before them
		return true
	case rule == "sshd" && (own == "not listed in AllowUsers" || own == "Broken pipe "): // reasons of the daemon and the kernel
		return true
	case rule == "ejabberd": // names with blanks are refused
		return f.user
	case strings.Contains(text, `time="`) || text[0] == '{': // values are escaped
		return true
	case strings.Contains(text, " ssh1: ruser "): // this user exists, and is one word
		return f.user
	}
	return false
}
