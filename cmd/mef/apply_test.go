//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/netnstest"
)

// begun waits until the rules of a trial are in force.
func (s *server) begun(ports ...string) {
	s.Helper()
	s.guard()
	s.open(ports...)
}

// shortTrial begins a trial that nobody will confirm. It returns the command, which knows that the rules are in force and strangers reach
// these ports, and how long the trial lasts. If the machine is too slow to see that in time, the next trial lasts longer.
func (s *server) shortTrial(begin func(timeout string) *exec.Cmd, ports ...string) (cmd *exec.Cmd, timeout string) {
	s.Helper()
	for lasts := 2 * time.Second; ; lasts *= 4 {
		cmd = begin(lasts.String())
		began := time.Now()
		s.start(cmd)
		for {
			_, err := os.Stat(s.path("state-firewall/trial/result.json"))
			if err == nil {
				err = s.reachable(ports...)
			}
			if err == nil {
				return cmd, lasts.String()
			}
			if time.Since(began) > lasts {
				if lasts > patience {
					s.Fatalf("in a trial of %v: %v", lasts, err)
				}
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		wait(s.T, cmd)
		s.unguarded()
	}
}

// apply returns what begins a trial for shortTrial.
func (s *server) apply(args ...string) func(timeout string) *exec.Cmd {
	return func(timeout string) *exec.Cmd {
		return s.command(append([]string{"apply", "--timeout", timeout}, args...)...)
	}
}

// told waits until the guard has told whoever began the trial that its rules are in force.
func (s *server) told() {
	s.Helper()
	if err := netnstest.Poll(func() error {
		_, err := os.Stat(s.path("state-firewall/trial/result.json"))
		return err
	}); err != nil {
		s.Fatal(err)
	}
}

// try begins a trial of rules that let strangers reach both ports, and returns the command that waits for its end.
func (s *server) try(timeout string) *exec.Cmd {
	s.Helper()
	cmd := s.command("apply", "--timeout", timeout)
	s.start(cmd)
	s.begun(ssh, web)
	return cmd
}

// tried has one policy tried and confirmed, and another one ready to be tried.
func tried(t *testing.T) *server {
	s := newServer(t)
	s.rules(ssh)
	s.must("apply", "--yes")
	s.unguarded()
	s.open(ssh)
	s.rules(ssh, web)
	return s
}

func TestNobodyConfirms(t *testing.T) {
	s := tried(t)
	var out bytes.Buffer
	cmd, lasts := s.shortTrial(func(timeout string) *exec.Cmd {
		cmd := s.command("apply", "--timeout", timeout)
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd
	}, ssh, web)
	if status := wait(t, cmd); status != 1 || !strings.Contains(out.String(), "not confirmed") {
		t.Errorf("exit status %d\n%s", status, out.String())
	}
	s.open(ssh)
	if out, status := s.mef("confirm"); status != 1 || !strings.Contains(out, "not confirmed within "+lasts) {
		t.Errorf("mef confirm afterwards: exit status %d\n%s", status, out)
	}
}

func TestConfirmedFromAnotherSession(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	guard := s.guard()
	s.must("confirm")
	if status := wait(t, cmd); status != 0 {
		t.Errorf("apply ended with status %d after it was confirmed", status)
	}
	s.ends(guard)
	s.open(ssh, web)
	s.open(ssh, web) // the guard that has just ended took nothing back
	s.must("rollback")
	s.open(ssh)
	s.must("rollback")
	s.open(ssh, web)
}

// TestSecondApplyIsRefused has a trial go on while another one is asked for, with everything that both need.
func TestSecondApplyIsRefused(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	s.rules()
	if out, status := s.mef("apply", "--yes"); status != 1 || !strings.Contains(out, "rules are on trial already") {
		t.Errorf("the second apply: exit status %d\n%s", status, out)
	}
	s.open(ssh, web)
	s.must("rollback")
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d after it was rolled back", status)
	}
	s.open(ssh)
}

// TestWhateverEndsTheCommand ends mef apply in every way there is; the rules before come back each time.
func TestWhateverEndsTheCommand(t *testing.T) {
	for name, tt := range map[string]struct {
		expires bool // the trial, before anybody ends it
		end     func(s *server, cmd *exec.Cmd)
	}{
		"kill -9":     {true, func(s *server, cmd *exec.Cmd) { s.kill(cmd.Process.Pid) }},
		"hang-up":     {true, func(s *server, cmd *exec.Cmd) { syscall.Kill(cmd.Process.Pid, syscall.SIGHUP) }},
		"its session": {true, func(s *server, cmd *exec.Cmd) { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }},
		"interrupt":   {false, func(s *server, cmd *exec.Cmd) { syscall.Kill(cmd.Process.Pid, syscall.SIGINT) }},
		"termination": {false, func(s *server, cmd *exec.Cmd) { syscall.Kill(cmd.Process.Pid, syscall.SIGTERM) }},
		"no link": {true, func(s *server, cmd *exec.Cmd) {
			s.kill(cmd.Process.Pid)
			s.ns.Run(s.T, "", "ip", "link", "set", s.link, "down")
			s.ends(s.guard())
			s.ns.Run(s.T, "", "ip", "link", "set", s.link, "up")
			s.ns.Run(s.T, "", "ip", "addr", "replace", "2001:db8::1/64", "dev", s.link, "nodad") // it goes with the link
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := tried(t)
			apply := func(timeout string) *exec.Cmd {
				cmd := s.command("apply", "--timeout", timeout)
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
				return cmd
			}
			cmd := apply("5m")
			if tt.expires {
				cmd, _ = s.shortTrial(apply, ssh, web)
			} else {
				s.start(cmd)
				s.begun(ssh, web)
			}
			tt.end(s, cmd)
			if status := wait(t, cmd); status == 0 {
				t.Error("the command ended well")
			}
			s.open(ssh)
			s.must("status")
		})
	}
}

// TestTerminalIsClosed has an operator's terminal go away while he is asked.
func TestTerminalIsClosed(t *testing.T) {
	s := tried(t)
	cmd, _ := s.shortTrial(func(timeout string) *exec.Cmd {
		mef := s.command("apply", "--timeout", timeout)
		cmd := exec.Command("script", "-qefc", strings.Join(mef.Args, " "), os.DevNull)
		cmd.Stdout = new(bytes.Buffer)
		in, err := cmd.StdinPipe() // stays open: nobody answers
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close() })
		return cmd
	}, ssh, web)
	s.kill(cmd.Process.Pid) // with it goes the terminal
	wait(t, cmd)
	s.open(ssh)
}

// TestAnswersAtTheTerminal types what an operator would.
func TestAnswersAtTheTerminal(t *testing.T) {
	for answer, want := range map[string][]string{"y\n": {ssh, web}, "yes\n": {ssh, web}, "n\n": {ssh}, "\n": {ssh}, "maybe\n": {ssh}, "\x04": {ssh}, "\x03": {ssh}} {
		s := tried(t)
		mef := s.command("apply", "--timeout", "5m")
		cmd := exec.Command("script", "-qefc", strings.Join(mef.Args, " "), os.DevNull)
		out, err := os.Create(s.path("out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd.Stdout = out
		printed := func() string {
			text, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		s.start(cmd)
		s.begun(ssh, web)
		if answer == "\x03" { // Before the question it ends the command in another way.
			if err := netnstest.Poll(func() error {
				if !strings.Contains(printed(), "Keep these rules?") {
					return errors.New("nothing was asked")
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := in.Write([]byte(answer)); err != nil {
			t.Fatal(err)
		}
		status := wait(t, cmd)
		t.Logf("answer %q, exit status %d:\n%s", answer, status, printed())
		if !strings.Contains(printed(), "Keep these rules? [y/N]") {
			t.Error("nothing was asked")
		}
		s.open(want...)
		in.Close()
	}
}

// TestGuardIsKilled leaves a trial without anybody who would end it. Whoever comes next does.
func TestGuardIsKilled(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	s.kill(cmd.Process.Pid)
	wait(t, cmd)
	s.kill(s.guard())
	s.must("status") // this is somebody
	s.open(ssh)
	if out, status := s.mef("confirm"); status != 1 || !strings.Contains(out, "nothing to do") {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// TestGuardIsKilledAlone leaves the command that waits, which does what the guard would have done.
func TestGuardIsKilledAlone(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	s.told()
	s.kill(s.guard())
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d", status)
	}
	s.open(ssh)
	s.must("status")
}

func TestGuardIsToldToEnd(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	if err := syscall.Kill(s.guard(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d", status)
	}
	s.open(ssh)
}

// TestRebootInTheWindow starts the host again while rules are tried: with the confirmed ones, though the file says otherwise, at
// every boot until they are tried again and confirmed.
func TestRebootInTheWindow(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	s.kill(cmd.Process.Pid)
	wait(t, cmd)
	s.kill(s.guard())
	for range 2 {
		s = s.reboot()
		s.open(ssh, web) // nothing is loaded yet
		out, status := s.mef("load")
		if status != 1 || !strings.Contains(out, "and not confirmed") || !strings.Contains(out, "last good rules") {
			t.Errorf("mef load: exit status %d\n%s", status, out)
		}
		s.open(ssh)
	}
	s.must("apply", "--yes")
	s = s.reboot()
	s.must("load")
	s.open(ssh, web)
}

// TestFirstTrial has nothing to go back to but an open host.
func TestFirstTrial(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	cmd, _ := s.shortTrial(s.apply(), ssh)
	if status := wait(t, cmd); status != 1 {
		t.Errorf("exit status %d", status)
	}
	s.open(ssh, web)
	if table := s.table(); table != "" {
		t.Errorf("left behind:\n%s", table)
	}
}

// TestTrialOverRescueRules goes back to the rescue rules that a boot has loaded.
func TestTrialOverRescueRules(t *testing.T) {
	s := newServer(t)
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "only the rescue rules") {
		t.Fatalf("exit status %d\n%s", status, out)
	}
	s.open(ssh)
	s.rules(web)
	cmd, _ := s.shortTrial(s.apply("--force"), web)
	wait(t, cmd)
	s.open(ssh)
}

// TestLockout refuses to cut off who is logged in, his session or his next login.
func TestLockout(t *testing.T) {
	s := newServer(t)
	session, err := s.peer.Dial("tcp", "", "192.0.2.1:"+ssh, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	another, err := s.peer.Dial("tcp", "", "[2001:db8::1]:"+ssh, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	for name, tt := range map[string]struct{ text, want string }{
		"by another interface only": {policyFor() + "rule dir=in action=accept proto=tcp iif=wg0 dport=22\n", "a new SSH login from 192.0.2.7 to port 22 would be cut off: reject by policy"},
		"by the other family only":  {policyFor() + "rule dir=in family=ip6 action=accept proto=tcp dport=22\n", "a new SSH login from 192.0.2.7 to port 22 would be cut off: reject by policy"},
		"somebody else":             {policyFor() + "rule dir=in action=accept proto=tcp src=192.0.2.7 dport=22\n", "a new SSH login from 2001:db8::7 to port 22 would be cut off: reject by policy"},
		"the session": {"policy dir=in action=drop\nrule dir=in action=accept proto=tcp ct=new dport=22\n",
			"the SSH session from 192.0.2.7 to port 22 would be cut off: drop by policy"},
		"answers to it": {policyFor(ssh) + "policy dir=out action=drop\n",
			"the SSH session from 192.0.2.7 to port 22 would be cut off: drop by policy"},
		"the next login": {policyFor(web), "a new SSH login from 192.0.2.7 to port 22 would be cut off: reject by policy"},
		"one address": {strings.Replace(policyFor(ssh), "policy dir=in action=reject\n", "policy dir=in action=drop\nrule dir=in action=reject proto=tcp src=192.0.2.0/28\n", 1),
			"the SSH session from 192.0.2.7 to port 22 would be cut off: reject by "},
	} {
		s.write("mef.rules", tt.text)
		out, status := s.mef("apply", "--yes")
		if status != 1 || !strings.Contains(out, tt.want) || s.table() != "" {
			t.Errorf("%s: exit status %d, want %q\n%s", name, status, tt.want, out)
		}
	}
	s.rules(ssh)
	s.must("apply", "--yes")
	if err := netnstest.Say(session, patience); err != nil {
		t.Errorf("the session: %v", err)
	}
	s.rules(web)
	s.must("apply", "--yes", "--force")
	s.open(web)
}

// TestForeignTables has the tables of others stay as they are, whatever mef does.
func TestForeignTables(t *testing.T) {
	s := newServer(t)
	s.ns.Run(t, foreign, "nft", "-f", "-")
	list := func() string {
		var all strings.Builder
		for line := range strings.Lines(s.ns.Run(t, "", "nft", "list", "tables")) {
			if table := strings.Fields(line); strings.TrimSpace(line) != "table inet mef" {
				all.WriteString(s.ns.Run(t, "", "nft", append([]string{"-s", "-a", "list"}, table...)...))
			}
		}
		return all.String()
	}
	before := list()
	same := func(when string) {
		t.Helper()
		if after := list(); after != before {
			t.Fatalf("%s the tables of others are\n%s\nbefore:\n%s", when, after, before)
		}
	}
	s.rules(ssh)
	for _, args := range [][]string{{"check"}, {"plan"}, {"show"}, {"apply", "--yes"}, {"status"}, {"load"}, {"trace", "dir=in", "proto=tcp"}} {
		s.must(args...)
		same("after " + strings.Join(args, " "))
	}
	s.rules(ssh, web)
	s.mef("apply", "--timeout", "1s")
	same("after a trial that nobody confirmed")
	s.must("apply", "--yes")
	s.must("rollback")
	same("after rollback")
	s.must("clear")
	same("after clear")
}

// foreign is in the manner of Docker's rules by iptables-nft, and of firewalld.
const foreign = `
table ip nat {
	chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
	chain DOCKER { iifname != "docker0" tcp dport 8088 dnat to 172.17.0.2:80; }
	chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
}
table ip filter {
	chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; oifname "docker0" ct state related,established accept; }
	chain DOCKER-USER { return; }
}
table inet firewalld {
	set blocklist { type ipv4_addr; flags interval; elements = { 203.0.113.128/25 } }
	map zones { type ifname : verdict; elements = { "eth7" : accept } }
	chain filter_INPUT { type filter hook input priority filter + 10; policy accept; ct state { established, related } accept; iifname vmap @zones; ip saddr @blocklist drop; }
}
table ip mef { comment "another family, somebody else's"; }
`

// TestKernelRefuses leaves everything as it is when the kernel does not take a policy.
func TestKernelRefuses(t *testing.T) {
	s := tried(t)
	before := s.table()
	// A set of somebody else is something that only ipset has.
	s.write("mef.rules", policyFor(ssh)+"set name=others family=ip source=ipset:others\nrule dir=in action=drop proto=all src=@others\n")
	if out, status := s.mef("apply", "--yes"); status != 1 || !strings.Contains(out, "a set of ipset, which nftables cannot read") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if after := s.table(); after != before {
		t.Errorf("the table is\n%s\nit was\n%s", after, before)
	}
	s.rules(ssh, web)
	s.must("apply", "--yes") // nothing is left that would be in the way
}

// TestWhatThePolicyCloses names services that nobody could reach, and containers that could reach nobody.
func TestWhatThePolicyCloses(t *testing.T) {
	s := newServer(t)
	s.ns.Run(t, "", "ip", "link", "add", "docker0", "type", "bridge")
	s.ns.Run(t, "", "ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
	s.write("mef.rules", policyFor(ssh)+"policy dir=fwd action=drop\n")
	out := s.must("check")
	for _, want := range []string{
		"listens on tcp/80, but no address can reach it; write rule dir=in action=accept proto=tcp dport=80 if it should be reachable",
		"containers or virtual machines behind docker0 cannot connect to any address; write rule dir=fwd action=accept proto=all iif=docker0",
		"containers or virtual machines behind docker0 get no replies; write rule dir=fwd action=accept proto=all ct=established,related",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q:\n%s", want, out)
		}
	}
	s.write("mef.rules", policyFor(ssh, web)+"policy dir=fwd action=drop\nrule dir=fwd action=accept proto=all ct=established,related\n"+
		"rule dir=fwd action=accept proto=all iif=docker0\n")
	if out := s.must("check"); !strings.Contains(out, "this host does not forward such packets: net.ipv4.ip_forward is 0") {
		t.Errorf("no warning that this host forwards nothing:\n%s", out)
	}
	s.ns.Sysctl(t, "net.ipv4.ip_forward", "1")
	s.ns.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	if out := s.must("check"); strings.Contains(out, "warning") {
		t.Errorf("warnings about a policy that closes nothing:\n%s", out)
	}
}

// TestInterfaceThatIsNotThere has a policy about a VPN that is down: a warning, and it is loaded; what is overridden by force is named.
func TestInterfaceThatIsNotThere(t *testing.T) {
	s := newServer(t)
	s.write("mef.rules", policyFor(ssh)+"rule dir=in action=accept proto=tcp iif=wg7 dport="+web+"\n")
	if out := s.must("check"); !strings.Contains(out, `warning: `+s.path("mef.rules")+`:7:1: there is no interface "wg7" now`) {
		t.Errorf("check:\n%s", out)
	}
	s.must("apply", "--yes")
	s.open(ssh)
	s.write("mef.rules", policyFor(ssh)+"expect dir=in proto=tcp dport=25 action=accept\n")
	if out := s.must("apply", "--yes", "--force"); !strings.Contains(out, "--force overrides:\n  "+s.path("mef.rules")+":7:1: ") {
		t.Errorf("apply --force does not name what it overrides:\n%s", out)
	}
}

// TestClosedOverOneFamily warns of a policy that lets nobody log in over IPv6.
func TestClosedOverOneFamily(t *testing.T) {
	s := newServer(t)
	s.write("mef.rules", policyFor()+"rule dir=in action=accept proto=tcp src=192.0.2.0/24 dport="+ssh+"\n")
	if out := s.must("check"); !strings.Contains(out, "no address can log in by SSH over IPv6, port "+ssh) || strings.Contains(out, "over IPv4") {
		t.Errorf("check:\n%s", out)
	}
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	s := newServer(t)
	status := func() (out struct {
		InForce  bool `json:"in_force"`
		Changed  bool
		From     string
		Problems []string
	}, exit int) {
		t.Helper()
		text, exit := s.mef("--json", "status")
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return out, exit
	}
	if got, exit := status(); exit != 1 || got.InForce || len(got.Problems) == 0 {
		t.Errorf("before anything was loaded: %+v, exit status %d", got, exit)
	}
	s.rules(ssh)
	s.must("apply", "--yes")
	if got, exit := status(); exit != 0 || !got.InForce || got.Changed || len(got.Problems) > 0 {
		t.Errorf("after it was loaded: %+v, exit status %d", got, exit)
	}
	s.ns.Run(t, "table inet firewalld {\nchain filter_INPUT { }\n}\n", "nft", "-f", "-")
	if out := s.must("status"); !strings.Contains(out, "\nBeside:   firewalld has rules in force too") {
		t.Errorf("beside firewalld, status says\n%s", out)
	}
	s.rules(ssh, web)
	if got, exit := status(); exit != 0 || !got.Changed {
		t.Errorf("after the file was changed: %+v, exit status %d", got, exit)
	}
	s.ns.Run(t, "", "nft", "add", "rule", "inet", "mef", "input", "tcp", "dport", web, "accept")
	if got, exit := status(); exit != 1 || got.InForce {
		t.Errorf("after the table was changed: %+v, exit status %d", got, exit)
	}
	if out := s.must("plan"); !strings.Contains(out, "+\t\ttcp dport 80 accept") {
		t.Errorf("mef plan does not show the change:\n%s", out)
	}
	s.ns.Run(t, "", "nft", "flush", "ruleset")
	if got, exit := status(); exit != 1 || got.InForce {
		t.Errorf("after nft flush ruleset: %+v, exit status %d", got, exit)
	}
	s.must("load")
	if got, exit := status(); exit != 0 || !got.InForce || got.From != "file" {
		t.Errorf("after mef load: %+v, exit status %d", got, exit)
	}
}
