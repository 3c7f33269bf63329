//go:build integration

package nft_test

import (
	"math/rand/v2"
	"testing"

	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestNftTakesEveryScript has the kernel take random policies, one in place of the other.
func TestNftTakesEveryScript(t *testing.T) {
	ns := netnstest.New(t)
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		text := policytest.Policy(r)
		src, err := policy.Parse("mef.rules", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		script, err := nft.Script(src.Policy(policy.Facts{}))
		if err != nil {
			t.Fatal(err)
		}
		ns.Run(t, script, "nft", "-f", "-")
	}
}
