//go:build integration

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/geodb/geodbtest"
	"mef/internal/lab"
)

// TestCountries closes ports to countries, over both packet filters: connections to closed ports are dropped, other ports stay open, and a
// database that is replaced counts at once, without a gap and unless it is damaged.
func TestCountries(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			const path = "/run/GeoIP/country.mmdb"
			const german, chinese, nowhere = "45.83.0.7", "45.83.0.200", "2a09:77:5::7"
			const german6, chinese6, private = "2a09:77:1::7", "2a09:77:2::7", "203.0.113.180"
			config := "[global]\nfirewall_backend=" + backend + "\ngeo_databases=" + path + "\n" +
				fmt.Sprintf("[access ssh]\nallow_only=@country:DE\nports=%d\n[access ftp]\ndeny=@country:CN\nports=%d\n", lab.SSHPort, lab.FTPPort)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(path) })
			write := func(of200 string) {
				geodbtest.Write(t, path, geodbtest.Form{Type: "Test"}, geodbtest.Country("45.83.0.0/24", "DE"), geodbtest.Country("45.83.0.128/25", of200),
					geodbtest.Country("2a09:77:1::/48", "DE"), geodbtest.Country("2a09:77:2::/48", "CN"))
			}
			write("CN")
			s := begin(t, config, nil)
			t.Cleanup(func() {
				s.w.Mefctl(context.WithoutCancel(s.ctx), "off")
				s.nft("flush ruleset")
			})
			inForce := func(state string) {
				t.Helper()
				s.until("both sections to be "+state, func() error {
					if out := s.mefctl("lists"); strings.Count(out, " "+state+"  ") != 2 {
						return fmt.Errorf("lists\n%s", out)
					}
					return nil
				})
			}
			inForce("on")
			s.reaches(lab.SSHPort, german, german6, private)
			s.silent(lab.SSHPort, chinese, chinese6, nowhere)
			s.reaches(lab.FTPPort, german, german6, private, nowhere)
			s.silent(lab.FTPPort, chinese, chinese6)
			if why := s.mefctl("why", chinese); !strings.Contains(why, "  from CN\n") || !strings.Contains(why, "[access ssh] (allow_only=@country:DE): its packets that open a connection are dropped") {
				t.Errorf("why\n%s", why)
			}

			if err := os.WriteFile(path, []byte("<html>"), 0o644); err != nil {
				t.Fatal(err)
			}
			s.until("the damaged file to be reported", func() error {
				if out, _ := s.w.Mefctl(s.ctx, "status"); !strings.Contains(out, path+": the file is damaged") || !strings.Contains(out, "stay in force") {
					return fmt.Errorf("status\n%s", out)
				}
				return nil
			})
			s.silent(lab.SSHPort, chinese)
			s.stop(os.Interrupt)
			s.silent(lab.SSHPort, chinese)
			s.start(config)
			inForce("on, not updated")
			s.silent(lab.SSHPort, chinese, nowhere)
			s.reaches(lab.SSHPort, german)

			write("DE")
			s.until("the new version to count", func() error {
				if out := s.mefctl("why", chinese); strings.Contains(out, "[access") {
					return fmt.Errorf("why\n%s", out)
				}
				return nil
			})
			s.reaches(lab.SSHPort, chinese)
			s.silent(lab.SSHPort, chinese6)
		})
	}
}

// A section that would close the SSH port to an administrator is refused when the configuration is reloaded.
func TestCountriesLockOut(t *testing.T) {
	const path, from = "/run/GeoIP/country.mmdb", "45.83.0.60"
	s := begin(t, "", nil)
	s.promote()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	geodbtest.Write(t, path, geodbtest.Form{}, geodbtest.Country("45.83.0.0/24", "CH"), geodbtest.Country("2a09:77::/32", "DE"))
	proceed := filepath.Join(lab.Alice.Home(), "proceed")
	os.Remove(proceed)
	ended := make(chan error, 1)
	go func() {
		_, err := s.w.Client(from).SSH(s.ctx, lab.SSHPort, "alice", lab.Alice.Password, "while ! test -e "+proceed+"; do sleep 0.1; done")
		ended <- err
	}()
	s.protects(1)
	s.configure("[global]\ngeo_databases=" + path + "\n[access ssh]\nallow_only=@country:DE\n")
	out, err := s.w.Mefctl(s.ctx, "reload")
	if want := "[access ssh] (allow_only=@country:DE) would close port 22 to " + from + " (@country:CH), from which an administrator is logged in"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("mefctl reload: %v\n%s\nwant %q", err, out, want)
	}
	s.mefctl("allow", "add", from)
	s.mefctl("reload")
	s.until("the section to be in force", func() error {
		if out := s.mefctl("lists"); !strings.Contains(out, "allow_only=@country:DE") || !strings.Contains(out, " on  ") {
			return fmt.Errorf("lists\n%s", out)
		}
		return nil
	})
	s.silent(lab.SSHPort, "45.83.0.61")
	s.reaches(lab.SSHPort, from)
	if err := os.WriteFile(proceed, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("alice's session: %v", err)
	}
}
