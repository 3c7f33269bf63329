//go:build integration

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// longRules is how many rules a policy needs to be larger than a pipe.
const longRules = 700

// longPolicy is policyFor with so many more rules that loading them takes a while.
func longPolicy(ports ...string) string {
	var b strings.Builder
	b.WriteString(policyFor(ports...))
	for i := range longRules {
		fmt.Fprintf(&b, "rule dir=in action=accept proto=udp src=10.%d.%d.0/24 dport=%d\n", i/250, i%250, 1000+i)
	}
	return b.String()
}

// TestApplyIsKilledAtAnyTime: the old rules or the new ones are in force, never none and never half of them, and the next command succeeds.
func TestApplyIsKilledAtAnyTime(t *testing.T) {
	s := tried(t)
	s.write("mef.rules", longPolicy(ssh, web))
	begun := time.Now()
	s.must("apply", "--yes")
	lasts := time.Since(begun)
	for i := range 4 {
		s.write("mef.rules", policyFor(ssh))
		s.must("apply", "--yes")
		s.write("mef.rules", longPolicy(ssh, web))
		cmd := s.command("apply", "--yes")
		s.start(cmd)
		time.Sleep(lasts * time.Duration(i) / 4) // any moment will do
		s.kill(cmd.Process.Pid)
		_ = cmd.Wait()
		old, now := s.reachable(ssh), s.reachable(ssh, web)
		if old != nil && now != nil {
			t.Fatalf("killed after %d quarters: neither the old rules hold (%v) nor the new ones (%v)", i, old, now)
		}
		if n := strings.Count(s.table(), " 10."); n != 0 && n < longRules {
			t.Fatalf("killed after %d quarters: %d of the rules are loaded", i, n)
		}
		s.must("apply", "--yes")
		s.open(ssh, web)
	}
}

// TestApplyWithAFullDisk loads nothing that cannot be kept.
func TestApplyWithAFullDisk(t *testing.T) {
	s := newServer(t)
	s.smallDisk()
	s.rules(ssh)
	s.must("apply", "--yes")
	s.rules(ssh, web)
	s.fill()
	for _, args := range [][]string{{"apply", "--yes"}, {"apply", "--timeout", "5m"}} {
		if out, status := s.mef(args...); status != 1 || !strings.Contains(out, "no space left on device") {
			t.Errorf("mef %q: exit status %d\n%s", args, status, out)
		}
		s.open(ssh)
	}
	if out, _ := s.mef("status"); !strings.Contains(out, "In force: yes") {
		t.Errorf("status:\n%s", out)
	}
}

// TestNftFails has nft end in several ways before it has read all. The old rules stay, and the message reports how it ended.
func TestNftFails(t *testing.T) {
	for name, tt := range map[string]struct{ program, want string }{
		"at once":                      {"exit 1", "exit status 1"},
		"half way":                     {"head -c 200 > /dev/null; echo no memory >&2; exit 1", "no memory"},
		"it is killed":                 {"head -c 200 > /dev/null; kill -9 $$", "signal: killed"},
		"it gives up without an error": {"exit 0", "the kernel refused the rules: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := tried(t)
			s.write("mef.rules", longPolicy(ssh, web))
			s.write("nft", "#!/bin/sh\n"+tt.program+"\n")
			path, err := exec.LookPath("nft")
			if err == nil {
				err = os.Chmod(s.path("nft"), 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			bind(t, s.path("nft"), path)
			for _, args := range [][]string{{"apply", "--yes"}, {"apply", "--timeout", "1m"}} {
				if out, status := s.mef(args...); status != 1 || !strings.Contains(out, tt.want) {
					t.Errorf("mef %q: exit status %d, want 1 and %q\n%s", args, status, tt.want, out)
				}
				s.open(ssh)
			}
		})
	}
}

// TestManyLoadersAtOnce: each waits for the other, and what is in force is what the last one has noted.
func TestManyLoadersAtOnce(t *testing.T) {
	s := tried(t)
	cmds := make([]*exec.Cmd, 6)
	out := make([]bytes.Buffer, len(cmds))
	for i := range cmds {
		cmds[i] = s.command([][]string{{"load"}, {"apply", "--yes"}}[i%2]...)
		cmds[i].Stdout, cmds[i].Stderr = &out[i], &out[i]
		s.start(cmds[i])
	}
	for i, cmd := range cmds {
		if status := wait(t, cmd); status != 0 {
			t.Errorf("%v: exit status %d\n%s", cmd.Args, status, &out[i])
		}
	}
	s.open(ssh, web)
	if out, status := s.mef("status"); status != 0 {
		t.Errorf("status: %d\n%s", status, out)
	}
	if _, err := os.Stat(s.path("state-firewall/staged")); err == nil {
		t.Error("rules are left that were never confirmed")
	}
}
