package policy

import (
	"cmp"
	"slices"
	"strings"
)

// Links is a set of interfaces: ranges of names, in the order of bytes, which is why a pattern is one range. The zero value is empty.
type Links struct {
	in []span // sorted, with gaps between them
}

// A span is a range of names from first up to end, which is not part of it.
type span struct {
	first, end string
	endless    bool // there is no end
}

// AllLinks returns all interfaces.
func AllLinks() Links { return Links{[]span{{endless: true}}} }

// LinksOf returns a set of interfaces by their names, and by patterns such as wg*.
func LinksOf(names ...string) Links {
	var spans []span
	for _, name := range names {
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			spans = append(spans, prefixSpan(prefix))
		} else {
			spans = append(spans, span{first: name, end: name + "\x00"})
		}
	}
	return merged(spans)
}

// prefixSpan returns the range of names that begin with a prefix.
func prefixSpan(prefix string) span {
	for n := len(prefix); n > 0; n-- {
		if c := prefix[n-1]; c < 0xff {
			return span{first: prefix, end: prefix[:n-1] + string([]byte{c + 1})}
		}
	}
	return span{first: prefix, endless: true}
}

// before reports whether the range ends at a name or before it.
func (s span) before(name string) bool { return !s.endless && s.end <= name }

// ends compares the ends of two ranges.
func ends(a, b span) int {
	switch {
	case a.endless && b.endless:
		return 0
	case a.endless:
		return 1
	case b.endless:
		return -1
	}
	return strings.Compare(a.end, b.end)
}

func merged(spans []span) Links {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && (out[n-1].endless || s.first <= out[n-1].end) {
			if ends(out[n-1], s) < 0 {
				out[n-1].end, out[n-1].endless = s.end, s.endless
			}
			continue
		}
		out = append(out, s)
	}
	return Links{out}
}

// Has reports whether an interface is in the set.
func (l Links) Has(name string) bool {
	return slices.ContainsFunc(l.in, func(s span) bool { return s.first <= name && !s.before(name) })
}

// Empty reports whether no interface is in the set.
func (l Links) Empty() bool { return len(l.in) == 0 }

// Equal reports whether the sets are the same.
func (l Links) Equal(o Links) bool { return slices.Equal(l.in, o.in) }

// all reports whether every interface is in the set.
func (l Links) all() bool { return len(l.in) == 1 && l.in[0].endless && l.in[0].first == "" }

// Meet returns the interfaces that are in both sets.
func (l Links) Meet(o Links) (both Links) {
	if l.all() {
		return o
	}
	if o.all() {
		return l
	}
	for i, j := 0, 0; i < len(l.in) && j < len(o.in); {
		a, b := l.in[i], o.in[j]
		first := max(a.first, b.first)
		if !a.before(first) && !b.before(first) {
			s := span{first: first, end: a.end, endless: a.endless}
			if ends(b, a) < 0 {
				s.end, s.endless = b.end, b.endless
			}
			both.in = append(both.in, s)
		}
		if ends(a, b) < 0 {
			i++
		} else {
			j++
		}
	}
	return both
}

func (l Links) meets(o Links) bool {
	if l.all() || o.all() {
		return !l.Empty() && !o.Empty()
	}
	for i, j := 0, 0; i < len(l.in) && j < len(o.in); {
		switch {
		case l.in[i].before(o.in[j].first):
			i++
		case o.in[j].before(l.in[i].first):
			j++
		default:
			return true
		}
	}
	return false
}

// Others returns the interfaces that are not in the set.
func (l Links) Others() (others Links) {
	next := span{endless: true}
	for _, s := range l.in {
		if next.first < s.first {
			others.in = append(others.in, span{first: next.first, end: s.first})
		}
		if s.endless {
			return others
		}
		next.first = s.end
	}
	others.in = append(others.in, next)
	return others
}

// Minus returns the interfaces that are not in o.
func (l Links) Minus(o Links) Links {
	if o.all() {
		return Links{}
	}
	return l.Meet(o.Others())
}

// Names returns the names and patterns that make up the set, or those that it has not if not is true. It is false if there is no
// such list, as for a pattern with an exception.
func (l Links) Names() (names []string, not, ok bool) {
	if n := len(l.in); n > 0 && l.in[n-1].endless {
		names, ok = l.Others().list()
		return names, true, ok
	}
	names, ok = l.list()
	return names, false, ok
}

// maxAtoms is how many names and patterns a range is written as, at most.
const maxAtoms = 300

// list returns the names and patterns that make up the set.
func (l Links) list() (names []string, ok bool) {
	for _, s := range l.in {
		for at := s.first; at != s.end; {
			wide, name := prefixSpan(at), span{first: at, end: at + "\x00"}
			switch {
			case s.endless || len(names) == maxAtoms || strings.HasSuffix(at, "\x00"):
				return nil, false
			case at != "" && ends(wide, s) <= 0:
				names, at = append(names, at+"*"), wide.end
			default:
				names, at = append(names, at), name.end
			}
		}
	}
	return names, true
}

// sample returns a name of the set, an ordinary one if there is one.
func (l Links) sample() string {
	usual := []string{"eth0", "eth1", "eth2", "wlan0"}
	for _, s := range l.in {
		prefix := strings.TrimRight(s.first, "\x00")
		usual = append(usual, prefix+"0", prefix+"1", prefix, prefix+"2", prefix+"a", prefix+"z")
	}
	for _, name := range usual {
		if l.Has(name) && (isInterface(name) || name == "") {
			return name
		}
	}
	return "any"
}

// Words returns the set for people: as it would be written, or "wg* without wg0".
func (l Links) Words() string {
	names, not, ok := l.Names()
	names = slices.DeleteFunc(names, func(name string) bool { return not && name == Loopback })
	switch {
	case !ok:
		return l.wordsByPattern()
	case not && len(names) == 0:
		return "any"
	case not:
		return "!" + some(names)
	}
	return some(names)
}

// wordsByPattern returns a set for which there is no list: the pattern that all fit, and what is not in it.
func (l Links) wordsByPattern() string {
	prefix := l.in[0].first
	for _, s := range l.in {
		for prefix != "" && ends(s, prefixSpan(prefix)) > 0 {
			prefix = prefix[:len(prefix)-1]
		}
	}
	all := AllLinks()
	if prefix != "" {
		all = LinksOf(prefix + "*")
	}
	if names, ok := all.Minus(l).list(); ok {
		return prefix + "* without " + some(names)
	}
	return "some of " + prefix + "*"
}
