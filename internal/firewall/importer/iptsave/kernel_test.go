//go:build integration

package iptsave_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"mef/internal/firewall/importer/importertest"
	"mef/internal/firewall/importer/iptsave"
	"mef/internal/firewall/policy"
	"mef/internal/netnstest"
)

// TestNATText has iptables take the NAT that was read.
func TestNATText(t *testing.T) {
	ns := netnstest.New(t)
	const nat = "*nat\n:PREROUTING ACCEPT [0:0]\n:published - [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -j published\n-A PREROUTING -j DOCKER\n" +
		"-A POSTROUTING -o eth0 -j MASQUERADE\n-A published -i eth0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.0.2.9:80\nCOMMIT\n"
	text := parse(t, iptsave.File{Name: "v4", Family: policy.V4, Text: []byte(strings.Replace(nat, ":published", ":POSTROUTING ACCEPT [0:0]\n:published", 1))}).NATText[".v4"]
	ns.Run(t, text, "iptables-restore")
	out := ns.Run(t, "", "iptables-save")
	for _, want := range []string{"MASQUERADE", "--to-destination 192.0.2.9:80"} {
		if !strings.Contains(out, want) || strings.Contains(out, "DOCKER") {
			t.Errorf("want %s, and nothing of Docker's, in\n%s", want, out)
		}
	}
}

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestSketches has iptables load and save random rulesets, whose meaning is known.
func TestSketches(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 60 {
		ns := netnstest.New(t)
		text4, meant4 := importertest.Save(r, policy.V4)
		text6, meant6 := importertest.Save(r, policy.V6)
		ns.Run(t, text4, "iptables-restore")
		ns.Run(t, text6, "ip6tables-restore")
		read := parse(t, iptsave.File{Name: "v4", Text: []byte(ns.Run(t, "", "iptables-save"))}, iptsave.File{Name: "v6", Text: []byte(ns.Run(t, "", "ip6tables-save"))})
		meant4.Bases = append(meant4.Bases, meant6.Bases...)
		importertest.Agree(t, r, meant4, read, text4+text6)
	}
}
