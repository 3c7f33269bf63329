//go:build integration

package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mef/internal/lab"
)

// engineRules are the rules that Docker loads with iptables-restore for one published port.
const engineRules = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
`

// zoneRules resemble firewalld's: its chains and priorities, sets with and without timeouts, a verdict map, and
// counters to which no packet of the test adds.
const zoneRules = `
table inet firewalld {
	counter rejected { packets 7 bytes 420 }
	set blocklist { type ipv4_addr; flags interval; elements = { 192.0.2.128/25, 203.0.113.250 } }
	set met { type ipv6_addr; flags timeout; timeout 1d; }
	map zones { type ifname : verdict; elements = { "lab0" : jump zone_public } }
	chain zone_public {
		tcp dport { 21, 22, 143, 2200 } accept
		meta l4proto icmp accept
	}
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	}
	chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		iifname "lo" accept
		iifname vmap @zones
		tcp dport 9 counter name rejected reject with icmpx admin-prohibited
	}
	chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept; oifname "lo" accept; }
}
table netdev ingress { }
table ip mefdaemon { comment "another family, somebody else's"; }
`

// The daemon does not change other tables, whatever it does with its own: they stay equal to the byte, including handles.
func TestNeighboursTablesStayTheSame(t *testing.T) {
	s, d := beginFromFile(t)
	s.stop(syscall.SIGTERM)
	s.forget()
	for name, text := range fromFile() {
		if err := errors.Join(os.MkdirAll("/etc/mef/rules.d", 0o755), os.WriteFile("/etc/mef/rules.d/"+name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s.neighbours()
	before := s.foreign()
	same := func(when string) {
		t.Helper()
		if after := s.foreign(); after != before {
			t.Fatalf("%s the tables of others are\n%s\nbefore:\n%s", when, after, before)
		}
	}
	const from, byHand = "203.0.113.245", "2001:db8:bad0:f5::/64"
	s.start("")
	same("after the start")
	s.failed(d, from)
	s.mefctl("bans", "add", byHand, "--for", "1h")
	s.mefctl("bans", "add", "203.0.113.246", "--for", "1h", "--ports", "22,2200-2300")
	s.silent(lab.SSHPort, from)
	s.reaches(lab.SSHPort, "198.51.100.245")
	same("after bans")
	s.mefctl("bans", "delete", byHand)
	same("after an unban")

	for _, damage := range []string{"flush table inet mefdaemon", "delete table inet mefdaemon", "flush chain inet mefdaemon ban4", "flush set inet mefdaemon ban4_32"} {
		s.stop(os.Kill) // repairs of the same object again and again would be delayed
		s.start("")
		s.nft(damage)
		s.repaired(from)
		same("after " + damage)
	}
	s.stop(os.Kill)
	same("after kill -9")
	s.start("")
	s.banned(from)
	same("after a crash and a start")

	// After a flush of everything the daemon restores its own table only.
	s.nft("flush ruleset")
	s.repaired(from)
	if after := s.foreign(); after != "" {
		t.Errorf("after flush ruleset there is\n%s\nwant nothing but our table", after)
	}
	s.neighbours()
	before = s.foreign()
	s.mefctl("off")
	same("after off")
	if s.table() != "" {
		t.Errorf("after off our table is\n%s", s.table())
	}
}

// neighbours loads the tables of other programs until the test ends.
func (s *scene) neighbours() {
	s.Helper()
	s.Cleanup(func() {
		for _, table := range s.foreignTables() {
			s.nft("delete " + table)
		}
	})
	for _, c := range []lab.Command{
		{Path: "/usr/sbin/iptables-nft-restore", Stdin: engineRules},
		{Path: "/usr/sbin/nft", Args: []string{"-f", "-"}, Stdin: zoneRules},
	} {
		if _, err := s.w.Run(s.ctx, c); err != nil {
			s.Fatal(err)
		}
	}
}

// repaired waits until a ban is back in the kernel and status reports that the table matches.
func (s *scene) repaired(from string) {
	s.Helper()
	s.until("the ban to be back", func() error {
		if table := s.table(); !strings.Contains(table, from) || !strings.Contains(table, "@ban4_32") {
			return fmt.Errorf("the table is %q", table)
		}
		status, err := s.mef.Status(s.ctx)
		if err == nil && !status.Kernel.Matches {
			err = fmt.Errorf("the kernel is %+v", status.Kernel)
		}
		return err
	})
	s.silent(lab.SSHPort, from)
}

// foreignTables names the tables that are not ours: "table ip nat".
func (s *scene) foreignTables() []string {
	s.Helper()
	tables := strings.Split(strings.TrimSpace(s.nft("list tables")), "\n")
	return slices.DeleteFunc(tables, func(table string) bool { return table == "" || table == "table inet mefdaemon" })
}

// foreign returns all tables that are not ours, with all handles. Named counters are listed with their values, rules without, because
// the test's own traffic adds to those.
func (s *scene) foreign() string {
	s.Helper()
	var all strings.Builder
	for _, table := range s.foreignTables() {
		for _, args := range [][]string{{"-s", "-a", "list"}, {"-a", "list", "counters"}} {
			out, err := s.w.Run(s.ctx, lab.Command{Path: "/usr/sbin/nft", Args: append(args, strings.Fields(table)...)})
			if err != nil {
				s.Fatal(err)
			}
			all.WriteString(out)
		}
	}
	return all.String()
}
