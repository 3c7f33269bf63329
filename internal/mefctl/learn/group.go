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
	"mef/internal/filter"
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

	line  Line
	addrs map[netip.Addr]struct{}
}

// Groups collects lines by shape.
type Groups struct {
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
	group := g.byShape[key]
	if group == nil {
		if len(g.byShape) >= maxGroups {
			g.Left++
			return
		}
		group = &Group{Program: l.Program, Login: l.Login && !l.Refused, line: l, addrs: make(map[netip.Addr]struct{})}
		g.byShape[key] = group
	}
	group.Count++
	if len(group.addrs) < maxSources {
		group.addrs[l.Addr] = struct{}{}
	}
	if len(group.Examples) < maxExamples && !slices.Contains(group.Examples, raw) {
		group.Examples = append(group.Examples, raw)
	}
}

// Sorted returns the groups, those with most lines first. Shapes that differ in one word only, which is not the same in each, are one.
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
	}
	return all
}

// minVariants is how many words must have been seen at one place for the place to vary.
const minVariants = 3

// merge joins groups that differ in one word only, if that word takes several values: a name that nothing announces as one.
func merge(all []*Group) []*Group {
	type place struct {
		key string
		at  int
	}
	variants := make(map[place][]*Group)
	for _, group := range all {
		for i, p := range group.line.pieces {
			if p.kind == text && len(p.text) > 1 {
				other := group.line
				other.pieces = slices.Clone(other.pieces)
				other.pieces[i] = piece{ident, ""}
				variants[place{other.shape(), i}] = append(variants[place{other.shape(), i}], group)
			}
		}
	}
	gone := make(map[*Group]bool)
	for _, first := range all {
		for i, p := range first.line.pieces {
			if gone[first] || p.kind != text || len(p.text) < 2 {
				continue
			}
			other := first.line
			other.pieces = slices.Clone(other.pieces)
			other.pieces[i] = piece{ident, ""}
			same := slices.DeleteFunc(slices.Clone(variants[place{other.shape(), i}]), func(o *Group) bool { return gone[o] })
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
			}
			first.line = other
		}
	}
	return slices.DeleteFunc(all, func(g *Group) bool { return gone[g] })
}

// Rule returns the text of a rule file called name that reads the groups: refused logins count, successful ones make known. files are the
// log files to read where the journal has no entries of the service, none if the journal is enough. The error names a shape for which no safe pattern is found.
func Rule(name string, groups []*Group, files []string) (string, error) {
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
	for _, f := range files {
		fmt.Fprintf(&b, "files=%s\n", f)
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
		_, pattern, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if re, err := regexp.Compile(conf.Expand(pattern)); err == nil {
			read[g.Login] = append(read[g.Login], re)
		}
	}
	return b.String(), nil
}

// readBy reports whether the expression matches all lines of the group.
func (g *Group) readBy(re *regexp.Regexp) bool {
	return !slices.ContainsFunc(g.Examples, func(raw string) bool {
		_, message := filter.Split([]byte(raw))
		return !re.Match(message)
	})
}

// safe returns the line of a group's pattern, in the freest form with which the linter agrees.
func safe(head string, g *Group) (string, error) {
	key := "failregex"
	if g.Login {
		key = "okregex"
	}
	var last error
	for _, f := range forms {
		line := key + "=" + g.line.pattern(f) + "\n"
		text := head + line
		if g.Login {
			text += "failregex=^<HOST>$\n" // a rule wants one
		}
		rule, notices, errs := rulefile.Parse("proposal", []byte(text), nil)
		kept := len(rule.Fail)
		if g.Login {
			kept = len(rule.OK)
		}
		if len(errs) == 0 && kept > 0 {
			return line, nil
		}
		last = errs.Err()
		if last == nil && len(notices) > 0 {
			last = errors.New(notices[0].Text) // why it was refused; what follows from that comes behind
		}
	}
	return "", fmt.Errorf("no safe pattern for %q: %w", g.Examples[0], last)
}
