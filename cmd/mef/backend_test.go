//go:build integration

package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"mef/internal/netnstest"
)

// withIPTables has a server use iptables.
func withIPTables(t *testing.T) *server {
	t.Helper()
	for _, name := range []string{"iptables-restore", "ip6tables-restore", "ipset"} {
		if _, err := exec.LookPath(name); err != nil {
			netnstest.Missing(t, err.Error())
		}
	}
	s := newServer(t)
	s.backend("iptables")
	return s
}

func (s *server) backend(name string) {
	s.Helper()
	s.write("mef.conf", "[global]\nrules_file="+s.path("mef.rules")+"\ncache_dir="+s.path("state")+"\nfirewall_backend="+name+"\n")
}

// chains returns what of ours iptables holds, for both families, and the names of our sets.
func (s *server) chains() string {
	s.Helper()
	var ours strings.Builder
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(s.ns.Run(s.T, "", save)) {
			if strings.Contains(line, "MEF-") {
				ours.WriteString(line)
			}
		}
	}
	for line := range strings.Lines(s.ns.Run(s.T, "", "ipset", "list", "-n")) {
		if strings.HasPrefix(line, "mef-") {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

// TestIPTables does with iptables what the other tests do with nft.
func TestIPTables(t *testing.T) {
	s := withIPTables(t)
	s.write("mef.rules", policyFor(ssh)+"set name=office elements=192.0.2.7,2001:db8::7\n")
	s.must("apply", "--yes")
	s.open(ssh)
	if table := s.table(); table != "" {
		t.Errorf("iptables was asked for, and there is\n%s", table)
	}
	if out := s.must("status"); !strings.Contains(out, "Backend:  iptables: firewall_backend asks for it") {
		t.Errorf("status:\n%s", out)
	}

	s.write("mef.rules", policyFor(ssh)+"set name=office elements=192.0.2.7,2001:db8::7\nrule dir=in action=accept proto=tcp src=@office dport=80\n")
	if out := s.must("plan"); !strings.Contains(out, "dport=80: reject by policy ") || !strings.Contains(out, "--match-set mef-office-4a src") {
		t.Errorf("plan:\n%s", out)
	}
	cmd, _ := s.shortTrial(s.apply(), ssh, web)
	if status := wait(t, cmd); status != 1 {
		t.Errorf("nobody confirmed, and apply ended with status %d", status)
	}
	s.open(ssh)
	s.must("apply", "--yes")
	s.open(ssh, web)
	s.must("rollback")
	s.open(ssh)
	s.must("rollback")

	s.ns.Run(t, "", "ipset", "add", "mef-office-4a", "198.51.100.1")
	if out, status := s.mef("status"); status != 1 || !strings.Contains(out, "another program changed the rules in the kernel") {
		t.Errorf("a set was changed, and status says, with exit status %d,\n%s", status, out)
	}
	if out := s.must("plan"); !strings.Contains(out, "+add mef-office-4a 198.51.100.1") {
		t.Errorf("plan does not show the change:\n%s", out)
	}
	s.must("load")
	s.must("status")
	s.must("clear")
	s.open(ssh, web)
	if left := s.chains(); left != "" {
		t.Errorf("left after clear:\n%s", left)
	}
}

// TestBackendChanges goes from one backend to the other and back, and never leaves rules of both.
func TestBackendChanges(t *testing.T) {
	s := withIPTables(t)
	s.rules(ssh)
	for _, name := range []string{"iptables", "nftables", "iptables", "auto"} {
		s.backend(name)
		s.must("load")
		s.open(ssh)
		if byIPTables := s.chains() != ""; byIPTables != (name == "iptables") || (s.table() != "") == byIPTables {
			t.Errorf("firewall_backend=%s: chains of iptables\n%sand table of nft\n%s", name, s.chains(), s.table())
		}
	}
}

// TestFallBackToIPTables has no nft, so iptables must do.
func TestFallBackToIPTables(t *testing.T) {
	s := withIPTables(t)
	s.backend("auto")
	s.rules(ssh)
	hide(t, "nft")
	s.must("load")
	s.open(ssh)
	if out := s.must("status"); !strings.Contains(out, "Backend:  iptables: nftables is not available: nft: program not found: install the package nftables") {
		t.Errorf("status:\n%s", out)
	}
	s.must("clear")
	s.open(ssh, web)
}

// TestProgramIsRemovedWhileRulesAreTried restores the rules before by iptables, and what nft has loaded goes. Once nft is back, it has all.
func TestProgramIsRemovedWhileRulesAreTried(t *testing.T) {
	s := withIPTables(t)
	s.backend("auto")
	s.rules(ssh)
	s.must("apply", "--yes")
	s.unguarded()
	s.rules(ssh, web)
	cmd, _ := s.shortTrial(s.apply(), ssh, web)
	t.Run("without nft", func(t *testing.T) {
		hide(t, "nft")
		if status := wait(t, cmd); status != 1 {
			t.Errorf("apply ended with status %d", status)
		}
		s.open(ssh)
		s.must("status")
	})
	if s.chains() == "" || s.table() != "" {
		t.Errorf("without nft, chains of iptables:\n%s\ntable of nft:\n%s", s.chains(), s.table())
	}
	s.must("apply", "--yes")
	s.open(ssh, web)
	if s.chains() != "" || s.table() == "" {
		t.Errorf("with nft again, chains of iptables:\n%s\ntable of nft:\n%s", s.chains(), s.table())
	}
}

// TestNothingCanBeLoaded has a policy tried where neither it nor the one before can be had. It is not refused for that afterwards.
func TestNothingCanBeLoaded(t *testing.T) {
	s := withIPTables(t)
	const office = "set name=office elements=192.0.2.7,2001:db8::7\nrule dir=in action=accept proto=tcp src=@office dport="
	s.write("mef.rules", policyFor(ssh)+office+"25\n")
	s.must("apply", "--yes")
	t.Run("without ipset", func(t *testing.T) {
		hide(t, "ipset")
		if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "only the rescue rules") {
			t.Errorf("exit status %d\n%s", status, out)
		}
		s.write("mef.rules", policyFor(ssh)+office+web+"\n")
		if out, status := s.mef("apply", "--yes"); status != 1 || !strings.Contains(out, "program not found") {
			t.Errorf("exit status %d\n%s", status, out)
		}
	})
	s.must("load")
	s.open(ssh, web)
	s.must("status")
}

// TestProgramIsRemoved takes away by which program the rules were loaded that are in force.
func TestProgramIsRemoved(t *testing.T) {
	for name, tt := range map[string]struct {
		backend string
		hidden  []string
		reboot  bool // what iptables has loaded stays until then
	}{
		"nft":      {"nftables", []string{"nft"}, false},
		"iptables": {"iptables", []string{"iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := withIPTables(t)
			s.backend(tt.backend)
			s.rules(ssh)
			s.must("apply", "--yes")
			s.backend("auto")
			if tt.reboot {
				s = s.reboot()
				s.backend("auto")
			}
			hide(t, tt.hidden...)
			s.rules(ssh, web)
			s.must("load")
			s.open(ssh, web)
			s.must("status")
			s.must("clear")
		})
	}
}

// TestForeignChains has the chains of others stay as they are, whatever mef does with its own.
func TestForeignChains(t *testing.T) {
	s := withIPTables(t)
	s.ns.Run(t, foreignChains, "iptables-restore")
	s.ns.Run(t, "", "ipset", "create", "theirs", "hash:ip")
	list := func() string {
		var theirs strings.Builder
		for line := range strings.Lines(s.ns.Run(t, "", "iptables-save") + s.ns.Run(t, "", "ipset", "save")) {
			if !strings.Contains(line, "MEF-") && !strings.HasPrefix(line, "#") && !strings.Contains(line, " mef-") {
				theirs.WriteString(line)
			}
		}
		return counters.ReplaceAllString(theirs.String(), "")
	}
	before := list()
	s.write("mef.rules", policyFor(ssh)+"set name=office elements=192.0.2.7\nrule dir=in action=accept proto=tcp src=@office dport=80\n")
	for _, args := range [][]string{{"check"}, {"plan"}, {"apply", "--yes"}, {"status"}, {"load"}, {"clear"}} {
		s.must(args...)
		if after := list(); after != before {
			t.Fatalf("after %v the chains of others are\n%s\nbefore:\n%s", args, after, before)
		}
	}
}

// counters are what chains have counted, and sets remember of themselves.
var counters = regexp.MustCompile(`\[\d+:\d+\]| initval \S+`)

// foreignChains are in the manner of Docker's.
const foreignChains = `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A INPUT -p tcp -m tcp --dport 9 -j DROP
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`

// TestWithoutIPSet has a policy with sets refused by the name of what is missing, and what was in force stays and is called by its name.
func TestWithoutIPSet(t *testing.T) {
	s := withIPTables(t)
	s.backend("iptables")
	hide(t, "ipset")
	s.write("mef.rules", policyFor(ssh)+"set name=office elements=192.0.2.7\nrule dir=in action=accept proto=tcp src=@office dport=80\n")
	const missing = "sets need ipset: program not found: install the package ipset"
	for _, args := range [][]string{{"load"}, {"apply", "--yes"}} {
		if out, status := s.mef(args...); status != 1 || !strings.Contains(out, missing) {
			t.Errorf("mef %q: exit status %d:\n%s\nwant 1 and %q", args, status, out, missing)
		}
		s.open(ssh)
		out, status := s.mef("status")
		for _, want := range []string{"rules of the rescue policy", missing, "only the rescue rules are in force"} {
			if status != 1 || !strings.Contains(out, want) {
				t.Errorf("mef status after mef %q: exit status %d:\n%s\nwant 1 and %q", args, status, out, want)
			}
		}
	}
}
