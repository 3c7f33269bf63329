package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
)

// defaults are the values that a field has where it is left out.
var defaults = map[string]string{
	"family": "any", "log": "none", "ratelimit": "any", "iif": "any", "oif": "any", "src": "any", "dst": "any", "sport": "any",
	"dport": "any", "proto": "all", "icmp-type": "any", "tcp-flags": "any", "ct": "any", "owner": "any", "limit": "any", "helper": "none", "comment": "", "type": "addr",
}

// String returns the statement in its canonical form: keys in their order, without those that have their default value.
func (s *Statement) String() string {
	if f := s.field("include"); f != nil {
		return "include=" + quoted(f.Value)
	}
	var b strings.Builder
	b.WriteString(s.Kind)
	for _, key := range kinds[s.Kind].keys {
		f := s.field(key)
		if f == nil || isDefault(s.Kind, f) {
			continue
		}
		b.WriteString(" " + key + "=")
		if key == "comment" {
			b.WriteString(inQuotes(f.Value))
		} else {
			b.WriteString(quoted(f.Value))
		}
	}
	return b.String()
}

func isDefault(kind string, f *Field) bool {
	if kind == "expect" && f.Key == "ct" {
		return f.Value == "new"
	}
	if kind == "expect" && f.Key == "tcp-flags" {
		return false // the default depends on ct
	}
	value, ok := defaults[f.Key]
	return ok && f.Value == value && (f.Key != "type" || kind == "set") && (f.Key != "proto" || kind == "nat")
}

// quoted returns a value as it is written: in quotes if it has to be.
func quoted(value string) string {
	if strings.ContainsAny(value, " \t") || strings.HasPrefix(value, `"`) {
		return inQuotes(value)
	}
	return value
}

func inQuotes(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

// Format returns the text of a file in its canonical form: one blank between fields, these in their order, without those that say
// what holds anyway. Comments and blank lines stay, but for blank lines that follow each other. The error is a conf.Errors.
func Format(path string, text []byte) ([]byte, error) {
	all, errs := scan(path, text, maxLine)
	r := reader{src: &Source{}, errs: errs}
	var out bytes.Buffer
	blankLine := true
	for i := range all {
		st := &all[i]
		if st.Kind == "" {
			if st.Comment != "" || !blankLine {
				out.WriteString(st.Comment + "\n")
			}
			blankLine = st.Comment == ""
			continue
		}
		blankLine = false
		kind, ok := kinds[st.Kind]
		if !ok {
			r.statement(st) // reports it
			continue
		}
		if r.keys(st, kind.keys, nil) {
			out.WriteString(st.String())
			if st.Comment != "" {
				out.WriteString("  " + st.Comment)
			}
			out.WriteByte('\n')
		}
	}
	if err := r.errs.Err(); err != nil {
		return nil, err
	}
	return append(bytes.TrimRight(out.Bytes(), "\n"), '\n'), nil
}

// Freeze returns the policy as a text for Thaw that needs nothing else: includes, files of sets, names of hosts and the interfaces of default
// routes are replaced by what they stand for now. Expectations are left out, which were met when it was made. Countries become sets.
func (s *Source) Freeze(facts Facts) []byte {
	sets := map[string]*Set{}
	var out bytes.Buffer
	for _, g := range slices.SortedFunc(maps.Keys(s.Groups()), conf.GeoGroup.Compare) {
		name := groupSet(g)
		st := s.frozenSet(Statement{Kind: "set", At: s.sets[name].At, Fields: []Field{{Key: "name", Value: name}}}, s.resolve(name, facts, sets))
		fmt.Fprintf(&out, "%s%s%s:%d\n", st.String(), placeMark, legible(st.At.File), st.At.Line)
	}
	for _, st := range s.Statements {
		switch st.Kind {
		case "expect":
			continue
		case "set":
			st = s.frozenSet(st, s.resolve(st.field("name").Value, facts, sets))
		case "rule", "nat":
			st.Fields = slices.Clone(st.Fields)
			for i, f := range st.Fields {
				switch {
				case f.Key == "sport" || f.Key == "dport":
					st.Fields[i].Value = portNumbers(f.Value)
				case f.Key == "owner":
					if o, err := owners(&f); err == nil {
						st.Fields[i].Value = o.Words()
					}
				case (f.Key == "iif" || f.Key == "oif") && f.Value == "auto":
					st.Fields[i].Value = cmp.Or(strings.Join(facts.Auto, ","), "any")
				}
			}
		}
		fmt.Fprintf(&out, "%s%s%s:%d\n", st.String(), placeMark, legible(st.At.File), st.At.Line)
	}
	return out.Bytes()
}

// placeMark stands behind a frozen statement, before the place where it came from.
const placeMark = "  # "

// legible returns a path without what stands in no text: names of files are any bytes.
func legible(path string) string {
	return strings.Map(func(r rune) rune {
		if forbidden(r) {
			return '?'
		}
		return r
	}, path)
}

// placed gives a frozen statement the place that stands behind it.
func (s *Statement) placed() {
	file, line, ok := cutLast(strings.TrimPrefix(s.Comment, strings.TrimSpace(placeMark)+" "), ":")
	if n, err := strconv.Atoi(line); ok && err == nil {
		s.At = conf.Pos{File: file, Line: n, Col: 1}
	}
}

// cutLast cuts s at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// frozenSet returns the statement of a set whose elements are all written out.
func (s *Source) frozenSet(st Statement, set *Set) Statement {
	if set.IPSet != "" {
		return st
	}
	list := slices.Clone(set.Links)
	for _, r := range set.In {
		list = append(list, r.String())
	}
	for _, r := range set.Addrs.Ranges() {
		list = append(list, RangeText(r))
	}
	if len(list) == 0 {
		list = []string{nothing}
	}
	keep := slices.DeleteFunc(slices.Clone(st.Fields), func(f Field) bool { return f.Key == "elements" || f.Key == "file" })
	st.Fields = append(keep, Field{Key: "elements", Value: strings.Join(list, ",")})
	return st
}
