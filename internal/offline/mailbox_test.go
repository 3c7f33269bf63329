package offline_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A mailServer logs the login of a mailbox that is no account of the host.
type mailServer struct {
	refuse, accept func(s *server, addr, user string)
}

func (s *server) mail(format string, args ...any) { s.log("dovecot", format, args...) }

// mailServers are the forms in which mail servers report the same login, in the defaults of their own and of distributions.
func mailServers() map[string]mailServer {
	session := func(s *server) string { return fmt.Sprintf("s%06d", len(s.lines)) }
	begin := func(s *server, addr, user, session string) {
		s.mail("imap-login: Login: user=<%s>, method=PLAIN, rip=%s, lip=192.0.2.1, mpid=7, TLS, session=<%s>", user, addr, session)
	}
	login := func(s *server, addr, user string) { begin(s, addr, user, session(s)) }
	end := func(s *server, addr, user, session string) {
		s.wait(2 * time.Second)
		s.mail("imap-login: Disconnected (auth failed, 1 attempts in 2 secs): user=<%s>, method=PLAIN, rip=%s, lip=192.0.2.1, TLS, session=<%s>", user, addr, session)
	}
	smtp := func(s *server, addr, user string) {
		s.log("postfix/submission/smtpd[7]", "4Vabc%03x: client=unknown[%s], sasl_method=PLAIN, sasl_username=%s", len(s.lines), addr, user)
	}
	refuseSMTP := func(s *server, addr, user string) {
		s.log("postfix/submission/smtpd[7]", "warning: unknown[%s]: SASL PLAIN authentication failed: , sasl_username=%s", addr, user)
		s.log("postfix/submission/smtpd[7]", "disconnect from unknown[%s] ehlo=1 auth=0/1 commands=1/2", addr)
	}
	return map[string]mailServer{
		"Dovecot, auth_verbose off": {func(s *server, addr, user string) { end(s, addr, user, session(s)) }, login},
		"Dovecot with SQL": {func(s *server, addr, user string) {
			id := session(s)
			s.mail("auth: sql(%s,%s,<%s>): Password mismatch", user, addr, id)
			end(s, addr, user, id)
		}, login},
		"Dovecot with a file, then SQL": {func(s *server, addr, user string) {
			id := session(s)
			s.mail("auth: passwd-file(%s,%s,<%s>): unknown user", user, addr, id)
			s.mail("auth: sql(%s,%s,<%s>): Password mismatch", user, addr, id)
			end(s, addr, user, id)
		}, login},
		"Dovecot with PAM, then SQL": {func(s *server, addr, user string) {
			id := session(s)
			s.log("auth", "pam_unix(dovecot:auth): authentication failure; logname= uid=0 euid=0 tty=dovecot ruser=%s rhost=%s", user, addr)
			s.mail("auth-worker(9): pam(%s,%s,<%s>): unknown user", user, addr, id)
			s.mail("auth: sql(%s,%s,<%s>): Password mismatch", user, addr, id)
			end(s, addr, user, id)
		}, func(s *server, addr, user string) {
			id := session(s)
			s.mail("auth-worker(9): pam(%s,%s,<%s>): unknown user", user, addr, id)
			begin(s, addr, user, id)
		}},
		"Postfix": {refuseSMTP, smtp},
		"Postfix with Dovecot's SQL": {func(s *server, addr, user string) {
			s.mail("auth: sql(%s,%s): Password mismatch", user, addr)
			refuseSMTP(s, addr, user)
		}, smtp},
	}
}

// Twenty people of an office each mistype twice before anybody of them has logged in, at a server that has never seen a login. Their
// mailboxes are no accounts of the host.
func TestMailboxesOfAnOffice(t *testing.T) {
	const people = 20
	user := func(i int) string { return fmt.Sprintf("person%c%c@example.org", 'a'+i, 'z'-i) }
	for name, m := range mailServers() {
		for place, addr := range map[string]func(i int) string{
			"one address":        func(int) string { return home },
			"one IPv6 address":   func(int) string { return "2001:db8:7:7::1" },
			"addresses of a /64": func(i int) string { return fmt.Sprintf("2001:db8:7:7::%x", 0x100+i) },
		} {
			t.Run(name+", "+place, func(t *testing.T) {
				s := newServer(t)
				r := rand.New(rand.NewPCG(1, 2))
				for range 2 {
					for _, i := range r.Perm(people) {
						m.refuse(s, addr(i), user(i))
						s.wait(time.Duration(1+r.IntN(4)) * time.Second)
					}
				}
				for _, i := range r.Perm(people) {
					m.accept(s, addr(i), user(i))
					s.wait(time.Second)
				}
				s.wantNone()
			})
		}
	}
}

// What is forgiven to such an office is a number of failures: not more for one mailbox than elsewhere, and not to more mailboxes than an office
// has.
func TestGuessersOfMailboxes(t *testing.T) {
	for name, m := range mailServers() {
		for what, tt := range map[string]struct {
			users, rounds int
			wait          time.Duration // since the first login
			most          int           // tries
		}{
			"one mailbox":                          {1, 100, 0, 5},
			"many mailboxes":                       {200, 1, 0, 21},
			"many mailboxes twice":                 {200, 2, 0, 21},
			"many mailboxes of a server of a week": {200, 1, 8 * 24 * time.Hour, 21},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				s := newServer(t)
				m.accept(s, home, "alice@example.org")
				s.wait(time.Hour + tt.wait)
				before := s.now
				var at []time.Time
				for i := range tt.users * tt.rounds {
					m.refuse(s, stranger, fmt.Sprintf("plugh%04d@example.org", i%tt.users*7))
					at = append(at, s.now)
					s.wait(2 * time.Second)
				}
				b := s.first(stranger)
				tries := 1
				for _, end := range at {
					if end.Before(b.Start) {
						tries++
					}
				}
				if b.Start.Before(before) || tries > tt.most {
					t.Errorf("banned after %d tries, want at most %d: %s", tries, tt.most, b.Reason)
				}
			})
		}
	}
}

// A service that reports users as unknown who then log in, or who exist in its next database, is not believed. One that does not is, and
// nobody can make it report two things of one account.
func TestUnknownToOneOfSeveralDatabases(t *testing.T) {
	chained := mailServers()["Dovecot with PAM, then SQL"]
	for name, tt := range map[string]struct {
		before   func(s *server)
		believed bool
	}{
		"nothing before": {func(*server) {}, true},
		"a login":        {func(s *server) { chained.accept(s, home, "alice@example.org") }, false},
		"a failure":      {func(s *server) { chained.refuse(s, home, "alice@example.org") }, false},
		"an unknown user of another domain": {func(s *server) {
			s.mail("auth: sql(alice@example.net,%s,<s7>): unknown user", home)
			s.mail("auth: sql(alice@example.org,%s,<s7>): Password mismatch", home)
		}, true},
		"an unknown user and a login of another domain": {func(s *server) {
			s.mail("auth: sql(alice@example.net,%s,<s7>): unknown user", home)
			s.mail("imap-login: Login: user=<alice@example.org>, method=PLAIN, rip=%s, lip=192.0.2.1, mpid=7, TLS, session=<s7>", home)
		}, true},
		"a login in a later session": {func(s *server) {
			s.mail("auth: sql(alice@example.org,%s,<s7>): unknown user", home)
			s.imap(home, "alice@example.org", true)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			tt.before(s)
			for i := range 4 {
				s.wait(time.Minute)
				s.mail("auth: sql(zork%d@example.org,%s,<s1>): unknown user", i*17, stranger)
			}
			if bans := s.bans(); (len(bans) == 1) != tt.believed {
				t.Errorf("%d bans after four unknown users", len(bans))
			}
		})
	}
}
