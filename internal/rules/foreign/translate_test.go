package foreign_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"mef/internal/prefixset"
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
		for range 100 {
			p := rulestest.Packet(r)
			if all++; p.Dir == rules.Forward && (p.In == rules.Loopback || p.Out == rules.Loopback) {
				continue // there are none
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

// one returns a match that is changed.
func one(change func(*foreign.Match)) foreign.Match {
	m := foreign.All()
	change(&m)
	return m
}

func port(n uint16) foreign.Match {
	return one(func(m *foreign.Match) {
		m.Protos = foreign.ProtosOf(6)
		m.Dport = foreign.PortsOf(rules.PortRange{First: n, Last: n})
	})
}

// input returns a ruleset with one base chain.
func input(policy rules.Action, all ...*foreign.Rule) *foreign.Ruleset {
	return &foreign.Ruleset{Source: "A test", Bases: []*foreign.Chain{{Name: "input", Place: "chain input", Dir: rules.In, Family: rules.Any, Policy: policy, Rules: all}}}
}

// ruleOf returns a rule that accepts.
func ruleOf(text string, m foreign.Match) *foreign.Rule {
	return &foreign.Rule{Place: "chain input", Text: text, Any: []foreign.Match{m}, Do: foreign.Decide}
}

// TestReturnThatIsLeftOut sees that packets which a return cannot fit are not led around by it.
func TestReturnThatIsLeftOut(t *testing.T) {
	back := &foreign.Rule{Place: "chain user", Text: "return, on some days", Any: []foreign.Match{foreign.All()}, Do: foreign.Return}
	back.Exclude(one(func(m *foreign.Match) { m.Protos = foreign.ProtosOf(6) }))
	back.Cannot("mef.rules knows no days")
	user := &foreign.Chain{Name: "user", Place: "chain user", Rules: []*foreign.Rule{back, ruleOf("accept", foreign.All())}}
	jump := ruleOf("jump user", foreign.All())
	jump.Do, jump.Target = foreign.Jump, user
	res := foreign.Translate(input(rules.Drop, jump), "a test")
	if want := "\nrule dir=in action=accept proto=tcp\n"; !strings.Contains(res.Text, want) || strings.Contains(res.Text, "accept proto=all") {
		t.Errorf("TCP alone is to be let in:\n%s", res.Text)
	}
	if len(res.Left) != 2 || res.Left[0].Effect != "all that may fit returns instead" {
		t.Errorf("left out: %v", res.Left)
	}
}

// TestTooManyCases has a base chain whose jumps double the cases a few times too often, behind one that has not.
func TestTooManyCases(t *testing.T) {
	last := &foreign.Chain{Name: "last", Rules: []*foreign.Rule{ruleOf("accept", foreign.All())}}
	for range 25 {
		c := &foreign.Chain{Name: "middle"}
		for _, family := range []rules.Family{rules.Any, rules.V4} {
			r := ruleOf("jump", one(func(m *foreign.Match) { m.Family, m.States = family, rules.New }))
			r.Do, r.Target = foreign.Jump, last
			c.Rules = append(c.Rules, r)
		}
		last = c
	}
	rs := input(rules.Drop, ruleOf("tcp dport 22 accept", port(22)))
	rs.Bases = append(rs.Bases, &foreign.Chain{Name: "other", Place: "chain other", Dir: rules.In, Family: rules.Any, Rules: last.Rules})
	res := foreign.Translate(rs, "a test")
	parse(t, res.Text)
	if len(res.Left) != 1 || res.Left[0].Place != "chain other" || !strings.HasSuffix(res.Left[0].Reason, "too many cases") {
		t.Errorf("left out: %v, want chain other", res.Left)
	}
	if !strings.Contains(res.Text, "rule dir=in action=accept proto=tcp dport=22\n") {
		t.Errorf("what comes before is missing in\n%s", res.Text)
	}
	rs = input(rules.Drop, last.Rules...)
	res = foreign.Translate(rs, "a test")
	if policy := parse(t, res.Text); len(res.Left) != 1 || len(policy.Rules) > 0 || policy.Defaults[rules.In].Action != rules.Drop {
		t.Errorf("a chain alone: left out %v, and became\n%s", res.Left, res.Text)
	}
}

// TestLongLists writes lists that do not fit into a rule, nor some of them on a line.
func TestLongLists(t *testing.T) {
	var all []netip.Prefix
	for i := range 20_000 {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32))
	}
	many := prefixset.New(all...)
	some := prefixset.New(all[:100]...)
	addrs := func(a rules.Addrs) foreign.Match {
		a.Given = true
		return one(func(m *foreign.Match) { m.Family, m.Src = rules.V4, a })
	}
	policy := parse(t, foreign.Translate(input(rules.Drop, ruleOf("many", addrs(rules.Addrs{Set: "ip filter many", In: many})), ruleOf("some", addrs(rules.Addrs{In: some})),
		ruleOf("others", addrs(rules.Addrs{Set: "ip other many", In: some}))), "a test").Text)
	for i, want := range map[int]struct {
		set string
		in  prefixset.Set
	}{0: {"many", many}, 2: {"list", some}, 3: {"many-6", some}} {
		if got := policy.Rules[i].Src; got.Set != want.set || !got.In.Equal(want.in) {
			t.Errorf("rule %d has %d addresses of set %q, want %d of %q", i, got.In.Len(), got.Set, want.in.Len(), want.set)
		}
	}
}

// TestTextOfOthers writes what stands in rulesets, and what no policy can have.
func TestTextOfOthers(t *testing.T) {
	const odd = "a\x00b\xffc\nd\"e\\f\tg"
	r := ruleOf(odd, port(22))
	r.Comment, r.Log = odd, &foreign.Log{Prefix: odd + strings.Repeat("x", 100)}
	long := ruleOf(strings.Repeat("ü", 10_000), port(23))
	long.Comment = long.Text
	named := ruleOf("a name", one(func(m *foreign.Match) { m.In = foreign.LinksOf("wlän0") }))
	left := ruleOf(odd, port(24))
	left.Cannot("%s", odd)
	empty := ruleOf("an empty prefix", port(25))
	empty.Log = &foreign.Log{Prefix: " \t"}
	res := foreign.Translate(input(rules.Drop, r, long, named, left, empty), "a test")
	policy := parse(t, res.Text)
	got := [...]string{policy.Rules[0].Comment, policy.Rules[0].Log, policy.Rules[len(policy.Rules)-1].Log}
	if want := [...]string{"a?b?c d\"e\\f g", "a?b?c?d?e?f?gxxxxxxxxxxxxxxx", "mef"}; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if len(res.Left) != 2 || !strings.Contains(res.Left[0].Reason, "wlän0") {
		t.Errorf("left out: %v, want the interface and the odd rule", res.Left)
	}
}

// TestKeepers tells whose chains and tables are whose.
func TestKeepers(t *testing.T) {
	for name, want := range map[string]string{
		"DOCKER": "Docker", "DOCKER-ISOLATION-STAGE-1": "Docker", "DOCKER-USER": "", "f2b-sshd": "fail2ban", "KUBE-FORWARD": "Kubernetes", "MEF-IN": "mef",
		"input": "", "docker": "", "ufw-user-input": "",
	} {
		if got := foreign.KeeperOfChain(name); got != want {
			t.Errorf("chain %s: kept by %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"mefdaemon": "mefdaemon", "mef": "mef", "f2b-table": "fail2ban", "filter": "", "firewalld": ""} {
		if got := foreign.KeeperOfTable(name); got != want {
			t.Errorf("table %s: kept by %q, want %q", name, got, want)
		}
	}
}

// TestOurOwnRulesAreNoneOfTheirs passes by what mef itself has put into a chain of others.
func TestOurOwnRulesAreNoneOfTheirs(t *testing.T) {
	jump := ruleOf("-A INPUT -j MEF-IN", foreign.All())
	jump.Do, jump.Target = foreign.Jump, &foreign.Chain{Name: "MEF-IN", Rules: []*foreign.Rule{ruleOf("x", port(1))}}
	res := foreign.Translate(input(rules.Drop, jump, ruleOf("ssh", port(22))), "a test")
	if len(res.Left) > 0 || strings.Contains(res.Text, "MEF-IN") || !strings.Contains(res.Text, "dport=22") {
		t.Errorf("left out: %v, in\n%s", res.Left, res.Text)
	}
}
