//go:build integration

package nftset_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mef/internal/conf"
	"mef/internal/enforce"
)

// TestDetectorsAreTheReference compares the parts of the table that detectors add.
func TestDetectorsAreTheReference(t *testing.T) {
	for name, settings := range map[string]enforce.Settings{
		"scan":  {Scan: conf.Scan{Enabled: true, UDP: true, On: []string{"eth0", "eth1"}, NotOn: []string{"lo", "wg0"}, Exclude: "8000-8010"}},
		"peers": {Peers: "22,587-600"},
		"flood": {Flood: conf.Flood{Enabled: true, Ports: "80,443", FloodLimits: conf.FloodLimits{SYNRate: 100, SYNBurst: 200, NewRate: 60, NewBurst: 120, Conns: 80},
			Of: map[uint16]conf.FloodLimits{25: {Conns: 5}, 443: {SYNRate: 10}}, Mode: conf.FloodDrop, Stage1: 10 * time.Minute}},
	} {
		t.Run(name, func(t *testing.T) { compareAdded(t, "testdata/"+name+".nft", settings) })
	}
}

func compareAdded(t *testing.T, golden string, settings enforce.Settings) {
	t.Helper()
	var got strings.Builder
	for block := range strings.SplitSeq(listing(t, settings), "\n\n") {
		head, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(block, "table inet mefdaemon {")), "{")
		if strings.Contains(head, " scan") || strings.Contains(head, " flood") || strings.Contains(head, " peers") || strings.Contains(head, " guard") || strings.Contains(head, " over") {
			got.WriteString(strings.TrimSuffix(block, "\n}\n") + "\n")
		}
	}
	if os.Getenv("UPDATE") != "" {
		os.WriteFile(golden, []byte(got.String()), 0o644)
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("nft list table (-want +got):\n%s", diff)
	}
}
