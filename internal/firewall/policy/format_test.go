package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/prefixset"
)

// difference returns how policies differ but for the places of their statements.
func difference(a, b *policy.Policy) string {
	return cmp.Diff(a, b, cmpopts.IgnoreTypes(conf.Pos{}), cmp.Comparer(prefixset.Set.Equal), cmpopts.EquateComparable(netip.Addr{}))
}

// formatted returns a text in its canonical form.
func formatted(t testing.TB, text string) string {
	t.Helper()
	out, err := policy.Format("mef.rules", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return string(out)
}

func TestFormatKeepsThePolicy(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		text := policytest.Translating(r)
		once := formatted(t, text)
		if diff := difference(pol(t, text), pol(t, once)); diff != "" {
			t.Fatalf("%s\nbecame\n%s\n%s", text, once, diff)
		}
		if twice := formatted(t, once); twice != once {
			t.Fatalf("%s\nbecame\n%s\nand then\n%s", text, once, twice)
		}
	}
}

// TestFormatKeepsComments compares texts, of which the file need not be a policy.
func TestFormatKeepsComments(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"nothing":           {"", "\n"},
		"comments":          {"  # one\n#two  \n\n\n\n# three", "# one\n#two\n\n# three\n"},
		"beside":            {"policy dir=in action=drop# no comment\n", ""},
		"beside a blank":    {"policy action=drop dir=in    # why\n", "policy dir=in action=drop  # why\n"},
		"in a value":        {"rule dir=in action=drop proto=tcp comment=#1\n", "rule dir=in action=drop proto=tcp comment=\"#1\"\n"},
		"unfinished":        {"rule proto=tcp\ninclude\n", "rule proto=tcp\ninclude\n"},
		"wrong values":      {"rule proto=what dir=in\n", "rule dir=in proto=what\n"},
		"quotes":            {`include="a b"` + "\n" + `include="ab"` + "\n", `include="a b"` + "\ninclude=ab\n"},
		"a quote inside":    {`include=a"b` + "\n" + `include="a \"b\\ c"` + "\n", `include=a"b` + "\n" + `include="a \"b\\ c"` + "\n"},
		"what holds anyway": {"set type=addr family=any name=x elements=192.0.2.1\nexpect ct=new proto=tcp dir=in action=drop\n", "set name=x elements=192.0.2.1\nexpect dir=in proto=tcp action=drop\n"},
	} {
		out, err := policy.Format("mef.rules", []byte(tt.in))
		if (err == nil) != (tt.want != "") || string(out) != tt.want {
			t.Errorf("%s: Format = %q, %v; want %q", name, out, err, tt.want)
		}
	}
}

// facts are what the tests know of a host.
var facts = policy.Facts{
	Auto: []string{"eth0", "eth1"},
	Hosts: map[string][]netip.Addr{
		"www.example.org": {netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
	},
}

// frozen returns a policy before and after it was frozen.
func frozen(t testing.TB, src *policy.Source) (before, after *policy.Policy) {
	t.Helper()
	text := src.Freeze(facts)
	thawed, err := policy.Thaw("frozen", text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if len(thawed.Hosts()) > 0 || thawed.Auto() {
		t.Errorf("the frozen text asks for facts:\n%s", text)
	}
	return src.Policy(facts), thawed.Policy(policy.Facts{})
}

func TestFrozenPolicyDecidesAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 200 {
		src, err := policy.Parse("mef.rules", []byte(policytest.Translating(r)))
		if err != nil {
			t.Fatal(err)
		}
		before, after := frozen(t, src)
		for range 100 {
			p := policytest.Packet(r)
			if want, got := before.Decide(p), after.Decide(p); got.String() != want.String() {
				t.Fatalf("%s: %s, frozen %s\n%s", p, want, got, src.Freeze(facts))
			}
		}
	}
}

// TestFrozenPolicyNeedsNothing has all that a policy can need: other files, names, interfaces.
func TestFrozenPolicyNeedsNothing(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("mef.rules", `include=more.rules
policy dir=in action=drop
policy dir=fwd action=drop
set name=office file=office.list
set name=both elements=@office,www.example.org
set name=four family=ip elements=@both
set name=web type=port file=web.ports
set name=nobody elements=nobody.example.org
rule dir=in action=accept proto=tcp src=@both dport=@web iif=auto comment=auto
rule dir=in action=accept proto=tcp src=@nobody
rule dir=fwd action=accept proto=tcp src=@four oif=auto log=prefix:auto
expect dir=in proto=tcp dport=25 action=drop
`)
	write("more.rules", "rule dir=in action=accept proto=udp comment=\"a \\\"word\\\", a back\\\\slash\"\n")
	write("office.list", "192.0.2.64/29\n2001:db8:f::/48 # far\n")
	write("web.ports", "80 443\n")
	src, err := policy.Read(filepath.Join(dir, "mef.rules"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	before, after := frozen(t, src)
	before.Expects = nil // they were met
	if diff := difference(before, after); diff != "" {
		t.Errorf("%s\n%s", src.Freeze(facts), diff)
	}
	if got, want := after.Rules[1].Remark(), before.Rules[1].Remark(); got != want || !strings.HasPrefix(got, "mef.rules:9 ") {
		t.Errorf("the second rule is %q, and was %q", got, want)
	}
}

// TestFrozenPolicyOfOddFiles has files whose names are no text.
func TestFrozenPolicyOfOddFiles(t *testing.T) {
	dir := t.TempDir()
	for name, port := range map[string]int{"caf\xe9.rules": 80, "a\nb.rules": 81, "tab\t.rules": 82, "grün # 1.rules": 83} {
		text := fmt.Sprintf("rule dir=in action=accept proto=tcp dport=%d\n", port)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	src, err := policy.Parse(filepath.Join(dir, "mef.rules"), []byte("include=*.rules\npolicy dir=in action=drop\n"))
	if err != nil {
		t.Fatal(err)
	}
	before, after := frozen(t, src)
	if len(before.Rules) != 4 || len(after.Rules) != 4 {
		t.Errorf("%d rules, frozen %d", len(before.Rules), len(after.Rules))
	}
	for i := range after.Rules {
		if got := after.Rules[i].Remark(); !strings.HasSuffix(got, ".rules:1") {
			t.Errorf("a rule is %q", got)
		}
	}
}
