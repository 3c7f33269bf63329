package foreign_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"mef/internal/rules"
	"mef/internal/rules/foreign"
	"mef/internal/rules/foreign/foreigntest"
	"mef/internal/rules/rulestest"
)

// parse reads a text that Translate made.
func parse(t testing.TB, text string) *rules.Policy {
	t.Helper()
	src, err := rules.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return src.Policy(rules.Facts{})
}

// TestPoliciesDoAsRulesetsDo translates random rulesets, and follows random packets through both.
func TestPoliciesDoAsRulesetsDo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sure, all := 0, 0
	for range 3000 {
		rs := foreigntest.Random(r, foreigntest.RandomMatch)
		res := foreign.Translate(rs, "a test")
		policy := parse(t, res.Text)
		if canonical, err := rules.Format("mef.rules", []byte(res.Text)); err != nil || string(canonical) != res.Text {
			t.Fatalf("not in canonical form: %v\n%s\nwant\n%s", err, res.Text, canonical)
		}
		gre := names(rs, 47)
		for range 100 {
			p := rulestest.Packet(r)
			if all++; gre && p.Proto == 47 || p.Dir == rules.Forward && (p.In == rules.Loopback || p.Out == rules.Loopback) {
				continue // it cannot be named, or there are no such packets
			}
			want := foreigntest.Follow(rs, p)
			if !want.Sure {
				continue
			}
			sure++
			got := policy.Decide(p)
			if got.Action != want.Action {
				t.Fatalf("%s %s: %s, want %s; left %v\n%s", p.Dir, p, got, want.Action, res.Left, res.Text)
			}
			if logged := got.Rule != nil && got.Rule.Log != ""; len(res.Left) == 0 && logged != want.Logged {
				t.Fatalf("%s %s: %s, logged: %v, want %v\n%s", p.Dir, p, got, logged, want.Logged, res.Text)
			}
		}
	}
	if sure < all/3 {
		t.Errorf("only %d of %d packets tell anything", sure, all)
	}
}

// names reports whether a rule names a protocol.
func names(rs *foreign.Ruleset, proto uint8) bool {
	seen := map[*foreign.Chain]bool{}
	var in func(c *foreign.Chain) bool
	in = func(c *foreign.Chain) bool {
		if c == nil || seen[c] {
			return false
		}
		seen[c] = true
		return slices.ContainsFunc(c.Rules, func(r *foreign.Rule) bool {
			return in(r.Target) || slices.ContainsFunc(slices.Concat(r.Any, r.Not), func(m foreign.Match) bool { return slices.Contains(m.Protos, proto) })
		})
	}
	return slices.ContainsFunc(rs.Bases, in)
}
