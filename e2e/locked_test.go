//go:build integration

package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/lab"
)

// status returns the daemon's status.
func (s *scene) status() control.Status {
	s.Helper()
	status, err := s.mef.Status(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	return status
}

// promote makes alice a member of the group sudo until the test ends.
func (s *scene) promote() {
	s.Helper()
	const path = "/etc/group"
	before, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	after := strings.Replace(string(before), "\nsudo:x:27:", "\nsudo:x:27:alice", 1)
	if after == string(before) {
		s.Fatal("the server has no group sudo")
	}
	if err := os.WriteFile(path, []byte(after), 0o644); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.WriteFile(path, before, 0o644) })
}

// protects waits until status counts n addresses with a live session of an administrator.
func (s *scene) protects(n int) {
	s.Helper()
	s.until(fmt.Sprintf("%d administrators to be protected", n), func() error {
		if got := s.status().Spared.AdminPeers; got != n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// Failures from an administrator's address during his session do not end the session. New SSH logins from there stay possible, and the
// other ports are closed to that address.
func TestAdministratorIsNotCutOff(t *testing.T) {
	for _, from := range []string{"198.51.100.60", "2001:db8:900d:60::1"} {
		t.Run(from, func(t *testing.T) {
			s := begin(t, "", nil)
			s.promote()
			proceed := filepath.Join(lab.Alice.Home(), "proceed")
			os.Remove(proceed)
			ended := make(chan error, 1)
			go func() {
				out, err := s.w.Client(from).SSH(s.ctx, lab.SSHPort, "alice", lab.Alice.Password,
					"while ! test -e "+proceed+"; do sleep 0.1; done; echo still here")
				if err == nil && out != "still here\n" {
					err = fmt.Errorf("the session printed %q", out)
				}
				ended <- err
			}()
			s.protects(1)
			for range 3 { // where one user logs in, twelve failures are the limit
				s.fail(ssh, "root", repeat(from, 5)...)
			}
			if b := s.banned(from); b.Ports != "1-21,23-65535" || !strings.Contains(b.Reason, "an administrator is logged in from it") {
				t.Errorf("banned on ports %s: %s; want all but 22, for the live session", b.Ports, b.Reason)
			}
			s.reaches(lab.SSHPort, from)
			s.silent(lab.FTPPort, from)
			if why := s.mefctl("why", from); !strings.Contains(why, "new bans do not cover port 22") {
				t.Errorf("why does not report the session:\n%s", why)
			}
			if err := os.WriteFile(proceed, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("alice's live session: %v", err)
			}
			s.protects(0)
		})
	}
}

// Sessions that logind records are protected too, but only those of administrators.
func TestSessionsOfLogind(t *testing.T) {
	s := begin(t, "", nil)
	const dir, root, mallory = "/run/systemd/sessions", "198.51.100.61", "198.51.100.62"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	s.stop(os.Interrupt) // logind's directory is there before the daemon, as on every machine that has logind
	s.start("")
	for id, text := range map[string]string{
		"1": "UID=0\nUSER=root\nSTATE=active\nSERVICE=sshd\nREMOTE_HOST=" + root + "\n",
		"2": "UID=1001\nUSER=mallory\nSTATE=active\nSERVICE=sshd\nREMOTE_HOST=" + mallory + "\n",
	} {
		if err := errors.Join(os.WriteFile(dir+"/.#"+id, []byte(text), 0o644), os.Rename(dir+"/.#"+id, dir+"/"+id)); err != nil {
			t.Fatal(err)
		}
	}
	s.protects(1)
	s.fail(ssh, "admin", repeat(root, 5)...)
	s.banned(root)
	s.reaches(lab.SSHPort, root)
	s.fail(ssh, "admin", repeat(mallory, 5)...)
	s.banned(mallory)
	s.silent(lab.SSHPort, mallory)
	if err := os.Remove(dir + "/1"); err != nil {
		t.Fatal(err)
	}
	s.protects(0)
}

// arm begins a trial, as mefctl enable does.
func (s *scene) arm(d time.Duration) control.Armed {
	s.Helper()
	armed, err := s.mef.Arm(s.ctx, control.ArmRequest{For: d})
	if err != nil {
		s.Fatal(err)
	}
	return armed
}

// banOnTrial begins a trial in which an address is banned, and returns the address. On a machine that is too slow for a short trial, the
// next one lasts longer.
func (s *scene) banOnTrial() (from string) {
	s.Helper()
	for n, lasts := 0, 6*time.Second; ; n, lasts = n+1, 4*lasts {
		from = fmt.Sprintf("198.51.100.%d", 200+n)
		armed := s.arm(lasts)
		s.fail(ssh, "admin", repeat(from, 5)...)
		over := false
		s.until("a ban of "+from+", or the end of the trial", func() error {
			over = !time.Now().Before(armed.Until)
			if over {
				return nil
			}
			return s.wasBanned(from)
		})
		if !over {
			return from
		}
		s.mefctl("confirm")
	}
}

// If a trial is not confirmed, bans made during it are lifted, and no address is banned until mefctl confirm.
func TestArmedAndNotConfirmed(t *testing.T) {
	for name, meanwhile := range map[string]func(*scene){
		"running":            func(*scene) {},
		"killed and started": func(s *scene) { s.stop(os.Kill); s.start("") },
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, "", nil)
			const later = "198.51.100.64"
			from := s.banOnTrial()
			meanwhile(s)
			s.until("the trial to end", func() error {
				if mode := s.status().Mode; mode != "observe" {
					return fmt.Errorf("mode is %s", mode)
				}
				return nil
			})
			s.until("the ban to be lifted", func() error {
				bans, err := s.mef.Bans(s.ctx)
				if err == nil && slices.ContainsFunc(bans, func(b control.Ban) bool { return b.Prefix == from }) {
					err = fmt.Errorf("there are %v", prefixes(bans))
				}
				return err
			})
			s.reaches(lab.SSHPort, from)
			s.fail(ssh, "admin", repeat(later, 6)...)
			s.reaches(lab.SSHPort, later)
			if out, err := s.w.Mefctl(s.ctx, "status"); err == nil || !strings.Contains(out, "run mefctl confirm") {
				t.Errorf("status does not name mefctl confirm, exit %v:\n%s", err, out)
			}
			s.mefctl("confirm")
			s.fail(ssh, "admin", repeat("198.51.100.65", 5)...)
			s.banned("198.51.100.65")
		})
	}
}

func TestArmedAndConfirmed(t *testing.T) {
	s := begin(t, "", nil)
	const from = "198.51.100.66"
	armed := s.arm(5 * time.Second)
	// The exit status may be 1: the daemon has just started, and no rule may have a live source yet.
	out, _ := s.w.Mefctl(s.ctx, "status")
	if time.Now().Before(armed.Until) && !strings.Contains(out, "warning: on trial: run mefctl confirm in a new SSH session within") {
		t.Errorf("status does not report the trial:\n%s", out)
	}
	s.mefctl("confirm")
	s.fail(ssh, "admin", repeat(from, 5)...)
	s.banned(from)
	s.until("the end of the trial to pass", func() error {
		if left := time.Until(armed.Until); left > -time.Second {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	s.banned(from)
	if mode := s.status().Mode; mode != "enforce" {
		t.Errorf("mode is %s", mode)
	}
}

// why names rules of other tables that drop an address.
func TestWhyNamesOtherTables(t *testing.T) {
	s := begin(t, "", nil)
	s.nft("add table inet other; add chain inet other in { type filter hook input priority 0; }; " +
		"add rule inet other in ip saddr 198.51.100.67 tcp dport 22 drop")
	t.Cleanup(func() { s.nft("delete table inet other") })
	if why := s.mefctl("why", "198.51.100.67"); !strings.Contains(why, "another table: table inet other chain in rule 1: drops 198.51.100.67, with further conditions") {
		t.Errorf("why prints\n%s", why)
	}
	if why := s.mefctl("why", "198.51.100.68"); strings.Contains(why, "another table:") {
		t.Errorf("for an address that no rule drops, why prints\n%s", why)
	}
}
