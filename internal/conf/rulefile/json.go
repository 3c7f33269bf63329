package rulefile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
)

// tests are the operators between a path and a value.
var tests = []struct {
	text string
	test conf.Test
}{{"==", conf.Equal}, {"!=", conf.NotEqual}, {"^=", conf.Begins}}

// maxDepth bounds how deep a path goes, maxTerms the terms of a condition.
const (
	maxDepth = 8
	maxTerms = 16
)

// jsonPath is a path in a JSON object.
func jsonPath(field func(*conf.JSON) *conf.Path) ini.Form[draft] {
	const syntax = "a path in a JSON object such as request.remote_ip"
	return ini.Form[draft]{Syntax: syntax, Set: func(d *draft, s ini.Setting) *ini.Fault {
		p, ok := parsePath(s.Value)
		if !ok {
			return ini.Wrong(0, s.Value, syntax)
		}
		*field(d.json()) = p
		return nil
	}}
}

func parsePath(text string) (conf.Path, bool) {
	p := conf.Path(strings.Split(text, "."))
	return p, len(p) <= maxDepth && !slices.ContainsFunc(p, func(s string) bool {
		return s == "" || len(s) > 64 || strings.ContainsAny(s, " \t\"'=!^<>()&|,")
	})
}

// condition is terms that must all hold, joined by &&.
func condition(field func(*conf.JSON) *[]conf.Condition) ini.Form[draft] {
	const syntax = `comparisons such as status==401 && msg=="x" (==, !=, ^=, path, !path)`
	return ini.Form[draft]{Syntax: syntax, Set: func(d *draft, s ini.Setting) *ini.Fault {
		var c conf.Condition
		for part := range strings.SplitSeq(s.Value, "&&") {
			t, err := parseTerm(strings.TrimSpace(part))
			if err != nil {
				return &ini.Fault{Offset: max(strings.Index(s.Value, part), 0), Msg: err.Error(), Hint: "write " + syntax}
			}
			c = append(c, t)
		}
		list := field(d.json())
		if len(c) > maxTerms || len(*list) >= maxPatterns {
			return &ini.Fault{Msg: "too many conditions", Hint: "split the rule"}
		}
		*list = append(*list, c)
		return nil
	}}
}

func parseTerm(text string) (conf.Term, error) {
	t := conf.Term{Test: conf.Present}
	path := text
	if rest, ok := strings.CutPrefix(text, "!"); ok {
		path, t.Test = rest, conf.Absent
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
				return t, fmt.Errorf("the value in %s needs quotes", diag.Quote(text))
			}
			path, t.Test, t.Value = strings.TrimSpace(before), op.test, value
			break
		}
	}
	p, ok := parsePath(path)
	if !ok {
		return t, fmt.Errorf("%s is not a path in a JSON object", diag.Quote(path))
	}
	t.Path = p
	return t, nil
}

// json returns the draft's JSON part, which it makes if need be.
func (d *draft) json() *conf.JSON {
	if d.JSON == nil {
		d.JSON = new(conf.JSON)
	}
	return d.JSON
}

// cloneJSON returns a copy of j that shares no list with it; nil if j is nil.
func cloneJSON(j *conf.JSON) *conf.JSON {
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
				f.errs = append(f.errs, &diag.Error{Pos: s.Pos, Msg: key + "= needs lines that are JSON objects", Hint: "add format=json"})
				return
			}
		}
	}
	patterns := len(r.Fail)+len(r.Echo)+len(r.Probe)+len(r.OK) > 0
	conditions := len(r.JSON.Fail)+len(r.JSON.Probe)+len(r.JSON.OK) > 0
	switch {
	case patterns && len(r.JSON.Message) == 0:
		f.errs = append(f.errs, &diag.Error{Pos: r.Pos, Msg: "patterns of a rule with format=json have no text to match", Hint: "add message="})
	case conditions && len(r.JSON.Addr) == 0:
		f.errs = append(f.errs, &diag.Error{Pos: r.Pos, Msg: "a rule with when= has no path of the address", Hint: "add addr="})
	}
}

// jsonKeys are the keys that mean something in a rule with format=json only.
var jsonKeys = []string{"addr", "user", "message", "when", "okwhen", "probewhen"}
