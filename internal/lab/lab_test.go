//go:build integration

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/lab"
)

// world is the world in which the tests run; missing is the reason why there is none.
var (
	world   *lab.World
	missing error
)

func TestMain(m *testing.M) {
	if lab.Inside() {
		world, missing = lab.New()
		os.Exit(m.Run())
	}
	code, err := lab.Enter()
	if err != nil {
		missing = err
		os.Exit(m.Run())
	}
	if left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/mef-lab-%d", os.Getpid())); left != nil {
		fmt.Fprintf(os.Stderr, "the world left %s behind\n", left)
		os.Exit(1)
	}
	os.Exit(code)
}

// enter returns the world, and skips the test where there can be none (or fails it, with CI=true).
func enter(t *testing.T) (context.Context, *lab.World) {
	t.Helper()
	if missing != nil && os.Getenv("CI") == "true" {
		t.Fatalf("no private world on this machine: %v", missing)
	} else if missing != nil {
		t.Skipf("no private world on this machine: %v", missing)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx, world
}

// serve runs daemons until the test ends.
func serve(t *testing.T, ctx context.Context, starts ...func(context.Context) (*lab.Process, error)) {
	t.Helper()
	for _, start := range starts {
		p, err := start(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Stop(os.Kill); err != nil {
				t.Error(err)
			}
		})
	}
}

// patience is how long a test waits for what should happen.
const patience = time.Minute

// journal calls do and waits until a journal entry with the field, such as "_SYSTEMD_UNIT=ssh.service", has a message that contains text.
// It calls do again now and then: a process may have ended before journald looked up its unit, and its entry then has none.
func journal(t *testing.T, ctx context.Context, w *lab.World, field, text string, do func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		do()
		for end := time.Now().Add(patience / 10); time.Now().Before(end); {
			out, err := w.Run(ctx, lab.Command{Path: "/usr/bin/journalctl", Args: []string{"--output=cat", field}})
			if err == nil && strings.Contains(out, text) {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("journal of %s has no %q: %v\n%s", field, text, err, out)
			}
		}
	}
}

func TestDaemonsLogLogins(t *testing.T) {
	ctx, w := enter(t)
	serve(t, ctx, w.StartJournal, w.StartSSH, w.StartDovecot, w.StartVSFTPD)
	const wrong = "not alice's password"
	for _, from := range []string{"203.0.113.7", "2001:db8:bad0::7"} {
		t.Run(from, func(t *testing.T) {
			t.Run("ssh", func(t *testing.T) {
				c := w.Client(from)
				journal(t, ctx, w, "_SYSTEMD_UNIT=ssh.service", "Failed password for alice from "+from+" port ", func() {
					if _, err := c.SSH(ctx, lab.SSHPort, "alice", wrong, ""); !errors.Is(err, lab.ErrDenied) {
						t.Errorf("wrong password: %v, want ErrDenied", err)
					}
				})
				journal(t, ctx, w, "_SYSTEMD_UNIT=ssh.service", "Accepted password for alice from "+from+" port ", func() {
					out, err := c.SSH(ctx, lab.SSHPort, "alice", lab.Alice.Password, "id -un")
					if err != nil || out != "alice\n" {
						t.Errorf("right password, command id -un: %q, %v; want alice", out, err)
					}
				})
			})
			t.Run("imap", func(t *testing.T) {
				c := w.Client(from)
				journal(t, ctx, w, "_SYSTEMD_UNIT=dovecot.service", "user=<alice>, method=PLAIN, rip="+from+", lip="+c.Server().String(), func() {
					if err := c.IMAP(ctx, "alice", wrong); !errors.Is(err, lab.ErrDenied) {
						t.Errorf("wrong password: %v, want ErrDenied", err)
					}
				})
				if err := c.IMAP(ctx, "alice", lab.Alice.Password); err != nil {
					t.Errorf("right password: %v", err)
				}
			})
			t.Run("ftp", func(t *testing.T) {
				c := w.Client(from)
				if err := c.FTP(ctx, "alice", wrong); !errors.Is(err, lab.ErrDenied) {
					t.Errorf("wrong password: %v, want ErrDenied", err)
				}
				if err := c.FTP(ctx, "alice", lab.Alice.Password); err != nil {
					t.Errorf("right password: %v", err)
				}
				log, err := os.ReadFile("/var/log/vsftpd.log")
				if err != nil || !strings.Contains(string(log), from+`"`) {
					t.Errorf("vsftpd.log does not name %s: %v\n%s", from, err, log)
				}
			})
		})
	}
}

func TestJournalRecordsUser(t *testing.T) {
	ctx, w := enter(t)
	serve(t, ctx, w.StartJournal)
	for name, tt := range map[string]struct {
		as    *lab.Account
		unit  string
		field string
	}{
		"root":       {nil, "system.slice/ssh.service", "_UID=0"},
		"local user": {&lab.Mallory, lab.Mallory.Session(), "_UID=1001"},
	} {
		t.Run(name, func(t *testing.T) {
			// The kernel sends the user ID with the message. journald looks up the unit later, when logger may have ended.
			logger := lab.Command{Path: "/usr/bin/logger", Args: []string{"-t", "sshd", name + " was here"}, As: tt.as, Unit: tt.unit}
			journal(t, ctx, w, tt.field, name+" was here", func() {
				if _, err := w.Run(ctx, logger); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestProbeOutcomes(t *testing.T) {
	ctx, w := enter(t)
	serve(t, ctx, w.StartJournal, w.StartSSH)
	drop := "add table inet t; add chain inet t in { type filter hook prerouting priority -350; }; " +
		"add rule inet t in ip saddr 203.0.113.66 drop; add rule inet t in ip6 saddr 2001:db8:bad6::/64 drop"
	if _, err := w.Run(ctx, lab.Command{Path: "/usr/sbin/nft", Args: []string{drop}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.Run(context.Background(), lab.Command{Path: "/usr/sbin/nft", Args: []string{"delete table inet t"}}); err != nil {
			t.Error(err)
		}
	})
	for name, tt := range map[string]struct {
		client lab.Client
		port   int
		want   lab.Outcome
	}{
		"open, v4":        {w.Client("203.0.113.7"), lab.SSHPort, lab.Reached},
		"open, v6":        {w.Client("2001:db8:bad0::7"), lab.SSHPort, lab.Reached},
		"open, same link": {lab.Client{At: w.Internet, From: lab.Neighbor6}, lab.SSHPort, lab.Reached},
		"closed, v4":      {w.Client("198.51.100.7"), 9, lab.Refused},
		"closed, v6":      {w.Client("2001:db8:900d::7"), 9, lab.Refused},
		"dropped, v4":     {w.Client("203.0.113.66"), lab.SSHPort, lab.TimedOut},
		"dropped, v6":     {w.Client("2001:db8:bad6::9:9"), lab.SSHPort, lab.TimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			wait := patience
			if tt.want == lab.TimedOut {
				wait = 300 * time.Millisecond
			}
			if got, err := tt.client.Probe(ctx, tt.port, wait); got != tt.want || err != nil {
				t.Errorf("Probe = %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// A client whose connection is reset during its login returns an error for which CutOff is true.
func TestResetCutsClientsOff(t *testing.T) {
	ctx, w := enter(t)
	c := w.Client("203.0.113.7")
	for name, tt := range map[string]struct {
		port     int
		greeting string
		login    func() error
	}{
		"ssh":  {lab.SSHPort, "SSH-2.0-lab\r\n", func() error { _, err := c.SSH(ctx, lab.SSHPort, "alice", "wrong", ""); return err }},
		"imap": {lab.IMAPPort, "* OK\r\n", func() error { return c.IMAP(ctx, "alice", "wrong") }},
		"ftp":  {lab.FTPPort, "220 lab\r\n", func() error { return c.FTP(ctx, "alice", "wrong") }},
		"smtp": {lab.SMTPPort, "220 lab\r\n", func() error { return c.SMTP(ctx, "alice", "wrong") }},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", netip.AddrPortFrom(lab.Server4, uint16(tt.port)).String())
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			served := make(chan error, 1)
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					served <- err
					return
				}
				_, err = io.WriteString(conn, tt.greeting)
				_, readErr := conn.Read(make([]byte, 1))
				conn.(*net.TCPConn).SetLinger(0) // so that Close resets
				served <- errors.Join(err, readErr, conn.Close())
			}()
			if err := tt.login(); !lab.CutOff(err) || errors.Is(err, lab.ErrDenied) {
				t.Errorf("login at a server that resets: %v, want an error of being cut off", err)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// HangUp leaves no connection, and no process of one, that could log or send something later.
func TestHangUp(t *testing.T) {
	ctx, w := enter(t)
	serve(t, ctx, w.StartJournal, w.StartSSH, w.StartVSFTPD, w.StartDovecot)
	c := w.Client("203.0.113.7")
	var held []net.Conn
	for _, port := range []int{lab.SSHPort, lab.FTPPort, lab.IMAPPort} {
		conn, err := c.Dial(ctx, port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatalf("greeting of port %d: %v", port, err)
		}
		held = append(held, conn)
	}
	for range 2 { // there may be nothing to end
		if err := w.HangUp(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range held {
		if _, err := io.Copy(io.Discard, conn); !lab.CutOff(err) {
			t.Errorf("read from %s: %v, want a reset", conn.RemoteAddr(), err)
		}
	}
	if out, err := w.Run(ctx, lab.Command{Path: "/usr/bin/pgrep", Args: []string{"-c", "-r", "R,S,D", "^(sshd|vsftpd)$"}}); out != "2\n" {
		t.Errorf("%s processes of sshd and vsftpd are left, %v; want each daemon's own", out, err)
	}
	if _, err := c.SSH(ctx, lab.SSHPort, "alice", lab.Alice.Password, ""); err != nil {
		t.Errorf("login after HangUp: %v", err)
	}
	if err := c.IMAP(ctx, "alice", lab.Alice.Password); err != nil {
		t.Errorf("login at Dovecot after HangUp: %v", err)
	}
}

// After Stop nothing of a daemon is left: no process in its control group, and no socket on its port, even where HangUp replaced it.
func TestStopLeavesNothing(t *testing.T) {
	ctx, w := enter(t)
	serve(t, ctx, w.StartJournal)
	c := w.Client("203.0.113.7")
	for name, tt := range map[string]struct {
		start func(context.Context) (*lab.Process, error)
		port  int
		unit  string
	}{
		"sshd":    {w.StartSSH, lab.SSHPort, "ssh.service"},
		"vsftpd":  {w.StartVSFTPD, lab.FTPPort, "vsftpd.service"},
		"dovecot": {w.StartDovecot, lab.IMAPPort, "dovecot.service"},
	} {
		for _, sig := range []os.Signal{os.Kill, syscall.SIGTERM} {
			for _, hangUp := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, HangUp %v", name, sig, hangUp), func(t *testing.T) {
					p, err := tt.start(ctx)
					if err != nil {
						t.Fatal(err)
					}
					for range 10 {
						conn, err := c.Dial(ctx, tt.port)
						if err != nil {
							t.Fatal(err)
						}
						defer conn.Close()
						if _, err := conn.Read(make([]byte, 1)); err != nil {
							t.Fatalf("greeting of port %d: %v", tt.port, err)
						}
					}
					if hangUp {
						if err := w.HangUp(ctx); err != nil {
							t.Fatal(err)
						}
					}
					if err := p.Stop(sig); err != nil {
						t.Fatal(err)
					}
					listener, err := net.Listen("tcp", fmt.Sprintf(":%d", tt.port))
					if err != nil {
						t.Fatal(err)
					}
					listener.Close()
					if pids, err := os.ReadFile("/sys/fs/cgroup/system.slice/" + tt.unit + "/cgroup.procs"); len(pids) > 0 || err != nil {
						t.Errorf("processes %q of %s are left, %v", pids, tt.unit, err)
					}
				})
			}
		}
	}
}
