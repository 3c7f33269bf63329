//go:build integration

package policytest_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/importertest"
	"mef/internal/firewall/importer/nftlist"
	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
)

// TestImportsPassTheSamePackets loads random rulesets of nftables into a host that translates destinations, imports them, and sends
// the same packets to both. Nothing passes the policy that did not pass the ruleset; and where nothing is left out, what passes one
// passes the other.
func TestImportsPassTheSamePackets(t *testing.T) {
	sameImports(t, 31, nil, false)
}

// TestImportsBehindRandomNAT does so beside random translations, with packets that begin a connection: only these have a state that does
// not depend on what was translated before. Where a rule is about some of the destinations of a translation, it is named and left out.
func TestImportsBehindRandomNAT(t *testing.T) {
	sameImports(t, 32, func(r *rand.Rand) string { return importertest.NAT(r) }, false)
}

// TestImportsTranslate removes the translations too, once they are imported: the policy makes the same.
func TestImportsTranslate(t *testing.T) {
	sameImports(t, 33, func(r *rand.Rand) string { return importertest.NAT(r, "prerouting") }, true)
}

// sameImports compares imports with rulesets, beside translations that nat makes unless it is nil; these are in the policy alone afterwards if
// replaced.
func sameImports(t *testing.T, seed uint64, nat func(*rand.Rand) string, replaced bool) {
	h, all := ready(t)
	whole := 0
	for i := range number(t, "MEF_IMPORTS", 60) {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		script, _ := importertest.NFT(r)
		translations := ""
		if nat != nil {
			translations = nat(r)
		}
		h.ns.Run(t, script+translations, "nft", "-f", "-")
		d := &trial{h: h, load: backends["nft"]}
		for tag := range probes {
			if pr := (source{r, all}).probe(uint16(tag + 1)); nat == nil || pr.policy.State == policy.New && pr.policy.In != policy.Loopback { // nothing is forwarded from loopback
				d.probes = append(d.probes, pr)
			}
		}
		before := d.outcomes(t)
		res := importer.Translate(imported(t, h), "a test")
		for _, table := range foreignTables(script) {
			h.ns.Run(t, "delete table "+table+"\n", "nft", "-f", "-")
		}
		if replaced {
			h.ns.Run(t, "delete table inet nat\n", "nft", "-f", "-")
		}
		d.load(t, h.ns, d.policy(t, res.Text))
		after := d.outcomes(t)
		h.ns.Run(t, "delete table "+nft.Table+"\nadd table inet nat\ndelete table inet nat\n", "nft", "-f", "-")
		left := slices.DeleteFunc(slices.Clone(res.Left), func(l importer.Left) bool {
			return !l.Matters() || !replaced && strings.Contains(l.Effect, "--nat FILE") // which stays
		})
		if len(left) == 0 {
			whole++
		}
		for n, pr := range d.probes {
			if pr.policy.State == policy.Related && pr.policy.Dir != policy.Forward {
				continue // an error about a connection has its translation, which nobody can tell by its addresses
			}
			was, is := before[pr.tag].passed, after[pr.tag].passed
			if replaced && len(left) == 0 && !slices.Equal(before[pr.tag].met, after[pr.tag].met) {
				t.Fatalf("ruleset %d: %s %s: went to %+v, with the policy to %+v (packet %d)\n%s%s\nbecame\n%s", i, pr.policy.Dir, pr.policy, before[pr.tag].met, after[pr.tag].met, n, script, translations, res.Text)
			}
			if is && !was && nat == nil || was != is && len(left) == 0 {
				t.Fatalf("ruleset %d: %s %s: passed the ruleset: %t, the policy: %t (packet %d); left out: %v\n%s%s\nbecame\n%s", i, pr.policy.Dir, pr.policy, was, is, n, left, script, translations, res.Text)
			}
		}
	}
	if whole == 0 {
		t.Error("no ruleset was carried over whole")
	}
	t.Logf("%d rulesets were carried over whole", whole)
}

// outcomes sends the packets and returns what becomes of each.
func (d *trial) outcomes(t *testing.T) map[uint16]*outcome {
	t.Helper()
	var tags []uint16
	for _, pr := range d.probes {
		tags = append(tags, pr.tag)
		if pr.arrives {
			d.h.arrives(t, pr.link, pr.frame)
		} else {
			d.h.sends(t, pr.link, pr.frame)
		}
	}
	return d.h.outcomes(t, tags)
}

// imported reads the ruleset of a host, but for the filter of the world itself.
func imported(t *testing.T, h *host) *importer.Ruleset {
	t.Helper()
	l := nftlist.Listing{JSON: []byte(h.ns.Run(t, "", "nft", "-j", "list", "ruleset")), Text: []byte(h.ns.Run(t, "", "nft", "-s", "-a", "list", "ruleset"))}
	rs, err := nftlist.Parse(l, "A test")
	if err != nil {
		t.Fatal(err)
	}
	rs.Left = nil // of the world
	rs.Bases = slices.DeleteFunc(rs.Bases, func(c *importer.Chain) bool { return strings.HasPrefix(c.Place, "table inet world") })
	for _, c := range rs.NAT {
		c.Foreign = c.Foreign || strings.HasPrefix(c.Place, "table inet world")
	}
	for _, link := range interfaces {
		for addr := range strings.FieldsSeq(link.addrs) {
			a := netip.MustParsePrefix(addr).Addr()
			rs.Own = append(rs.Own, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return rs
}

// foreignTables returns the tables that a script makes.
func foreignTables(script string) (tables []string) {
	for line := range strings.Lines(script) {
		var family, name string
		if n, _ := fmt.Sscanf(line, "table %s %s {", &family, &name); n == 2 {
			tables = append(tables, family+" "+name)
		}
	}
	return tables
}
