package learn

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
)

const (
	// maxGroups bounds how many shapes are reported apart.
	maxGroups = 5000
	// maxSources bounds how many addresses of a shape are reported apart.
	maxSources = 1000
	// maxExamples is how many lines of a shape are kept, to try the rule.
	maxExamples = 20
)

// A Group is lines of one shape.
type Group struct {
	Program  string   `json:"program"`
	Count    int      `json:"count"`
	Sources  int      `json:"sources"` // distinct addresses, at most 1,000
	Login    bool     `json:"login"`   // successful logins, not refused ones
	Pattern  string   `json:"pattern"`
	Examples []string `json:"examples"`

	// File is the log file of the lines, if Groups.File was set.
	File string `json:"file,omitempty"`

	line  Line
	texts []string // of Examples: the texts that a pattern is matched against
	addrs map[netip.Addr]struct{}
}

// Groups collects lines by shape.
type Groups struct {
	// File is where the lines come from that are added next; empty if that does not matter.
	File string

	byShape map[string]*Group
	// Left is how many lines had a shape for which there was no room.
	Left int
}

// Add adds a line that Read has cut.
func (g *Groups) Add(raw string, l Line) {
	if g.byShape == nil {
		g.byShape = make(map[string]*Group)
	}
	key := l.shape()
	if l.Program == "" {
		key = g.File + "\x00" + key // nothing else identifies the program
	}
	group := g.byShape[key]
	if group == nil {
		if len(g.byShape) >= maxGroups {
			g.Left++
			return
		}
		group = &Group{Program: l.Program, Login: l.Login && !l.Refused, line: l, addrs: make(map[netip.Addr]struct{})}
		if l.Program == "" {
			group.File = g.File
		}
		g.byShape[key] = group
	}
	group.Count++
	if len(group.addrs) < maxSources {
		group.addrs[l.Addr] = struct{}{}
	}
	if len(group.Examples) < maxExamples && !slices.Contains(group.Examples, raw) {
		group.Examples = append(group.Examples, raw)
		group.texts = append(group.texts, l.text)
	}
}

// Sorted returns the groups, those with most lines first. Shapes that differ only in one word, which has several values, are one group.
func (g *Groups) Sorted() []*Group {
	all := make([]*Group, 0, len(g.byShape))
	for _, group := range g.byShape {
		all = append(all, group)
	}
	order := func(a, b *Group) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Examples[0], b.Examples[0]))
	}
	slices.SortFunc(all, order)
	all = merge(all)
	slices.SortFunc(all, order)
	for _, group := range all {
		group.Sources, group.Pattern = len(group.addrs), group.line.pattern(forms[0])
		if o := group.line.object; o != nil && o.condition != "" {
			group.Pattern = o.condition
		}
	}
	return all
}

// minVariants is how many words must have been seen at one place for the place to vary.
const minVariants = 3

// merge joins groups that differ in one word only, if that word takes several values: a name that no word in front of it announces.
func merge(all []*Group) []*Group {
	type place struct {
		key string
		at  int
	}
	variants := make(map[place][]*Group)
	for _, group := range all {
		for i, p := range group.line.pieces {
			if p.kind == pieceText && len(p.text) > 1 {
				at := place{group.without(i), i}
				variants[at] = append(variants[at], group)
			}
		}
	}
	gone := make(map[*Group]bool)
	for _, first := range all {
		for i, p := range first.line.pieces {
			if gone[first] || p.kind != pieceText || len(p.text) < 2 {
				continue
			}
			same := slices.DeleteFunc(slices.Clone(variants[place{first.without(i), i}]), func(o *Group) bool { return gone[o] })
			if len(same) < minVariants {
				continue
			}
			for _, o := range same {
				if o == first {
					continue
				}
				gone[o] = true
				first.Count += o.Count
				for a := range o.addrs {
					first.addrs[a] = struct{}{}
				}
				first.Examples = append(first.Examples, o.Examples...)
				first.Examples = first.Examples[:min(len(first.Examples), maxExamples)]
				first.texts = append(first.texts, o.texts...)
				first.texts = first.texts[:len(first.Examples)]
			}
			first.line.pieces = slices.Clone(first.line.pieces)
			first.line.pieces[i] = piece{ident, ""}
		}
	}
	return slices.DeleteFunc(all, func(g *Group) bool { return gone[g] })
}

// without returns the shape of the group if the piece at i may be any word.
func (g *Group) without(i int) string {
	l := g.line
	l.pieces = slices.Clone(l.pieces)
	l.pieces[i] = piece{ident, ""}
	return g.File + "\x00" + l.shape()
}

// Rule returns the text of a rule file called name that reads the groups: failregex for refused logins, okregex for successful ones. where has the keys
// for what it reads besides the journal: "files=/var/log/shop.log", "containers=shop". The error names a shape for which no safe pattern is found.
func Rule(name string, groups []*Group, where []string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "[rule]\nname=%s\nservice=%s\n", name, name)
	var programs []string
	for _, g := range groups {
		if g.Program != "" && !slices.Contains(programs, g.Program) {
			programs = append(programs, g.Program)
		}
	}
	if len(programs) > 0 {
		fmt.Fprintf(&b, "programs=%s\n", strings.Join(programs, ","))
	} else {
		b.WriteString("source=file\n") // only a file has lines without a program
	}
	for _, key := range where {
		b.WriteString(key + "\n")
	}
	if err := writePaths(&b, groups); err != nil {
		return "", err
	}
	head := b.String()
	read := make(map[bool][]*regexp.Regexp) // what the patterns so far match, by Login
	for _, g := range groups {
		if slices.ContainsFunc(read[g.Login], g.readBy) {
			continue // a name of several words, which an earlier group's pattern reads as well
		}
		line, err := safe(head, g)
		if err != nil {
			return "", err
		}
		b.WriteString(line)
		key, pattern, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if re, err := regexp.Compile(conf.Expand(pattern)); err == nil && strings.HasSuffix(key, "regex") {
			read[g.Login] = append(read[g.Login], re)
		}
	}
	return b.String(), nil
}

// writePaths writes the paths of the values of objects. The error names groups that do not fit into one rule.
func writePaths(b *strings.Builder, groups []*Group) error {
	var addr, user, message string
	objects := 0
	for _, g := range groups {
		o := g.line.object
		if o == nil {
			continue
		}
		objects++
		if o.condition == "" && o.message == "" {
			return fmt.Errorf("no value shows whether a login was refused, in %q; write the condition by hand, see when= in mefdaemon.rules(5)", g.Examples[0])
		}
		for _, one := range []struct {
			what     string
			at       string
			chosen   *string
			optional bool
		}{{"address", o.addr, &addr, false}, {"user name", o.user, &user, true}, {"text", o.message, &message, true}} {
			switch {
			case *one.chosen == "" && (objects == 1 || one.optional):
				*one.chosen = one.at
			case *one.chosen != one.at && !(one.optional && one.at == ""):
				return fmt.Errorf("the %s stands at %s in some lines and at %s in others; make a rule of lines of one kind", one.what, pathName(*one.chosen), pathName(one.at))
			}
		}
	}
	if objects == 0 {
		return nil
	}
	if objects < len(groups) {
		return errors.New("some lines are JSON objects and others are not; make a rule of lines of one kind")
	}
	b.WriteString("format=json\n")
	for _, key := range []struct{ name, path string }{{"addr", addr}, {"user", user}, {"message", message}} {
		if key.path != "" {
			fmt.Fprintf(b, "%s=%s\n", key.name, key.path)
		}
	}
	return nil
}

// pathName returns a path for a message.
func pathName(path string) string {
	if path == "" {
		return "no path of its own"
	}
	return path
}

// readBy reports whether the expression matches all lines of the group.
func (g *Group) readBy(re *regexp.Regexp) bool {
	return (g.line.object == nil || g.line.object.condition == "") && !slices.ContainsFunc(g.texts, func(text string) bool { return !re.MatchString(text) })
}

// safe returns the line of a group's pattern, in the freest form with which the linter agrees.
func safe(head string, g *Group) (string, error) {
	condition := ""
	if g.line.object != nil {
		condition = g.line.object.condition
	}
	if condition != "" {
		return g.check(head, "when", "okwhen", condition)
	}
	var last error
	for _, f := range forms {
		line, err := g.check(head, "failregex", "okregex", g.line.pattern(f))
		if err == nil {
			return line, nil
		}
		last = err
	}
	return "", fmt.Errorf("no safe pattern for %q: %w", g.Examples[0], last)
}

// check returns the line of the rule that is head and the line: "fail=value", or "ok=value" of successful logins. The error is why the rule
// would not use it.
func (g *Group) check(head, fail, ok, value string) (string, error) {
	line := fail + "=" + value + "\n"
	text := head + line
	if g.Login {
		line = ok + "=" + value + "\n"
		text += line // a rule needs a refused login too: the same, for this check
	}
	rule, notices, errs := rulefile.Parse("proposal", []byte(text), nil)
	switch kept := len(rule.Fail) + len(rule.OK); {
	case len(errs) > 0:
		return "", errs.Err()
	case rule.JSON != nil && len(rule.JSON.Fail) > 0, kept == strings.Count(text, "\n")-strings.Count(head, "\n"):
		return line, nil
	case len(notices) > 0:
		return "", errors.New(notices[0].Text) // why it was refused; consequences are in later notices
	}
	return "", errors.New("the pattern is not used")
}
