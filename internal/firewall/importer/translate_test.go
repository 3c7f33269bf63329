package importer_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/importertest"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/prefixset"
)

// parse reads a text that Translate made.
func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return src.Policy(policy.Facts{})
}

// TestPoliciesDoAsRulesetsDo translates random rulesets, and follows random packets through both.
func TestPoliciesDoAsRulesetsDo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sure, all := 0, 0
	for range 3000 {
		rs := importertest.Random(r, importertest.RandomMatch)
		res := importer.Translate(rs, "a test")
		pol := parse(t, res.Text)
		if canonical, err := policy.Format("mef.rules", []byte(res.Text)); err != nil || string(canonical) != res.Text {
			t.Fatalf("not in canonical form: %v\n%s\nwant\n%s", err, res.Text, canonical)
		}
		for range 100 {
			p := policytest.Packet(r)
			if all++; p.Dir == policy.Forward && (p.In == policy.Loopback || p.Out == policy.Loopback) {
				continue // there are none
			}
			want := importertest.Follow(rs, p)
			if !want.Sure {
				continue
			}
			sure++
			got := pol.Decide(p)
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
func one(change func(*importer.Match)) importer.Match {
	m := importer.All()
	change(&m)
	return m
}

func port(n uint16) importer.Match {
	return one(func(m *importer.Match) {
		m.Protos = importer.ProtosOf(6)
		m.Dport = importer.PortsOf(policy.PortRange{First: n, Last: n})
	})
}

// input returns a ruleset with one base chain.
func input(pol policy.Action, all ...*importer.Rule) *importer.Ruleset {
	return &importer.Ruleset{Source: "A test", Bases: []*importer.Chain{{Name: "input", Place: "chain input", Dir: policy.In, Family: policy.Any, Policy: pol, Rules: all}}}
}

// ruleOf returns a rule that accepts.
func ruleOf(text string, m importer.Match) *importer.Rule {
	return &importer.Rule{Place: "chain input", Text: text, Any: []importer.Match{m}, Do: importer.Decide}
}

// TestReturnThatIsLeftOut sees that packets which a return cannot fit are not led around by it.
func TestReturnThatIsLeftOut(t *testing.T) {
	back := &importer.Rule{Place: "chain user", Text: "return, on some days", Any: []importer.Match{importer.All()}, Do: importer.Return}
	back.Exclude(one(func(m *importer.Match) { m.Protos = importer.ProtosOf(6) }))
	back.Cannot("mef.rules knows no days")
	user := &importer.Chain{Name: "user", Place: "chain user", Rules: []*importer.Rule{back, ruleOf("accept", importer.All())}}
	jump := ruleOf("jump user", importer.All())
	jump.Do, jump.Target = importer.Jump, user
	res := importer.Translate(input(policy.Drop, jump), "a test")
	if want := "\nrule dir=in action=accept proto=tcp\n"; !strings.Contains(res.Text, want) || strings.Contains(res.Text, "accept proto=all") {
		t.Errorf("TCP alone is to be let in:\n%s", res.Text)
	}
	if len(res.Left) != 2 || res.Left[0].Effect != "all packets that may match return instead" {
		t.Errorf("left out: %v", res.Left)
	}
}

// TestTooManyCases has a base chain whose jumps double the cases a few times too often, behind one that has not.
func TestTooManyCases(t *testing.T) {
	last := &importer.Chain{Name: "last", Rules: []*importer.Rule{ruleOf("accept", importer.All())}}
	for range 25 {
		c := &importer.Chain{Name: "middle"}
		for _, family := range []policy.Family{policy.Any, policy.V4} {
			r := ruleOf("jump", one(func(m *importer.Match) { m.Family, m.States = family, policy.New }))
			r.Do, r.Target = importer.Jump, last
			c.Rules = append(c.Rules, r)
		}
		last = c
	}
	rs := input(policy.Drop, ruleOf("tcp dport 22 accept", port(22)))
	rs.Bases = append(rs.Bases, &importer.Chain{Name: "other", Place: "chain other", Dir: policy.In, Family: policy.Any, Rules: last.Rules})
	res := importer.Translate(rs, "a test")
	parse(t, res.Text)
	if len(res.Left) != 1 || res.Left[0].Place != "chain other" || !strings.HasSuffix(res.Left[0].Reason, "too many cases") {
		t.Errorf("left out: %v, want chain other", res.Left)
	}
	if !strings.Contains(res.Text, "rule dir=in action=accept proto=tcp dport=22\n") {
		t.Errorf("what comes before is missing in\n%s", res.Text)
	}
	rs = input(policy.Drop, last.Rules...)
	res = importer.Translate(rs, "a test")
	if pol := parse(t, res.Text); len(res.Left) != 1 || len(pol.Rules) > 0 || pol.Defaults[policy.In].Action != policy.Drop {
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
	addrs := func(a policy.Addrs) importer.Match {
		a.Given = true
		return one(func(m *importer.Match) { m.Family, m.Src = policy.V4, a })
	}
	pol := parse(t, importer.Translate(input(policy.Drop, ruleOf("many", addrs(policy.Addrs{Set: "ip filter many", In: many})), ruleOf("some", addrs(policy.Addrs{In: some})),
		ruleOf("others", addrs(policy.Addrs{Set: "ip other many", In: some}))), "a test").Text)
	for i, want := range map[int]struct {
		set string
		in  prefixset.Set
	}{0: {"many", many}, 2: {"list", some}, 3: {"many-6", some}} {
		if got := pol.Rules[i].Src; got.Set != want.set || !got.In.Equal(want.in) {
			t.Errorf("rule %d has %d addresses of set %q, want %d of %q", i, got.In.Len(), got.Set, want.in.Len(), want.set)
		}
	}
}

// TestTextOfOthers writes what stands in rulesets, and what no policy can have.
func TestTextOfOthers(t *testing.T) {
	const odd = "a\x00b\xffc\nd\"e\\f\tg"
	r := ruleOf(odd, port(22))
	r.Comment, r.Log = odd, &importer.Log{Prefix: odd + strings.Repeat("x", 100)}
	long := ruleOf(strings.Repeat("ü", 10_000), port(23))
	long.Comment = long.Text
	named := ruleOf("a name", one(func(m *importer.Match) { m.In = policy.LinksOf("wlän0") }))
	left := ruleOf(odd, port(24))
	left.Cannot("%s", odd)
	empty := ruleOf("an empty prefix", port(25))
	empty.Log = &importer.Log{Prefix: " \t"}
	res := importer.Translate(input(policy.Drop, r, long, named, left, empty), "a test")
	pol := parse(t, res.Text)
	got := [...]string{pol.Rules[0].Comment, pol.Rules[0].Log, pol.Rules[len(pol.Rules)-1].Log}
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
		if got := importer.KeeperOfChain(name); got != want {
			t.Errorf("chain %s: kept by %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"mefdaemon": "mefdaemon", "mef": "mef", "f2b-table": "fail2ban", "filter": "", "firewalld": ""} {
		if got := importer.KeeperOfTable(name); got != want {
			t.Errorf("table %s: kept by %q, want %q", name, got, want)
		}
	}
}

// TestOurOwnRulesAreNoneOfTheirs passes by what mef itself has put into a chain of others.
func TestOurOwnRulesAreNoneOfTheirs(t *testing.T) {
	jump := ruleOf("-A INPUT -j MEF-IN", importer.All())
	jump.Do, jump.Target = importer.Jump, &importer.Chain{Name: "MEF-IN", Rules: []*importer.Rule{ruleOf("x", port(1))}}
	res := importer.Translate(input(policy.Drop, jump, ruleOf("ssh", port(22))), "a test")
	if len(res.Left) > 0 || strings.Contains(res.Text, "MEF-IN") || !strings.Contains(res.Text, "dport=22") {
		t.Errorf("left out: %v, in\n%s", res.Left, res.Text)
	}
}

// TestLimitsOpenNothing: what a limit lets through is let through with a limit, over loopback too, or not at all.
func TestLimitsOpenNothing(t *testing.T) {
	limited := func() *importer.Rule {
		return &importer.Rule{Text: "limit rate 3/minute accept", Any: []importer.Match{importer.All()}, Do: importer.Decide, Limit: policy.Rate{N: 3, Per: "minute"}}
	}
	drop := &importer.Rule{Text: "drop", Any: []importer.Match{importer.All()}, Do: importer.Decide, Action: policy.Drop}
	for name, c := range map[string]importer.Chain{
		"the rest is dropped by the policy": {Policy: policy.Drop, Rules: []*importer.Rule{limited()}},
		"the rest is dropped by a rule":     {Policy: policy.Accept, Rules: []*importer.Rule{limited(), drop}},
	} {
		for _, d := range policy.Dirs {
			base := c
			base.Name, base.Place, base.Dir, base.Family = "base", "base", d, policy.Any
			res := importer.Translate(&importer.Ruleset{Bases: []*importer.Chain{&base}}, "a test")
			pol := parse(t, res.Text)
			for _, link := range []string{"eth0", policy.Loopback} {
				p := policy.Packet{Dir: d, Proto: policy.TCP, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Sport: 40000, Dport: 22, State: policy.New, Syn: true}
				if d != policy.Out {
					p.In = link
				}
				if d != policy.In {
					p.Out = link
				}
				if v := pol.Decide(p); v.Action == policy.Accept && (v.Rule == nil || v.Rule.Limit == (policy.Rate{})) && (d != policy.Forward || link != policy.Loopback) {
					t.Errorf("%s: %s: %s\n%s", name, p, v, res.Text)
				}
			}
		}
	}
}
