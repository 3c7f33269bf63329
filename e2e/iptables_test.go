//go:build integration

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
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
	s.leaveNothing()
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

// leaveNothing removes at the end of the test what is in sets and rules.
func (s *scene) leaveNothing() {
	s.Cleanup(func() {
		s.w.Mefctl(context.WithoutCancel(s.ctx), "off")
		s.nft("flush ruleset") // iptables leaves its tables
	})
}

// TestScenesOverIPTables has scans, floods, a storm and restarts over iptables, as others have them over nftables.
func TestScenesOverIPTables(t *testing.T) {
	const config = everyFailure + "firewall_backend=iptables\nps_packet_udp=true\n" + floodLimits
	s, d := beginFromFileWith(t, config)
	s.leaveNothing()
	s.watches()
	for name, scene := range map[string]func(*scene){
		"scans": func(s *scene) {
			s.scans(map[string][]string{
				"203.0.113.11":     {"-sS"},
				"203.0.113.13":     {"-sU"},
				"203.0.113.16":     {"-sX"},
				"203.0.113.18":     {"-sS", "-D", "203.0.113.50,203.0.113.51,ME"},
				"2001:db8:bad0::1": {"-sF"},
			})
		},
		"forged scans": (*scene).forgedScans,
		"floods":       (*scene).floods,
	} {
		t.Run(name, func(t *testing.T) {
			in := *s
			in.T = t
			scene(&in)
		})
	}

	all := s.storm(d, number(t, "MEF_E2E_STORM", 10_000)/5)
	const byLog, byHand, onPort, free = "203.0.113.210", "2001:db8:bad2::1", "203.0.113.212", "198.51.100.213"
	s.failed(d, byLog)
	s.mefctl("bans", "add", byHand, "--for", "1h")
	s.mefctl("bans", "add", onPort, "--for", "1h", "--ports", strconv.Itoa(probePort))
	held := s.program("ipset save")
	for _, addr := range all {
		if !strings.Contains(held, " "+addr.String()+" ") {
			t.Fatalf("%s is not in the sets, of %d bytes", addr, len(held))
		}
	}
	probers := s.probers(byLog, byHand, onPort, free)
	s.gaps(probers, "before", 0)
	s.restarts(probers, config, 2)
	s.program("iptables -w -t raw -F")
	s.until("repair", func() error {
		if status, _ := s.w.Mefctl(s.ctx, "status"); !strings.Contains(status, "as it should be; repaired ") {
			return fmt.Errorf("status\n%s", status)
		}
		return nil
	})
	s.arrivals(probers[3], 500) // what waits to be received
	for _, p := range probers[:3] {
		t.Logf("%d packets of %s arrived after a flush", p.arrived.Swap(0), p.from)
	}
	s.gaps(probers, "after a repair", 100)
	if status := s.status(); status.Kernel.Backend != "iptables" || s.table() != "" {
		t.Errorf("the backend is %q; table\n%s", status.Kernel.Backend, s.table())
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
