//go:build integration

package policytest_test

import (
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/netnstest"
)

// TestListingsLoadAgain has nft list what random policies become, and load that listing: administrators save and restore rulesets so.
func TestListingsLoadAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(41, 42))
	for range 60 {
		text := policytest.Translating(r)
		src, err := policy.Parse("mef.rules", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		script, err := nft.Script(src.Policy(policy.Facts{Auto: []string{"eth0"}}))
		if err != nil {
			t.Fatal(err)
		}
		ns := netnstest.New(t)
		ns.Run(t, script, "nft", "-f", "-")
		listed := ns.Run(t, "", "nft", "-s", "list", "ruleset")
		ns.Run(t, "flush ruleset\n"+listed, "nft", "-f", "-")
		if again := ns.Run(t, "", "nft", "-s", "list", "ruleset"); again != listed {
			t.Fatalf("listed:\n%s\nand again:\n%s", listed, again)
		}
	}
}

// TestUnfinishedScriptLoadsNothing has nft read scripts that end too early, as if the loader was killed: what was loaded before stays.
func TestUnfinishedScriptLoadsNothing(t *testing.T) {
	src, err := policy.Parse("mef.rules", []byte(policytest.Policy(rand.New(rand.NewPCG(43, 44)))))
	if err != nil {
		t.Fatal(err)
	}
	var writes []int // where each ends
	var script strings.Builder
	err = nft.Write(writer(func(b []byte) (int, error) {
		script.Write(b)
		writes = append(writes, script.Len())
		return len(b), nil
	}), src.Policy(policy.Facts{}), func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	ns := netnstest.New(t)
	ns.Run(t, "table inet mef {\nchain before {\n}\n}\n", "nft", "-f", "-")
	text := script.String()
	cuts := writes[:len(writes)-1]
	for n := writes[0]; n < len(text)-2; n += max(1, len(text)/40) { // the first write is one that a pipe takes whole
		cuts = append(cuts, n, n+strings.IndexByte(text[n:], '\n')+1)
	}
	for _, n := range cuts {
		if n >= len(text) {
			continue
		}
		var err error
		ns.Do(func() {
			cmd := exec.Command("nft", "-f", "/proc/self/fd/0")
			cmd.Stdin = strings.NewReader(text[:n])
			err = cmd.Run()
		})
		if err == nil {
			t.Fatalf("nft takes the first %d bytes of %d", n, len(text))
		}
	}
	if listed := ns.Run(t, "", "nft", "list", "ruleset"); !strings.Contains(listed, "chain before") {
		t.Errorf("what was loaded before has gone:\n%s", listed)
	}
	if writes[0] > 4096 || !strings.Contains(text[:writes[0]], "table inet mef {") {
		t.Errorf("the first write has %d bytes: %q", writes[0], text[:min(writes[0], 200)])
	}
}

// A writer is a function that is called with each write.
type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
