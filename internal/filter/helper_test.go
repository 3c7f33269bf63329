package filter_test

import (
	"io/fs"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
)

// shippedRules parses the shipped rules.
func shippedRules(t testing.TB) []conf.Rule {
	t.Helper()
	var rules []conf.Rule
	names, err := fs.Glob(filter.Shipped(), "*.conf")
	if err != nil || len(names) == 0 {
		t.Fatalf("shipped rules: %v, %v", names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(filter.Shipped(), name)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, parseRule(name, string(text)))
	}
	return rules
}

const hostPattern = `(?P<ip>\d+\.\d+\.\d+\.\d+|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?)`

func parseRule(file, text string) conf.Rule {
	name := strings.TrimSuffix(file, ".conf")
	r := conf.Rule{Name: name, Service: name, Enabled: true}
	for i, l := range strings.Split(text, "\n") {
		key, value, ok := strings.Cut(l, "=")
		if !ok || strings.HasPrefix(l, "#") {
			continue
		}
		p := conf.Pattern{Text: strings.ReplaceAll(value, "<HOST>", hostPattern), Pos: conf.Pos{File: file, Line: i + 1}}
		switch key {
		case "programs":
			r.Programs = append(r.Programs, strings.Split(value, ",")...)
		case "units":
			r.Units = append(r.Units, strings.Split(value, ",")...)
		case "uids":
			r.UIDs = append(r.UIDs, strings.Split(value, ",")...)
		case "failregex":
			r.Fail = append(r.Fail, p)
		case "echoregex":
			r.Echo = append(r.Echo, p)
		case "proberegex":
			r.Probe = append(r.Probe, p)
		case "orphanregex":
			r.Orphan = append(r.Orphan, p)
		case "peerregex":
			r.Peer = append(r.Peer, p)
		case "okregex":
			r.OK = append(r.OK, p)
		case "ignoreregex":
			r.Ignore = append(r.Ignore, p)
		}
	}
	return r
}

// compile fails the test if the rules are wrong.
func compile(t testing.TB, rules []conf.Rule, opts ...filter.Option) *filter.Set {
	t.Helper()
	set, errs := filter.Compile(rules, opts...)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	return set
}

func all(*conf.Rule) bool { return true }

// line returns a line of a file.
func line(text string) *event.Line { return &event.Line{Text: []byte(text)} }
