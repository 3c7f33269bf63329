package offline_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
)

// Attacks that no single address or name gives away are answered within a tenth of them: by a ban of an address that
// takes part, not by a line in a log.
func TestSpraysAreFound(t *testing.T) {
	// Whether the name exists, in three ways that logs differ in.
	type login func(s *server, addr string)
	accounts := map[string]login{
		"an account that exists":  func(s *server, addr string) { s.ssh(addr, "carol") },
		"root":                    func(s *server, addr string) { s.ssh(addr, "root") },
		"a name that is no user":  func(s *server, addr string) { s.ssh(addr, "!plugh") },
		"a name of a mail server": func(s *server, addr string) { s.imap(addr, "carol@example.org", false) },
		"a user who logs in here": func(s *server, addr string) { s.ssh(addr, "alice") },
	}
	type attack struct {
		tries int
		run   func(s *server, try login)
	}
	attacks := map[string]attack{
		"300 addresses once each": {300, func(s *server, try login) {
			for i := range 300 {
				try(s, fmt.Sprintf("%d.%d.113.9", 20+i%90, i/2))
				s.wait(5 * time.Minute)
			}
		}},
		"300 addresses of one network once each, in a hurry": {300, func(s *server, try login) {
			for i := range 300 {
				try(s, fmt.Sprintf("100.64.%d.%d", i, 1+i%250))
				s.wait(2 * time.Second)
			}
		}},
		"40 addresses of a /24 twice each": {80, func(s *server, try login) {
			for i := range 40 {
				for range 2 {
					try(s, fmt.Sprintf("203.0.113.%d", 10+i))
					s.wait(3 * time.Minute)
				}
			}
		}},
		"40 addresses of a /24 twice each, in no hurry": {80, func(s *server, try login) {
			for i := range 40 {
				for range 2 {
					try(s, fmt.Sprintf("203.0.113.%d", 10+i))
					s.wait(4 * time.Hour)
				}
			}
		}},
		"40 addresses of a /24 in two rounds": {80, func(s *server, try login) {
			for i := range 80 {
				try(s, fmt.Sprintf("203.0.113.%d", 10+i%40))
				s.wait(10 * time.Second)
			}
		}},
		"40 networks of a /48 twice each": {80, func(s *server, try login) {
			for i := range 40 {
				for range 2 {
					try(s, fmt.Sprintf("2001:db8:77:%x::1", 1+i*0x111))
					s.wait(3 * time.Minute)
				}
			}
		}},
		"one try a day for a month": {30, func(s *server, try login) {
			for range 30 {
				try(s, stranger)
				s.wait(24 * time.Hour)
			}
		}},
	}
	for what, a := range attacks {
		for who, try := range accounts {
			t.Run(what+": "+who, func(t *testing.T) {
				s := newServer(t)
				s.login(home, "alice")
				s.wait(time.Hour)
				before := len(s.lines)
				a.run(s, try)
				wantFound(s, before, a.tries/10)
			})
		}
	}
	for name, user := range map[string]func(i int) string{
		"names that are no users": func(i int) string { return fmt.Sprintf("!zork%03d", i*7) },
		"names that exist":        func(i int) string { return fmt.Sprintf("person%03d", i*7) },
	} {
		t.Run("one address trying 200 names once each: "+name, func(t *testing.T) {
			for _, pause := range []time.Duration{time.Second, 5 * time.Minute, time.Hour} {
				s := newServer(t)
				s.login(home, "alice")
				before := len(s.lines)
				for i := range 200 {
					s.ssh(stranger, user(i))
					s.wait(pause)
				}
				wantFound(s, before, 21)
			}
		})
	}
}

// wantFound fails the test unless some address is banned by the lines from a first one on, within so many of them.
func wantFound(s *server, first, within int) {
	s.t.Helper()
	bans := s.bans()
	if len(bans) == 0 {
		s.t.Error("nobody is banned")
		return
	}
	b := bans[0]
	if b.Prefix.Contains(netip.MustParseAddr(home)) {
		s.t.Errorf("%s is banned, where a user logs in: %s", b.Key, b.Reason)
	}
	tries := 0
	for _, l := range s.lines[first:] {
		if lineTime(l).After(b.Start) {
			break
		}
		tries++
	}
	if tries > within {
		s.t.Errorf("the first ban is after %d tries, want at most %d: %s", tries, within, b.Reason)
	}
	s.t.Logf("%d of %d tries: %s", tries, within*10, b.Reason)
}

func lineTime(line string) time.Time {
	at, _ := time.Parse(time.RFC3339Nano, line[:len("2026-03-02T08:00:00Z")])
	return at
}

var _ = ban.ByScore
