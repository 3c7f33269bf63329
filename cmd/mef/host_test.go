//go:build integration

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netnstest"
)

// A server is a host with rules of its own, and a peer that tries its ports.
type server struct {
	*testing.T
	ns, peer *netnstest.NS
	link     string
	dir      string // configuration and state
}

// Ports on which something listens. A policy lets strangers reach one of them, some or none.
const (
	ssh = "22"
	web = "80"
)

// newServer makes a host with services on the ports, reachable from a peer.
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{T: t, ns: netnstest.New(t), peer: netnstest.New(t), dir: t.TempDir()}
	s.link, _ = netnstest.Join(t, s.ns, s.peer, "192.0.2.1/24 2001:db8::1/64", "192.0.2.7/24 2001:db8::7/64")
	for _, port := range []string{ssh, web} {
		s.ns.Echo(t, "tcp", ":"+port)
	}
	s.write("mef.conf", "[global]\nrules_file="+s.path("mef.rules")+"\ncache_dir="+s.path("state")+"\n")
	t.Cleanup(s.unguarded) // before the folder goes
	return s
}

// reboot is a new kernel, as far as rules go, with the same disk.
func (s *server) reboot() *server {
	s.Helper()
	fresh := newServer(s.T)
	fresh.dir = s.dir
	return fresh
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *server) write(name, text string) {
	s.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
}

// rules writes a policy that lets strangers reach ports, and tells them at once of the others.
func (s *server) rules(ports ...string) {
	s.Helper()
	s.write("mef.rules", policyFor(ports...))
}

func policyFor(ports ...string) string {
	text := "policy dir=in action=reject\n" +
		"rule dir=in action=accept proto=all iif=lo\n" +
		"rule dir=in action=accept proto=all ct=established,related\n" +
		"rule dir=in action=accept proto=icmp\n" +
		"rule dir=in action=accept proto=icmp6\n"
	for _, port := range ports {
		text += "rule dir=in action=accept proto=tcp dport=" + port + "\n"
	}
	return text
}

// command returns mef with arguments, to run on the host.
func (s *server) command(args ...string) *exec.Cmd {
	s.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		s.Fatal(err)
	}
	return exec.Command(path, append([]string{"--config", s.path("mef.conf")}, args...)...)
}

// start starts a command on the host.
func (s *server) start(cmd *exec.Cmd) {
	s.Helper()
	var err error
	s.ns.Do(func() { err = cmd.Start() })
	if err != nil {
		s.Fatal(err)
	}
}

// mef runs mef with arguments and returns what it printed and its exit status.
func (s *server) mef(args ...string) (output string, status int) {
	s.Helper()
	cmd := s.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	s.start(cmd)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// must is mef for what has to go well.
func (s *server) must(args ...string) string {
	s.Helper()
	out, status := s.mef(args...)
	if status != 0 {
		s.Fatalf("mef %s: exit status %d\n%s", strings.Join(args, " "), status, out)
	}
	return out
}

// open waits until exactly these of the ports can be reached, over IPv4 and IPv6.
func (s *server) open(ports ...string) {
	s.Helper()
	err := netnstest.Poll(func() error { return s.reachable(ports...) })
	if err != nil {
		s.Fatal(err)
	}
}

func (s *server) reachable(ports ...string) error {
	for _, port := range []string{ssh, web} {
		for _, host := range []string{"192.0.2.1", "[2001:db8::1]"} {
			want := false
			for _, p := range ports {
				want = want || p == port
			}
			if err := s.peer.Try("tcp", "", host+":"+port); (err == nil) != want {
				return fmt.Errorf("%s port %s: %v, want it open: %v", host, port, err, want)
			}
		}
	}
	return nil
}

// table returns our table as nft lists it, "" if there is none.
func (s *server) table() string {
	s.Helper()
	if !strings.Contains(s.ns.Run(s.T, "", "nft", "list", "tables"), "table inet mef\n") {
		return ""
	}
	return s.ns.Run(s.T, "", "nft", "-s", "list", "table", "inet", "mef")
}

// clearRules removes what a script has left in the shared namespace.
func clearRules(t *testing.T) {
	for _, table := range []string{"inet mef"} {
		_ = exec.Command("nft", append([]string{"delete", "table"}, strings.Fields(table)...)...).Run()
	}
}

// patience is how long a trial may take to begin or to end.
const patience = time.Minute

// wait waits for a process and returns its exit status.
func wait(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		t.Fatalf("%v did not end within %v", cmd.Args, patience)
	}
	return cmd.ProcessState.ExitCode()
}

// guard waits until a trial is guarded, and returns the process that does.
func (s *server) guard() (pid int) {
	s.Helper()
	err := netnstest.Poll(func() error {
		if pid = s.guardNow(); pid == 0 {
			return errors.New("nobody guards the trial")
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return pid
}

// guardNow returns the process that guards a trial, 0 if none does. It leads a session, unlike what it starts, which looks the same
// for a moment.
func (s *server) guardNow() (pid int) {
	matches, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range matches {
		line, _ := os.ReadFile(path)
		if bytes.Contains(line, []byte(s.path("mef.conf"))) && bytes.HasSuffix(line, []byte("\x00guard\x00")) {
			if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err != nil {
				continue
			}
			if session, err := unix.Getsid(pid); err == nil && session == pid {
				return pid
			}
		}
	}
	return 0
}

// unguarded waits until the guards of trials that are decided have noticed.
func (s *server) unguarded() {
	s.Helper()
	if err := netnstest.Poll(func() error {
		if pid := s.guardNow(); pid != 0 {
			return fmt.Errorf("process %d still guards a trial", pid)
		}
		return nil
	}); err != nil {
		s.Error(err)
	}
}

// kill kills a process as nobody can prevent, and waits until it has let go of all it held.
func (s *server) kill(pid int) {
	s.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		s.Fatalf("kill %d: %v", pid, err)
	}
	s.ends(pid)
}

// ends waits until a process is no more, whether or not anybody has asked how it ended.
func (s *server) ends(pid int) {
	s.Helper()
	err := netnstest.Poll(func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if state := stat[bytes.LastIndexByte(stat, ')')+1:]; err == nil && !bytes.HasPrefix(state, []byte(" Z")) {
			return fmt.Errorf("process %d goes on", pid)
		}
		if threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid)); len(threads) > 1 {
			return fmt.Errorf("threads of process %d go on", pid) // and hold its locks
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
}
