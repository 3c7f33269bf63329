//go:build integration

package nftlist_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/importertest"
	"mef/internal/firewall/importer/nftlist"
	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// list returns what the kernel holds once it has taken a script.
func list(t *testing.T, script string) nftlist.Listing {
	t.Helper()
	ns := netnstest.New(t)
	ns.Run(t, script, "nft", "-f", "-")
	return nftlist.Listing{JSON: []byte(ns.Run(t, "", "nft", "-j", "list", "ruleset")), Text: []byte(ns.Run(t, "", "nft", "-s", "-a", "list", "ruleset"))}
}

// TestGoldenByNft has nft load and list the rulesets of TestGolden: the same must come out, whichever nft this is.
func TestGoldenByNft(t *testing.T) {
	files, err := filepath.Glob("testdata/*/ruleset.nft")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			l := list(t, string(script))
			if *update {
				importertest.Same(t, filepath.Join(dir, "listing.json"), string(l.JSON), true)
				importertest.Same(t, filepath.Join(dir, "listing.txt"), string(l.Text), true)
			}
			rs := parse(t, l)
			importertest.Golden(t, dir, rs, *update)
			if nat := rs.NATText[""]; nat != "" {
				ns := netnstest.New(t)
				ns.Run(t, nat, "nft", "-f", "-")
				if out := ns.Run(t, "", "nft", "list", "ruleset"); !strings.Contains(out, "type nat hook") {
					t.Errorf("the NAT that was written out became\n%s", out)
				}
			}
		})
	}
}

// TestSketches has nft load and list random rulesets, whose meaning is known.
func TestSketches(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		script, meant := importertest.NFT(r)
		importertest.Agree(t, r, meant, parse(t, list(t, script)), script)
	}
}

// TestPoliciesComeBack has nft load and list what random policies become, and compares the policies that come back with them.
func TestPoliciesComeBack(t *testing.T) {
	r, compared := rand.New(rand.NewPCG(9, 10)), 0
	for compared < 50 {
		// Limits are not read: importer reports them as sets that packets fill.
		text := strings.ReplaceAll(policytest.Policy(r), " limit=10000/s", "")
		before := pol(t, text)
		script, err := nft.Script(before)
		if err != nil {
			t.Fatal(err)
		}
		res := importer.Translate(parse(t, list(t, strings.ReplaceAll(script, nft.Table, "inet other"))), "a test")
		if slices.ContainsFunc(res.Left, func(l importer.Left) bool { return strings.Contains(l.Line, " @th,") }) {
			continue // nft lists both ports of several protocols as raw bytes, which the importer reports and does not read
		}
		compared++
		for _, l := range res.Left {
			// What mef.rules says of translated destinations, others cannot say, and so it cannot be read from them.
			if !strings.HasPrefix(l.Line, "ct status dnat ct direction original goto ") {
				t.Fatalf("%s\nbecame\n%s\nwithout %s", text, script, l)
			}
		}
		changes, err := policy.Compare(before, pol(t, res.Text))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if c.Dir == policy.Forward && (c.Sample.In == policy.Loopback || c.Sample.Out == policy.Loopback) {
				continue // nothing is forwarded from or to loopback, so the chain does not ask
			}
			t.Fatalf("%s, with %s\nfor %s\n\nbecame\n%s", c, c.Sample, text, res.Text)
		}
	}
}

func pol(t *testing.T, text string) *policy.Policy {
	t.Helper()
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return src.Policy(policy.Facts{Auto: []string{"eth0"}})
}
