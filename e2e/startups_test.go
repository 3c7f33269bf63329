//go:build integration

package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/lab"
)

const (
	startupsPort = 2200
	// startupsUnit is a unit that the rule of sshd trusts.
	startupsUnit   = "system.slice/ssh@startups.service"
	startupsConfig = `Port 2200
HostKey /etc/ssh/ssh_host_ed25519_key
UsePAM yes
KbdInteractiveAuthentication no
MaxStartups 10:30:60
LoginGraceTime 120
PidFile none
`
)

// Connections without a login count against sshd's MaxStartups for LoginGraceTime, two minutes by default: with 18 of them
// sshd refuses four of ten others. A ban alone does not change that, because sshd keeps the connections; ending them does.
func TestBannedPeersLeaveRoomForOthers(t *testing.T) {
	const halfOpen = 18
	for name, tt := range map[string]struct {
		from []string // in turn
		ban  func(s *scene)
	}{
		"one attacker": {[]string{"203.0.113.100"}, func(s *scene) {
			s.fail(ssh, "root", repeat("203.0.113.100", 5)...)
			s.banned("203.0.113.100")
		}},
		"18 attackers": {startupsFrom(halfOpen), func(s *scene) {
			for _, from := range startupsFrom(halfOpen) {
				s.mefctl("bans", "add", from, "--for", "1h")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, "", nil)
			s.startupsSSH()
			for _, conn := range s.halfOpen(halfOpen, tt.from) {
				defer conn.Close()
			}
			if n := processes(t); n <= halfOpen {
				t.Errorf("sshd has %d processes, want one at least for each of %d connections", n, halfOpen)
			}
			tt.ban(s)
			banned := time.Now()
			s.until("sshd to have lost its half-open connections", func() error {
				if n := processes(t); n != 1 {
					return fmt.Errorf("sshd has %d processes", n)
				}
				return nil
			})
			t.Logf("sshd had lost %d connections %v after the last ban", halfOpen, time.Since(banned))
			for i := range 10 {
				alice := s.w.Client(fmt.Sprintf("198.51.100.%d", 100+i))
				if out, err := alice.SSH(s.ctx, startupsPort, "alice", lab.Alice.Password, "echo in"); err != nil || out != "in\n" {
					t.Errorf("right login number %d of 10: %q, %v", i+1, out, err)
				}
			}
			s.silent(startupsPort, tt.from[0], tt.from[len(tt.from)-1])
		})
	}
}

// startupsFrom returns n attackers of both families.
func startupsFrom(n int) (from []string) {
	for i := range n {
		if i%3 == 2 {
			from = append(from, fmt.Sprintf("2001:db8:bad0:c%02x::1", 16*i)) // too far apart to be banned as one
		} else {
			from = append(from, fmt.Sprintf("203.0.113.%d", 101+i))
		}
	}
	return from
}

// startupsSSH starts another sshd, with Debian's limits, until the test ends.
func (s *scene) startupsSSH() {
	s.Helper()
	const config = "/etc/ssh/sshd_startups"
	if err := os.WriteFile(config, []byte(startupsConfig), 0o644); err != nil {
		s.Fatal(err)
	}
	p, err := s.w.Start(lab.Command{Path: "/usr/sbin/sshd", Args: []string{"-D", "-f", config}, Unit: startupsUnit})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := p.Stop(os.Interrupt); err != nil {
			s.Error(err)
		}
	})
	s.until("sshd to listen", func() error {
		got, err := s.w.Client(lab.Router4.String()).Probe(s.ctx, startupsPort, silence)
		if err == nil && got != lab.Reached {
			err = fmt.Errorf("a connection is %s", got)
		}
		return err
	})
}

// halfOpen makes n connections from addresses in turn, which send their version and nothing more. sshd refuses some, which are made
// again.
func (s *scene) halfOpen(n int, from []string) (held []net.Conn) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	s.Cleanup(cancel)
	for tries := 0; len(held) < n; tries++ {
		if tries == 20*n {
			s.Fatalf("sshd takes %d of %d connections in %d tries", len(held), n, tries)
		}
		conn, err := s.w.Client(from[len(held)%len(from)]).Dial(ctx, startupsPort)
		if err != nil {
			s.Fatal(err)
		}
		fmt.Fprint(conn, "SSH-2.0-silent\r\n")
		if banner, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(banner, "SSH-") {
			conn.Close()
			continue
		}
		held = append(held, conn)
	}
	return held
}

// processes counts the processes of the sshd that startupsSSH started. It has two for each connection without a login.
func processes(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/sys/fs/cgroup/" + startupsUnit + "/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(strings.Fields(string(data)), isZombie))
}

// isZombie reports whether a process has ended and its parent has not waited for it yet (proc_pid_stat(5)).
func isZombie(pid string) bool {
	data, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(data), ") ")
	return strings.HasPrefix(after, "Z")
}
