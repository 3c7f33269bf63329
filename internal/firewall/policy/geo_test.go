package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

const geoRules = `policy dir=in action=drop
set name=home elements=@country:de,198.51.100.7
rule dir=in action=accept proto=tcp dport=22 src=@country:DE
rule dir=in action=accept proto=tcp dport=25 src=!@country:CN,@as:64500
rule dir=in action=accept proto=tcp dport=80 src=@home
`

func geoFacts() policy.Facts {
	set := func(prefixes ...string) *prefixset.Packed {
		var b prefixset.Packer
		for _, p := range prefixes {
			b.Add(netip.MustParsePrefix(p))
		}
		return b.Pack()
	}
	return policy.Facts{Groups: map[conf.GeoGroup]*prefixset.Packed{
		{Country: "DE"}: set("45.83.0.0/24", "2a09:77::/32"), {Country: "CN"}: set("45.83.1.0/24"), {AS: 64500}: set("45.83.2.0/24"),
	}}
}

// TestCountriesAreSets asks what becomes of packets of countries, before and after the policy was frozen.
func TestCountriesAreSets(t *testing.T) {
	src, err := policy.Parse("mef.rules", []byte(geoRules))
	if err != nil {
		t.Fatal(err)
	}
	if groups := src.Groups(); len(groups) != 3 || groups[conf.GeoGroup{AS: 64500}].Line != 4 {
		t.Errorf("groups %v", groups)
	}
	text := src.Freeze(geoFacts())
	thawed, err := policy.Thaw("frozen", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(thawed.Groups()) > 0 {
		t.Errorf("the frozen text asks for countries:\n%s", text)
	}
	for name, pol := range map[string]*policy.Policy{"as read": src.Policy(geoFacts()), "frozen": thawed.Policy(policy.Facts{})} {
		if len(pol.Sets) != 2 || pol.Sets[0].Name != "country.DE" || pol.Sets[1].Name != "home" {
			t.Errorf("%s: sets %+v", name, pol.Sets)
		}
		for words, want := range map[string]string{
			"dport=22 src=45.83.0.7": "accept", "dport=22 src=45.83.1.7": "drop", "dport=22 src=2a09:77::7": "accept", "dport=22 src=2a09:78::7": "drop",
			"dport=25 src=45.83.0.7": "accept", "dport=25 src=45.83.1.7": "drop", "dport=25 src=45.83.2.7": "drop", "dport=25 src=2a09:78::7": "accept",
			"dport=80 src=45.83.0.7": "accept", "dport=80 src=198.51.100.7": "accept", "dport=80 src=45.83.1.7": "drop",
		} {
			about, err := src.Describe("trace", strings.Fields("dir=in proto=tcp "+words))
			if err != nil {
				t.Fatal(err)
			}
			cases, err := policy.NewModel(pol).Ask(about(geoFacts()))
			if err != nil || len(cases) != 1 || cases[0].Action.String() != want {
				t.Errorf("%s, %s: %v, %v; want %s", name, words, cases, err, want)
			}
		}
	}
	// A question may name a country that no rule does.
	if _, err := src.Describe("trace", []string{"dir=in", "proto=tcp", "src=@country:FR"}); err != nil || len(src.Groups()) != 4 {
		t.Errorf("%v, groups %v", err, src.Groups())
	}
}

func TestCountriesInExpectations(t *testing.T) {
	src, err := policy.Parse("mef.rules", []byte(geoRules+"expect dir=in proto=tcp dport=22 src=@country:DE action=accept\nexpect dir=in proto=tcp dport=22 src=@country:CN action=accept\n"))
	if err != nil {
		t.Fatal(err)
	}
	pol := src.Policy(geoFacts())
	if unmet := policy.NewModel(pol).Unmet(pol.Expects); len(unmet) != 1 || unmet[0].Expect.At.Line != 7 {
		t.Errorf("unmet %v", unmet)
	}
}

func TestWrongCountries(t *testing.T) {
	for line, want := range map[string]string{
		"rule dir=in action=accept proto=tcp src=192.0.2.1,@country:UK": `mef.rules:2:51: "UK" is not the code of a country; write @country:GB`,
		"rule dir=in action=accept proto=tcp src=!@as:AS64500":          `mef.rules:2:42: "AS64500" is not the number alone; write @as:64500`,
		"set name=eu elements=@country:EU":                              `mef.rules:2:22: "EU" is not the code of a country; write two letters of ISO 3166-1, such as @country:DE`,
		"rule dir=in action=accept proto=tcp dport=@country:DE":         `mef.rules:2:43: wrong value "@country:DE"`,
		"set name=country.DE elements=192.0.2.1":                        `mef.rules:2:10: wrong value "country.DE"`,
	} {
		_, err := policy.Parse("mef.rules", []byte("policy dir=in action=drop\n"+line+"\n"))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", line, err, want)
		}
	}
}

func TestFormatKeepsCountries(t *testing.T) {
	const line = "rule dir=in action=accept proto=tcp src=@country:DE,@as:64500 dport=22\n"
	if got, err := policy.Format("x", []byte(line)); err != nil || string(got) != line {
		t.Errorf("%q, %v", got, err)
	}
}
