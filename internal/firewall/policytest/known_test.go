//go:build integration

package policytest_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/iptsave"
	"mef/internal/firewall/policy"
)

// mostWhole is how many of the rulesets in testdata/rulesets are imported without a line left out that matters.
const mostWhole = 20

// TestKnownRulesets loads rulesets as administrators write them, in the manner of workstations, servers, routers and distributions, imports
// them, and sends the same packets to both, as TestImportsPassTheSamePackets does with random ones.
func TestKnownRulesets(t *testing.T) {
	files, err := filepath.Glob("testdata/rulesets/*")
	if err != nil || len(files) != 26 {
		t.Fatalf("%d rulesets: %v", len(files), err)
	}
	h, all := ready(t)
	h.ns.Run(t, untranslated, "nft", "-f", "-")
	all = slices.DeleteFunc(all, func(fl flow) bool { return !goesOn(fl.began()) })
	whole := 0
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		im := &imports{h: h, name: filepath.Base(file), script: string(text), replaced: true, drops: true}
		if strings.HasSuffix(file, ".v4") {
			im.iptables = true
		}
		im.probes = slices.DeleteFunc(probesOf(source{rand.New(rand.NewPCG(34, uint64(i))), all}, strings.Contains(im.script, "type nat") || strings.Contains(im.script, "*nat")), func(pr probe) bool {
			return !goesOn(pr.frame)
		})
		left := im.run(t)
		if len(left) == 0 {
			whole++
			continue
		}
		for _, l := range left {
			t.Logf("%s: %s", im.name, l)
		}
	}
	if whole < mostWhole {
		t.Errorf("%d of %d rulesets are imported whole, want %d", whole, len(files), mostWhole)
	}
	t.Logf("%d of %d rulesets are imported whole", whole, len(files))
}

// untranslated removes the translations of the world.
const untranslated = `
delete chain inet world arrival_nat
delete chain inet world departure_nat
delete chain inet world to_self
delete chain inet world publish
`

// goesOn reports whether the world leaves the destination of a packet as it is.
func goesOn(f frame) bool {
	dst, dport := translated(f.proto, f.dst, f.dport)
	return dst == f.dst && dport == f.dport
}

// iptablesRuleset loads a ruleset by iptables-restore, and returns it as it is imported.
func iptablesRuleset(t *testing.T, h *host, text string) *importer.Ruleset {
	t.Helper()
	h.ns.Run(t, text, "iptables-nft-restore")
	rs, err := iptsave.Parse("A test", iptsave.File{Name: "rules.v4", Family: policy.V4, Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	rs.Own = ownPrefixes()
	return rs
}

// iptablesTables returns the tables that a ruleset of iptables makes, as nft calls them.
func iptablesTables(text string) (tables []string) {
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "*"); ok {
			tables = append(tables, "ip "+name)
		}
	}
	return slices.Compact(tables)
}
