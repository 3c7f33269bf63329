//go:build integration

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"mef/internal/lab"
)

// TestOverIPTables bans by ipset and iptables: a guesser is banned, the ban outlives the daemon, what another program removes is restored,
// and the ban moves to nftables with the configuration.
func TestOverIPTables(t *testing.T) {
	const config = "[global]\nfirewall_backend=iptables\n"
	const from, neighbor = "203.0.113.160", "203.0.113.161"
	s := begin(t, config, nil)
	t.Cleanup(func() {
		s.w.Mefctl(context.WithoutCancel(s.ctx), "off")
		s.nft("flush ruleset") // iptables leaves its tables
	})
	s.fail(ssh, "root", repeat(from, 5)...)
	s.banned(from)
	s.silent(lab.SSHPort, from)
	s.reaches(lab.SSHPort, neighbor)
	if s.table() != "" {
		t.Error("there is a table of nftables")
	}
	for command, want := range map[string]string{
		"status":      "iptables: ipset mefd_* holds 1 bans, as it should be; used because firewall_backend=iptables",
		"why " + from: "mefd_ban4",
		"selftest":    "bans block",
	} {
		if out, _ := s.w.Mefctl(s.ctx, strings.Fields(command)...); !strings.Contains(out, want) {
			t.Errorf("mefctl %s prints\n%s\nwant %q", command, out, want)
		}
	}
	for _, damage := range []string{"iptables -w -t raw -F", "ipset flush", "iptables -w -t raw -I PREROUTING -j ACCEPT"} {
		s.program(damage)
		s.until("repair after "+damage, func() error {
			status, _ := s.w.Mefctl(s.ctx, "status") // it fails until the first self-test is done
			if !strings.Contains(status, "as it should be; repaired ") {
				return fmt.Errorf("status\n%s", status)
			}
			return nil
		})
		s.until("silence after "+damage, func() error {
			if got, err := s.w.Client(from).Probe(s.ctx, lab.SSHPort, silence); got != lab.TimedOut || err != nil {
				return fmt.Errorf("a connection %s, %v", got, err)
			}
			return nil
		})
	}
	s.stop(os.Kill)
	s.silent(lab.SSHPort, from)

	s.start("[global]\nfirewall_backend=nftables\n")
	s.until("the sets of ipset to go", func() error {
		if sets := s.program("ipset list -n"); strings.Contains(sets, "mefd") {
			return fmt.Errorf("sets\n%s", sets)
		}
		return nil
	})
	s.silent(lab.SSHPort, from)
	if !strings.Contains(s.table(), from) || strings.Contains(s.program("iptables-save"), "mefd") {
		t.Errorf("table\n%s\nand rules of iptables\n%s", s.table(), s.program("iptables-save"))
	}
	s.stop(os.Interrupt)

	s.start(config)
	s.until("the table of nftables to go", func() error {
		if table := s.table(); table != "" {
			return fmt.Errorf("table\n%s", table)
		}
		return nil
	})
	s.silent(lab.SSHPort, from)
	if out := s.mefctl("off"); !strings.Contains(out, "ipset mefd_* is removed: all bans are lifted") {
		t.Errorf("mefctl off prints %q", out)
	}
	s.reaches(lab.SSHPort, from)
	if left := s.program("ipset list -n") + s.program("iptables-save") + s.program("ip6tables-save"); strings.Contains(left, "mefd") {
		t.Errorf("mefctl off leaves\n%s", left)
	}
}

// program runs a program of /usr/sbin on the server and returns what it prints.
func (s *scene) program(line string) string {
	s.Helper()
	words := strings.Fields(line)
	out, err := s.w.Run(context.WithoutCancel(s.ctx), lab.Command{Path: "/usr/sbin/" + words[0], Args: words[1:]})
	if err != nil {
		s.Error(err)
	}
	return out
}
