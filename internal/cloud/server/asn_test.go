package server

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/cloud/reputation"
	"mef/internal/geodb/geodbtest"
)

// TestSystems checks that the table of autonomous systems is used for hosts that join, and for those that joined before.
func TestSystems(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	before := join(t, s, reputation.Anchor)
	s.stop()
	table := geodbtest.Write(t, filepath.Join(t.TempDir(), "asn.mmdb"), geodbtest.Form{}, geodbtest.AS("127.0.0.0/8", 64500, "Loopback"))
	s = start(t, dir)
	s.opt.ASN = table
	before.inv.Server = s.Addr().String()
	join(t, s, reputation.Anchor)
	if all := s.agents(); all[0].System != "127.0.0.0/16" || all[1].System != "AS64500" {
		t.Errorf("hosts are in %s and %s", all[0].System, all[1].System)
	}
	before.mustReport(attacker)
	if all := s.agents(); all[0].System != "AS64500" {
		t.Errorf("a host that reports is in %s", all[0].System)
	}
	if got := s.system(netip.MustParseAddr("192.0.2.7")); got != "192.0.0.0/16" {
		t.Errorf("an address that the table does not have is in %s", got)
	}
	s.stop()
	s = start(t, dir)
	if all := s.agents(); all[0].System != "AS64500" {
		t.Errorf("after a restart it is in %s", all[0].System)
	}
	for path, says := range map[string]string{
		filepath.Join(dir, "none"):   "no such file",
		filepath.Join(dir, keysFile): "--asn",
		geodbtest.Write(t, filepath.Join(t.TempDir(), "country.mmdb"), geodbtest.Form{}, geodbtest.Country("127.0.0.0/8", "DE")): "no autonomous systems",
	} {
		if s, err := Open(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "new"), Listen: "127.0.0.1:0", ASN: path, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("with %s: %v", path, err)
			if err == nil {
				s.Close()
			}
		} else if _, err := os.Stat(filepath.Join(t.TempDir(), "new")); err == nil {
			t.Error("a directory is made nevertheless")
		}
	}
}
