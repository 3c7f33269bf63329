//go:build integration

package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/lab"
)

func TestGuessersAreBanned(t *testing.T) {
	for name, tt := range map[string]struct {
		guess    guess
		port     int
		from     []string // of one guess each
		prefix   string   // what is banned
		also     string   // another address that the ban covers
		neighbor string   // one that it does not
	}{
		"ssh": {
			ssh, lab.SSHPort, repeat("203.0.113.10", 5),
			"203.0.113.10", "203.0.113.10", "203.0.113.11",
		},
		"ssh, v6": {
			ssh, lab.SSHPort, repeat("2001:db8:bad0:10::1", 5),
			"2001:db8:bad0:10::1", "2001:db8:bad0:10::1", "2001:db8:bad0:10::2",
		},
		"ssh, from five addresses of one /64": {
			ssh, lab.SSHPort, []string{"2001:db8:bad0:20::1", "2001:db8:bad0:20:1::", "2001:db8:bad0:20:ffff::2", "2001:db8:bad0:20::a:b:c", "2001:db8:bad0:20::beef"},
			"2001:db8:bad0:20::/64", "2001:db8:bad0:20:1:2:3:4", "2001:db8:bad0:21::1",
		},
		"imap": {imap, lab.IMAPPort, repeat("203.0.113.14", 5), "203.0.113.14", "203.0.113.14", "203.0.113.15"},
		"imap, v6": {
			imap, lab.IMAPPort, repeat("2001:db8:bad0:30::1", 5),
			"2001:db8:bad0:30::1", "2001:db8:bad0:30::1", "2001:db8:bad0:30::7",
		},
		"ftp": {ftp, lab.FTPPort, repeat("203.0.113.21", 5), "203.0.113.21", "203.0.113.21", "203.0.113.22"},
		"ftp, v6": {
			ftp, lab.FTPPort, repeat("2001:db8:bad0:40::1", 5),
			"2001:db8:bad0:40::1", "2001:db8:bad0:40::1", "2001:db8:bad0:40::7",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, "", nil)
			for _, from := range tt.from[1:] {
				s.reaches(tt.port, from)
			}
			s.fail(tt.guess, "admin", tt.from...)
			ban := s.banned(tt.prefix)
			s.silent(tt.port, tt.from[0], tt.also)
			s.reaches(tt.port, tt.neighbor)
			if len(ban.Evidence) == 0 || !strings.Contains(ban.Reason, `user "admin"`) {
				t.Errorf("the ban's reason is %q with %d lines of evidence; want the name that was tried, shown", ban.Reason, len(ban.Evidence))
			}
			if n := s.attempts(tt.from[0]); n > 5 {
				t.Errorf("%v failures are counted, of 5", n)
			}
		})
	}
}

func TestBanCutsLiveConnection(t *testing.T) {
	s := begin(t, "", nil)
	const from = "203.0.113.30"
	ctx, cancel := context.WithTimeout(s.ctx, 2*patience)
	defer cancel()
	conn, err := s.w.Client(from).Dial(ctx, lab.SSHPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	banner := bufio.NewReader(conn)
	if line, err := banner.ReadString('\n'); err != nil {
		t.Fatalf("sshd's banner: %q, %v", line, err)
	}
	s.fail(ssh, "root", repeat(from, 5)...)
	s.banned(from)
	fmt.Fprint(conn, "SSH-2.0-late\r\n") // sshd would answer with its key exchange
	conn.SetReadDeadline(time.Now().Add(silence))
	if b, err := banner.ReadByte(); err == nil {
		t.Errorf("sshd answered %#x on a connection from before the ban, want silence", b)
	}
}

// Eleven guesses, at most four at each service, stay below every service's limit of five. Ten within seconds make a score of 100; the
// eleventh allows for a slow machine.
func TestScoreAcrossServices(t *testing.T) {
	s := begin(t, "", nil)
	const from = "203.0.113.40"
	s.fail(imap, "carol", repeat(from, 4)...)
	s.fail(ftp, "dave", repeat(from, 4)...)
	s.until("the guesses at imap and ftp to be counted", func() error {
		if n := s.attempts(from); n != 8 {
			return fmt.Errorf("%v of 8 failures are counted", n)
		}
		return nil
	})
	s.notBanned(from)
	s.fail(ssh, "root", repeat(from, 3)...)
	ban := s.banned(from)
	if ban.Rule != "score" || ban.Ports != "all" {
		t.Errorf("banned by %s on ports %s (%s); want by the score, on all ports", ban.Rule, ban.Ports, ban.Reason)
	}
	for _, port := range []int{lab.SSHPort, lab.IMAPPort, lab.FTPPort} {
		s.silent(port, from)
	}
}

// attempts returns how many failures of an address count, at all services.
func (s *scene) attempts(from string) (sum float64) {
	s.Helper()
	why, err := s.mef.Why(s.ctx, netip.MustParseAddr(from))
	if err != nil {
		s.Error(err)
	}
	for _, rule := range why.Rules {
		sum += rule.Attempts
	}
	return sum
}

func TestPortScopedBanLeavesOtherPortsOpen(t *testing.T) {
	s := begin(t, "", map[string]string{"sshd.conf": "[rule]\nports=22,2200-2300\n"})
	for from, prefix := range map[string]string{
		"203.0.113.50":        "203.0.113.50",
		"2001:db8:bad0:50::1": "2001:db8:bad0:50::1",
	} {
		s.fail(ssh, "root", repeat(from, 5)...)
		if ban := s.banned(prefix); ban.Ports != "22,2200-2300" {
			t.Errorf("%s is banned on ports %s, want those of the rule", prefix, ban.Ports)
		}
		s.silent(lab.SSHPort, from)
		s.silent(2222, from)
		s.reaches(lab.IMAPPort, from)
		s.reaches(lab.FTPPort, from)
	}
}

func TestOperatorSeesTheBan(t *testing.T) {
	s := begin(t, "", nil)
	const from = "203.0.113.60"
	s.fail(ssh, "root", repeat(from, 5)...)
	s.banned(from)
	s.silent(lab.SSHPort, from)

	var bans []control.Ban
	if out := s.mefctl("bans", "list", "--json"); json.Unmarshal([]byte(out), &bans) != nil || len(bans) != 1 {
		t.Fatalf("bans list --json: %s, want one ban", out)
	}
	if b := bans[0]; b.Prefix != from || b.Packets == nil || *b.Packets == 0 {
		t.Errorf("bans list --json: %+v, want %s with dropped packets", b, from)
	}
	if out := s.mefctl("status"); !strings.HasPrefix(out, "Protected: yes") {
		t.Errorf("status says:\n%s\nwant Protected: yes first", out)
	}
	// PAM may log simultaneous guesses before sshd logs any. Its lines are evidence too.
	if out := s.mefctl("why", from); !strings.Contains(out, "\"Failed password for root from "+from) && !strings.Contains(out, " rhost="+from+"  user=root\"") {
		t.Errorf("why %s says:\n%s\nwant the log lines, quoted", from, out)
	}
	s.mefctl("bans", "delete", from)
	s.reaches(lab.SSHPort, from)
}

func TestObserveModeBansNobody(t *testing.T) {
	s := begin(t, "[global]\nmode=observe\n", nil)
	const from = "203.0.113.70"
	s.fail(ssh, "root", repeat(from, 6)...)
	s.until("the daemon to say that it would ban "+from, func() error {
		for _, rec := range s.records() {
			if rec.Event == "would-ban" && strings.HasPrefix(rec.Prefix, from+"/") {
				return nil
			}
		}
		return fmt.Errorf("its records are %+v", s.records())
	})
	s.reaches(lab.SSHPort, from)
	if out := s.mefctl("bans", "list"); strings.Contains(out, from) {
		t.Errorf("bans list says:\n%s\nwant nobody", out)
	}
	if strings.Contains(s.table(), from) {
		t.Errorf("the kernel holds %s:\n%s", from, s.table())
	}
}

// The figures are for people to read: a busy machine must not fail the test.
func TestLatency(t *testing.T) {
	s := begin(t, "", nil)
	for i := range 5 {
		from := fmt.Sprintf("203.0.113.%d", 80+i)
		s.fail(ssh, "root", repeat(from, 5)...)
		s.banned(from)
	}
	for _, rec := range s.records() {
		if rec.Event != "ban" {
			continue
		}
		written, err := s.w.Written(s.ctx, rec.Evidence[len(rec.Evidence)-1])
		if err != nil {
			t.Error(err)
			continue
		}
		held := rec.Time.Add(rec.Latency)
		t.Logf("%s: in the kernel %v after sshd wrote the line, %v after mefdaemon read it", rec.Prefix, held.Sub(written), rec.Latency)
	}
}
