//go:build integration

package iptables_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/iptables"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// variants are the two iptables that a system may have.
var variants = []string{"nft", "legacy"}

// A kernel loads rulesets in a namespace by one variant of iptables.
type kernel struct {
	*netnstest.NS
	variant string
}

func (k kernel) save(t *testing.T, family string) string {
	return k.Run(t, "", family+"-"+k.variant+"-save")
}

func (k kernel) state(t *testing.T) iptables.State {
	return iptables.ReadState(k.save(t, "iptables"), k.save(t, "ip6tables"), k.Run(t, "", "ipset", "list", "-n"))
}

func (k kernel) load(t *testing.T, r iptables.Ruleset) {
	t.Helper()
	for _, step := range r.Steps() {
		k.Run(t, step.Text, strings.Replace(step.Program, "tables-", "tables-"+k.variant+"-", 1), strings.Fields(step.Flags)...)
	}
}

// TestKernelTakesEveryRuleset has both variants take random policies, one in place of the other, and remove the last one.
func TestKernelTakesEveryRuleset(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			k := kernel{netnstest.New(t), variant}
			k.Run(t, "*filter\n:DOCKER - [0:0]\n-A FORWARD -j DOCKER\n-A DOCKER -i eth9 -j DROP\nCOMMIT\n", "iptables-"+variant+"-restore")
			before := k.save(t, "iptables")
			r := rand.New(rand.NewPCG(3, 4))
			for range 50 {
				src, err := policy.Parse("mef.rules", []byte(policytest.Translating(r)))
				if err != nil {
					t.Fatal(err)
				}
				ruleset, err := iptables.Compile(src.Policy(policy.Facts{}), k.state(t))
				if err != nil {
					t.Fatal(err)
				}
				k.load(t, ruleset)
			}
			k.load(t, iptables.Clear(k.state(t)))
			if !k.state(t).Empty() {
				t.Error("something is left after Clear")
			}
			if after := k.save(t, "iptables"); rulesOf(after) != rulesOf(before) {
				t.Errorf("rules of others were\n%s\nand are\n%s", before, after)
			}
		})
	}
}

// TestRevertInKernel brings back a policy with its sets after another has come as far as one family.
func TestRevertInKernel(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			k := kernel{netnstest.New(t), variant}
			first, err := iptables.Compile(pol(t, office), k.state(t))
			if err != nil {
				t.Fatal(err)
			}
			k.load(t, first)
			former := k.state(t)
			second, err := iptables.Compile(pol(t, strings.Replace(office, "192.0.2.0/24", "192.0.2.0/25", 1)), former)
			if err != nil {
				t.Fatal(err)
			}
			k.load(t, iptables.Ruleset{Sets: second.Sets, V4: second.V4})
			k.load(t, iptables.Revert(former, k.state(t)))
			if got := k.state(t); got.String() != former.String() || !slices.Equal(got.Sets(), former.Sets()) {
				t.Errorf("state:\n%s%v\nwant\n%s%v", got, got.Sets(), former, former.Sets())
			}
		})
	}
}

// TestLargeSet has more in a set than ipset's own limit.
func TestLargeSet(t *testing.T) {
	var list strings.Builder
	for i := range 70_000 {
		fmt.Fprintf(&list, "10.%d.%d.%d\n", i>>15, i>>7&255, i<<1&255) // none beside another
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.list"), []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	src, err := policy.Parse(filepath.Join(dir, "mef.rules"), []byte("policy dir=in action=accept\nset name=x file=x.list\nrule dir=in action=drop proto=all src=@x\n"))
	if err != nil {
		t.Fatal(err)
	}
	k := kernel{netnstest.New(t), "nft"}
	ruleset, err := iptables.Compile(src.Policy(policy.Facts{}), k.state(t))
	if err != nil {
		t.Fatal(err)
	}
	k.load(t, ruleset)
	if out := k.Run(t, "", "ipset", "list", "-t", "mef-x-4a"); !strings.Contains(out, "Number of entries: 70000") {
		t.Errorf("the set is\n%s", out)
	}
}

// TestLoadingAgainChangesNothing loads a policy twice, as it is at the second load of a boot.
func TestLoadingAgainChangesNothing(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			k := kernel{netnstest.New(t), variant}
			p := pol(t, office+"rule dir=in action=reject log=prefix:REST ratelimit=5/m proto=tcp iif=!eth0,eth1 dport=1-1023\n")
			var states []string
			for range 3 {
				ruleset, err := iptables.Compile(p, k.state(t))
				if err != nil {
					t.Fatal(err)
				}
				k.load(t, ruleset)
				states = append(states, k.state(t).String())
			}
			if states[0] == states[1] || states[0] != states[2] { // sets are of another generation every other time
				t.Errorf("loaded once:\n%s\ntwice:\n%s\nthree times:\n%s", states[0], states[1], states[2])
			}
		})
	}
}

// rulesOf returns the rules that iptables-save printed, sorted: its tables have no order, and one may be left with nothing in it.
func rulesOf(save string) string {
	var lines []string
	for line := range strings.Lines(save) {
		if strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, ":") && !strings.Contains(line, " ACCEPT ") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
