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
	sameImports(t, 31, number(t, "MEF_IMPORTS", 80), nil, nil, false)
}

// TestImportsOfFlagsLimitsAndOwners does so with rules about flags of TCP, owners of packets from the host, and limits, behind which nothing is known
// of the packets that pass but their verdict without a limit.
func TestImportsOfFlagsLimitsAndOwners(t *testing.T) {
	sameImports(t, 34, number(t, "MEF_IMPORTS", 120), importertest.Further, nil, false)
}

// TestImportsBehindRandomNAT does so beside random translations, with packets that begin a connection: only these have a state that does
// not depend on what was translated before. Where a rule is about some of the destinations of a translation, it is named and left out.
func TestImportsBehindRandomNAT(t *testing.T) {
	sameImports(t, 32, number(t, "MEF_IMPORTS", 80), nil, func(r *rand.Rand) string { return importertest.NAT(r) }, false)
}

// TestImportsTranslate removes the translations too, once they are imported: the policy makes the same.
func TestImportsTranslate(t *testing.T) {
	sameImports(t, 33, number(t, "MEF_IMPORTS", 80), nil, func(r *rand.Rand) string { return importertest.NAT(r, "prerouting") }, true)
}

// sameImports compares n imports with rulesets, which further changes unless it is nil, beside translations that nat makes unless it is nil; these are
// in the policy alone afterwards if replaced.
func sameImports(t *testing.T, seed uint64, n int, further func(*rand.Rand, string) string, nat func(*rand.Rand) string, replaced bool) {
	h, all := ready(t)
	whole := 0
	for i := range n {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		im := &imports{h: h, name: fmt.Sprint(i), beside: nat != nil, replaced: replaced}
		if im.script, _ = importertest.NFT(r); further != nil {
			im.script = further(r, im.script)
		}
		if nat != nil {
			im.translations = nat(r)
		}
		im.probes = probesOf(source{r, all}, nat != nil)
		if len(im.run(t)) == 0 {
			whole++
		}
	}
	if whole == 0 {
		t.Error("no ruleset was carried over whole")
	}
	t.Logf("%d rulesets were carried over whole", whole)
}

// probesOf returns packets; if some are translated only such as begin a connection, and not over loopback, from which nothing is forwarded.
func probesOf(s source, translated bool) (all []probe) {
	for tag := range probes {
		if pr := s.probe(uint16(tag + 1)); !translated || pr.policy.State == policy.New && pr.policy.In != policy.Loopback {
			all = append(all, pr)
		}
	}
	return all
}

// nothingOfOurs removes the policy and the translations of the comparison before.
const nothingOfOurs = "table " + nft.Table + "\ndelete table " + nft.Table + "\ntable inet nat\ndelete table inet nat\n"

// imports is the comparison of a ruleset with what it is imported as.
type imports struct {
	h            *host
	name         string
	script       string // for nft
	translations string // another one, which makes table inet nat
	iptables     bool   // the script is for iptables-restore instead
	beside       bool   // there are translations
	replaced     bool   // the policy translates, and the translations are removed
	drops        bool   // rules that drop may be left out, which lets packets pass
	probes       []probe
}

// run sends packets to both, and returns the lines that were left out and matter.
func (im *imports) run(t *testing.T) []importer.Left {
	t.Helper()
	h := im.h
	d := &trial{h: h, probes: im.probes}
	var rs *importer.Ruleset
	tables := foreignTables(im.script)
	if im.iptables {
		h.ns.Run(t, nothingOfOurs, "nft", "-f", "-")
		rs, tables = iptablesRuleset(t, h, im.script), iptablesTables(im.script)
	} else {
		h.ns.Run(t, nothingOfOurs+im.script+im.translations, "nft", "-f", "-")
		rs = imported(t, h)
	}
	before := d.outcomes(t)
	res := importer.Translate(rs, "a test")
	if im.beside && im.replaced {
		tables = append(tables, "inet nat")
	}
	var remove strings.Builder
	for _, table := range tables {
		remove.WriteString("delete table " + table + "\n")
	}
	pol := d.policy(t, res.Text)
	policyScript, err := nft.Script(pol)
	if err != nil {
		t.Fatal(err)
	}
	h.ns.Run(t, remove.String()+policyScript, "nft", "-f", "-")
	after := d.outcomes(t)
	left := slices.DeleteFunc(slices.Clone(res.Left), func(l importer.Left) bool {
		return !l.Matters() || !im.replaced && strings.Contains(l.Effect, "--nat FILE") // which stays
	})
	for n, pr := range d.probes {
		if pr.policy.State == policy.Related && pr.policy.Dir != policy.Forward {
			continue // an error about a connection has its translation, which nobody can tell by its addresses
		}
		if by := pol.Decide(pr.policy).Rule; by != nil && by.Limit != (policy.Rate{}) {
			continue // how many pass depends on how fast they come
		}
		was, is := before[pr.tag].passed, after[pr.tag].passed
		if im.replaced && len(left) == 0 && !slices.Equal(before[pr.tag].met, after[pr.tag].met) {
			t.Fatalf("ruleset %s: %s %s: went to %+v, with the policy to %+v (packet %d)\n%s%s\nbecame\n%s", im.name, pr.policy.Dir, pr.policy, before[pr.tag].met, after[pr.tag].met, n, im.script, im.translations, res.Text)
		}
		if is && !was && !im.beside && !im.drops || was != is && len(left) == 0 {
			t.Fatalf("ruleset %s: %s %s: passed the ruleset: %t, the policy: %t (packet %d); left out: %v\n%s%s\nbecame\n%s", im.name, pr.policy.Dir, pr.policy, was, is, n, left, im.script, im.translations, res.Text)
		}
	}
	return left
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
	rs.Own = ownPrefixes()
	return rs
}

// ownPrefixes returns the addresses of the host.
func ownPrefixes() (own []netip.Prefix) {
	for _, link := range interfaces {
		for addr := range strings.FieldsSeq(link.addrs) {
			a := netip.MustParsePrefix(addr).Addr()
			own = append(own, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return own
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
