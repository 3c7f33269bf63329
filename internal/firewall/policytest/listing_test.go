//go:build integration

package policytest_test

import (
	"math/rand/v2"
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
