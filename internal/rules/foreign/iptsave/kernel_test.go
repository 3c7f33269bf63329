//go:build integration

package iptsave_test

import (
	"math/rand/v2"
	"testing"

	"mef/internal/netnstest"
	"mef/internal/rules"
	"mef/internal/rules/foreign/foreigntest"
	"mef/internal/rules/foreign/iptsave"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestSketches has iptables load and save random rulesets, whose meaning is known.
func TestSketches(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 60 {
		ns := netnstest.New(t)
		text4, meant4 := foreigntest.Save(r, rules.V4)
		text6, meant6 := foreigntest.Save(r, rules.V6)
		ns.Run(t, text4, "iptables-restore")
		ns.Run(t, text6, "ip6tables-restore")
		read := parse(t, iptsave.File{Name: "v4", Text: []byte(ns.Run(t, "", "iptables-save"))}, iptsave.File{Name: "v6", Text: []byte(ns.Run(t, "", "ip6tables-save"))})
		meant4.Bases = append(meant4.Bases, meant6.Bases...)
		foreigntest.Agree(t, r, meant4, read, text4+text6)
	}
}
