package filter_test

import (
	"runtime"
	"slices"
	"testing"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/event"
	"mef/internal/filter"
)

// allShipped returns the rules that come with the program.
func allShipped(t testing.TB) []conf.Rule {
	t.Helper()
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// shippedRules returns those of them that are about single lines.
func shippedRules(t testing.TB) []conf.Rule {
	t.Helper()
	return slices.DeleteFunc(allShipped(t), func(r conf.Rule) bool { return r.Web != nil })
}

// parseRule reads a rule as rules.d/NAME.conf has it.
func parseRule(t testing.TB, name, text string) conf.Rule {
	t.Helper()
	rule, _, errs := rulefile.Parse(name, []byte("[rule]\n"+text), nil)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	return rule
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

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
