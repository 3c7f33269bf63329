//go:build integration

package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/lab"
)

// keepJournal restarts the world's journald with another storage and an empty journal, until the test ends.
func keepJournal(t *testing.T, storage string) {
	t.Helper()
	if missing != nil {
		return // begin reports it
	}
	change := func(storage string) {
		if err := journald.Stop(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		var err error
		if journald, err = world.StartJournalWith(t.Context(), storage); err != nil {
			t.Fatal(err)
		}
	}
	change(storage)
	t.Cleanup(func() {
		p, err := world.StartJournal(context.WithoutCancel(t.Context()))
		if err != nil {
			t.Error(err)
		}
		journald = p
	})
	t.Cleanup(func() {
		if err := journald.Stop(unix.SIGTERM); err != nil {
			t.Error(err)
		}
	})
}

// forgery has the lines that a local user writes with logger(1) to have an address banned, or a login trusted.
var forgery = []struct{ priority, tag, text string }{
	{"auth.info", "sshd", "Failed password for root from %s port 1 ssh2"},
	{"auth.info", "vsftpd", `[pid 1] [root] FAIL LOGIN: Client "%s"`},
	{"auth.info", "vsftpd", `[pid 1] [root] OK LOGIN: Client "%s"`},
	{"mail.info", "dovecot", "imap-login: Disconnected (auth failed, 5 attempts in 9 secs): user=<root>, method=PLAIN, rip=%s, lip=192.0.2.1"},
	{"mail.info", "postfix/smtpd", "warning: unknown[%s]: SASL LOGIN authentication failed: x"},
}

// logger writes lines as a local user.
func (s *scene) logger(priority, tag string, lines ...string) {
	s.Helper()
	cmd := lab.Command{Path: "/usr/bin/logger", Args: []string{"-p", priority, "-t", tag}, Stdin: strings.Join(lines, "\n") + "\n",
		As: &lab.Mallory, Unit: lab.Mallory.Session()}
	if _, err := s.w.Run(s.ctx, cmd); err != nil {
		s.Fatal(err)
	}
}

// forge writes every forgery about an address, often enough for a ban, until the syslog daemon has written all of them: journald drops
// messages that the syslog daemon is too slow to receive.
func (s *scene) forge(addr string) {
	s.Helper()
	for _, f := range forgery {
		line := fmt.Sprintf(f.text, addr)
		s.until("rsyslog has written it", func() error {
			s.logger(f.priority, f.tag, repeat(line, 12)...)
			auth, err := os.ReadFile("/var/log/auth.log")
			mail, mailErr := os.ReadFile("/var/log/mail.log")
			if strings.Count(string(auth)+string(mail), line) < 12 {
				return fmt.Errorf("not 12 times %q: %v, %v", line, err, mailErr)
			}
			return nil
		})
	}
}

// Lines that a local user writes with logger(1) have no effect: with a syslog daemon, with both kinds of storage of journald, after a
// restart, and even if the user fills the journal.
func TestLocalUsersForgeNothing(t *testing.T) {
	for storage, net := range map[string]string{"volatile": "198.51.100.", "persistent": "203.0.113."} {
		t.Run(storage, func(t *testing.T) {
			keepJournal(t, storage)
			s := begin(t, "", nil)
			rsyslog, err := s.w.StartRsyslog(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				rsyslog.Stop(unix.SIGTERM)
				os.Remove("/var/log/auth.log")
				os.Remove("/var/log/mail.log")
			})
			s.forge(net + "11")
			s.fail(ssh, "root", repeat(net+"12", 5)...) // real ones count
			s.banned(net + "12")

			s.logger("auth.info", "sshd", repeat("nothing", 12_000)...)
			s.stop(unix.SIGTERM)
			s.start("")
			s.forge(net + "13")
			s.fail(ssh, "root", repeat(net+"14", 5)...)
			s.banned(net + "14")
			s.notBanned(net+"11", net+"13")
			status, err := s.mef.Status(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if status.Tracker.KnownLogins > 0 {
				t.Errorf("%d logins are known", status.Tracker.KnownLogins)
			}
			for _, src := range status.Sources {
				if src.Name == "/var/log/auth.log" || src.Name == "/var/log/mail.log" {
					t.Errorf("%s is read, by %q", src.Name, src.Rules)
				}
			}
		})
	}
}

// The log file of a service is read even if the journal has PAM's lines about it, also after a restart.
func TestOwnLogBesidePAM(t *testing.T) {
	s := begin(t, "", nil)
	const from, client = "203.0.113.63", "198.51.100.63"
	s.fail(ftp, "alice", from) // PAM reports it in the journal
	s.until("the failure counts", func() error {
		for _, rec := range s.records() {
			if rec.Addr == from && rec.Event == "failure" {
				return nil
			}
		}
		return fmt.Errorf("no event of %s", from)
	})
	s.stop(unix.SIGTERM)
	s.start("")
	if err := s.w.Client(client).FTP(s.ctx, "alice", lab.Alice.Password); err != nil {
		t.Fatal(err)
	}
	s.until("the login is known", func() error {
		why, err := s.mef.Why(s.ctx, netip.MustParseAddr(client))
		if err == nil && !slices.Contains(why.Known, "alice") {
			err = fmt.Errorf("the users known at %s are %q", client, why.Known)
		}
		return err
	})
}

// Status does not call a host protected whose journald stores nothing.
func TestJournalThatStoresNothing(t *testing.T) {
	s := begin(t, "", nil)
	if err := journald.Stop(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var err error
	if journald, err = s.w.StartJournalWith(s.ctx, "none"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := journald.Stop(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if journald, err = world.StartJournal(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s.until("status says that the journal is not read", func() error {
		status, err := s.mef.Status(s.ctx)
		if err != nil {
			return err
		}
		if status.Protected || !strings.Contains(strings.Join(status.Missing, "\n"), "the journal is ") {
			time.Sleep(100 * time.Millisecond)
			return fmt.Errorf("protected %v, missing %q", status.Protected, status.Missing)
		}
		return nil
	})
}

// While journalctl hangs, status does not call the host protected. Another journalctl then reads the journal.
func TestJournalThatHangs(t *testing.T) {
	s := begin(t, "", nil)
	s.until("status says that the journal is late", func() error {
		var children []byte // of any thread
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.status().PID))
		for _, path := range lists {
			list, _ := os.ReadFile(path)
			children = append(children, list...)
		}
		for child := range strings.FieldsSeq(string(children)) {
			pid, err := strconv.Atoi(child)
			if comm, _ := os.ReadFile("/proc/" + child + "/comm"); err == nil && string(comm) == "journalctl\n" {
				_ = unix.Kill(pid, unix.SIGSTOP) // it may have ended
			}
		}
		status := s.status()
		if status.Protected || !strings.Contains(strings.Join(status.Missing, "\n"), "the journal is ") {
			return fmt.Errorf("protected %v, missing %q", status.Protected, status.Missing)
		}
		return nil
	})
	s.fail(ssh, "root", repeat("198.51.100.71", 5)...)
	s.banned("198.51.100.71")
}
