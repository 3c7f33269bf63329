package conf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Path leads to a value of a JSON object: request.remote_ip is the member remote_ip of the member request. A number selects an
// element of an array.
type Path []string

// String returns the path as it is written in a rule.
func (p Path) String() string { return strings.Join(p, ".") }

// A JSON reports how a rule reads lines that are JSON objects.
type JSON struct {
	Addr    Path // the address, with or without a port
	User    Path
	Message Path // the text that the rule's patterns are matched against

	// A line for which all terms of one condition hold is an event of that kind.
	Fail, Probe, OK []Condition
}

// Paths returns all paths that the rule reads.
func (j *JSON) Paths() []Path {
	paths := []Path{j.Addr, j.User, j.Message}
	for _, list := range [][]Condition{j.Fail, j.Probe, j.OK} {
		for _, c := range list {
			for _, t := range c {
				paths = append(paths, t.Path)
			}
		}
	}
	return slices.DeleteFunc(paths, func(p Path) bool { return len(p) == 0 })
}

// A Condition is terms that must all hold.
type Condition []Term

// A Term compares one value of a line. Numbers, true, false and null are compared as they are written, strings by their content.
type Term struct {
	Path  Path
	Test  Test
	Value string
}

// A Test is what a term demands of its value.
type Test uint8

// The tests. A value that is not there equals nothing, and is not present.
const (
	Equal    Test = iota // ==
	NotEqual             // !=: the value is there, and another
	Begins               // ^=
	Present              // the path alone: there, and neither null, false nor empty
	Absent               // !path
)

// tests are the operators between a path and a value.
var tests = []struct {
	text string
	test Test
}{{"==", Equal}, {"!=", NotEqual}, {"^=", Begins}}

// maxDepth bounds how deep a path goes, maxTerms the terms of a condition.
const (
	maxDepth = 8
	maxTerms = 16
)

// jsonPath is a path in a JSON object.
func jsonPath(field func(*JSON) *Path) form[draft] {
	const syntax = "a path in a JSON object such as request.remote_ip"
	return form[draft]{syntax: syntax, set: func(d *draft, s setting) *fault {
		p, ok := parsePath(s.value)
		if !ok {
			return wrong(0, s.value, syntax)
		}
		*field(d.json()) = p
		return nil
	}}
}

func parsePath(text string) (Path, bool) {
	p := Path(strings.Split(text, "."))
	return p, len(p) <= maxDepth && !slices.ContainsFunc(p, func(s string) bool {
		return s == "" || len(s) > 64 || strings.ContainsAny(s, " \t\"'=!^<>()&|,")
	})
}

// condition is terms that must all hold, joined by &&.
func condition(field func(*JSON) *[]Condition) form[draft] {
	const syntax = `comparisons such as status==401 && msg=="x" (==, !=, ^=, path, !path)`
	return form[draft]{syntax: syntax, set: func(d *draft, s setting) *fault {
		var c Condition
		for part := range strings.SplitSeq(s.value, "&&") {
			t, err := parseTerm(strings.TrimSpace(part))
			if err != nil {
				return &fault{max(strings.Index(s.value, part), 0), err.Error(), "write " + syntax}
			}
			c = append(c, t)
		}
		list := field(d.json())
		if len(c) > maxTerms || len(*list) >= maxPatterns {
			return &fault{0, "too many conditions", "split the rule"}
		}
		*list = append(*list, c)
		return nil
	}}
}

func parseTerm(text string) (Term, error) {
	t := Term{Test: Present}
	path := text
	if rest, ok := strings.CutPrefix(text, "!"); ok {
		path, t.Test = rest, Absent
	} else {
		for _, op := range tests {
			before, after, found := strings.Cut(text, op.text)
			if !found {
				continue
			}
			value := strings.TrimSpace(after)
			if strings.HasPrefix(value, `"`) {
				unquoted, err := strconv.Unquote(value)
				if err != nil {
					return t, fmt.Errorf("%s is not a string", value)
				}
				value = unquoted
			} else if value == "" || strings.ContainsAny(value, " \t\"") {
				return t, fmt.Errorf("the value in %s needs quotes", Quote(text))
			}
			path, t.Test, t.Value = strings.TrimSpace(before), op.test, value
			break
		}
	}
	p, ok := parsePath(path)
	if !ok {
		return t, fmt.Errorf("%s is not a path in a JSON object", Quote(path))
	}
	t.Path = p
	return t, nil
}

// json returns the draft's JSON part, which it makes if need be.
func (d *draft) json() *JSON {
	if d.JSON == nil {
		d.JSON = new(JSON)
	}
	return d.JSON
}

// clone returns a copy of j that shares no list with it; nil if j is nil.
func (j *JSON) clone() *JSON {
	if j == nil {
		return nil
	}
	c := *j
	c.Fail, c.Probe, c.OK = slices.Clone(j.Fail), slices.Clone(j.Probe), slices.Clone(j.OK)
	return &c
}

// checkJSON finds what is wrong with the JSON part of a rule.
func (f *ruleFile) checkJSON() {
	r := &f.rule
	if r.JSON == nil {
		return
	}
	if _, ok := f.set["format"]; !ok && !r.isJSON {
		for _, key := range jsonKeys {
			if s, ok := f.set[key]; ok {
				f.errs = append(f.errs, &Error{s.pos, key + "= needs lines that are JSON objects", "add format=json"})
				return
			}
		}
	}
	patterns := len(r.Fail)+len(r.Echo)+len(r.Probe)+len(r.OK) > 0
	conditions := len(r.JSON.Fail)+len(r.JSON.Probe)+len(r.JSON.OK) > 0
	switch {
	case patterns && len(r.JSON.Message) == 0:
		f.errs = append(f.errs, &Error{r.Pos, "patterns of a rule with format=json have no text to match", "add message="})
	case conditions && len(r.JSON.Addr) == 0:
		f.errs = append(f.errs, &Error{r.Pos, "a rule with when= has no path of the address", "add addr="})
	}
}

// jsonKeys are the keys that mean something in a rule with format=json only.
var jsonKeys = []string{"addr", "user", "message", "when", "okwhen", "probewhen"}
