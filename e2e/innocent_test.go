//go:build integration

package e2e_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/lab"
)

// barrier waits until the daemon has processed everything in the journal so far: it has another address banned.
func (s *scene) barrier(from string) {
	s.Helper()
	s.fail(ssh, "root", repeat(from, 5)...)
	s.banned(from)
}

func TestKnownLoginMayMistype(t *testing.T) {
	for _, from := range []string{"198.51.100.10", "2001:db8:900d:10::1"} {
		t.Run(from, func(t *testing.T) {
			s := begin(t, "", nil)
			alice := s.w.Client(from)
			login := func() {
				t.Helper()
				if _, err := alice.SSH(s.ctx, lab.SSHPort, "alice", lab.Alice.Password, ""); err != nil {
					t.Errorf("alice logs in: %v", err)
				}
			}
			login()
			s.fail(ssh, "alice", repeat(from, 8)...)
			s.barrier("203.0.113.110")
			s.notBanned(from)
			login()
			why, err := s.mef.Why(s.ctx, netip.MustParseAddr(from))
			if err != nil || !slices.Contains(why.Known, "alice") {
				t.Errorf("why %s: known users %q, %v; want alice", from, why.Known, err)
			}
		})
	}
}

// A login excuses failures of its own user only. An address that guesses passwords of other users is banned.
func TestKnownLoginIsNoLicence(t *testing.T) {
	s := begin(t, "", nil)
	const from = "198.51.100.20"
	if _, err := s.w.Client(from).SSH(s.ctx, lab.SSHPort, "mallory", lab.Mallory.Password, ""); err != nil {
		t.Fatal(err)
	}
	for range 3 { // where one user logs in, twelve failures are the limit
		s.fail(ssh, "root", repeat(from, 5)...)
	}
	s.banned(from)
	s.silent(lab.SSHPort, from)
}

func TestMistypingTwiceIsNothing(t *testing.T) {
	s := begin(t, "", nil)
	const from = "198.51.100.30"
	s.fail(ssh, "alice", repeat(from, 2)...)
	s.barrier("203.0.113.120")
	s.notBanned(from)
	if _, err := s.w.Client(from).SSH(s.ctx, lab.SSHPort, "alice", lab.Alice.Password, ""); err != nil {
		t.Errorf("alice logs in: %v", err)
	}
}

// Every local user can write to the journal under the name sshd. Such lines ban no address.
func TestLocalUserCannotBan(t *testing.T) {
	const victim = "198.51.100.40"
	forged := fmt.Sprintf("Failed password for root from %s port 4711 ssh2", victim)
	renamed := filepath.Join(lab.Mallory.Home(), "sshd")
	for name, tt := range map[string]struct {
		prepare func(*scene)
		forge   lab.Command
	}{
		"logger -t sshd": {forge: lab.Command{Path: "/usr/bin/logger", Args: []string{"-p", "auth.info", "-t", "sshd", forged}}},
		"logger with a process ID of his choice": {
			forge: lab.Command{Path: "/usr/bin/logger", Args: []string{"-p", "auth.info", "--id=1", "-t", "sshd", forged}},
		},
		"a program renamed to sshd": {
			prepare: func(s *scene) { s.install("/usr/bin/logger", renamed) },
			forge:   lab.Command{Path: renamed, Args: []string{"-p", "auth.info", "-t", "sshd", forged}},
		},
		"systemd-cat": {forge: lab.Command{Path: "/usr/bin/systemd-cat", Args: []string{"-t", "sshd", "/bin/echo", forged}}},
		"native protocol": {
			forge: lab.Command{Path: "/usr/bin/logger", Args: []string{"--journald"}, Stdin: "SYSLOG_IDENTIFIER=sshd\n" +
				"_UID=0\n_SYSTEMD_UNIT=ssh.service\n_COMM=sshd\nMESSAGE=" + forged + "\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, "", nil)
			if tt.prepare != nil {
				tt.prepare(s)
			}
			tt.forge.As, tt.forge.Unit = &lab.Mallory, lab.Mallory.Session()
			for range 12 {
				if _, err := s.w.Run(s.ctx, tt.forge); err != nil {
					t.Fatal(err)
				}
			}
			s.inJournal(forged)
			s.barrier("203.0.113.130")
			s.notBanned(victim)
			if n := s.attempts(victim); n != 0 {
				t.Errorf("%v forged failures count, want 0", n)
			}
			s.reaches(lab.SSHPort, victim)
		})
	}
}

func TestUsersOwnSSHDCannotBan(t *testing.T) {
	s := begin(t, "", nil)
	const victim, port = "198.51.100.50", 2222
	own, err := s.w.StartOwnSSH(s.ctx, lab.Mallory, port)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop(os.Kill)
	for range 8 {
		_, err := s.w.Client(victim).SSH(s.ctx, port, "nobody-here", wrong, "")
		if !errors.Is(err, lab.ErrDenied) {
			t.Fatalf("login at mallory's own sshd: %v, want a refusal", err)
		}
	}
	s.inJournal("Failed password for invalid user nobody-here from " + victim)
	s.barrier("203.0.113.140")
	s.notBanned(victim)
	s.reaches(lab.SSHPort, victim)
}

// install copies a program, executable by all users.
func (s *scene) install(from, to string) {
	s.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		s.Fatal(err)
	}
}

// inJournal waits until the journal has a message of the local user that contains text. Without it the forgery was not tested.
func (s *scene) inJournal(text string) {
	s.Helper()
	grep := lab.Command{Path: "/usr/bin/journalctl", Args: []string{"--output=cat", "--identifier=sshd", fmt.Sprintf("_UID=%d", lab.Mallory.UID)}}
	s.until("the journal to have mallory's lines", func() error {
		out, err := s.w.Run(s.ctx, grep)
		if err == nil && !strings.Contains(out, text) {
			err = fmt.Errorf("it has %q", out)
		}
		return err
	})
}
