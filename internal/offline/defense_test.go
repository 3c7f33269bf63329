package offline_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/offline"
)

// A server is a log of sshd and Dovecot in the making.
type server struct {
	t     *testing.T
	now   time.Time
	lines []string
	tries map[string]int // failures by address

	accounts map[string]bool    // of the host
	mayBan   func(ban.Ban) bool // attackers of an innocent's story; nil: there are none
	settings string             // lines of mef.conf
}

func newServer(t *testing.T) *server {
	return &server{t: t, now: time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC), tries: map[string]int{}}
}

func (s *server) wait(d time.Duration) { s.now = s.now.Add(d) }

func (s *server) log(program, format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf("%s host %s: %s", s.now.Format(time.RFC3339Nano), program, fmt.Sprintf(format, args...)))
}

// ssh logs a refused login; a name that begins with "!" does not exist.
func (s *server) ssh(addr, user string) {
	s.tries[addr]++
	if name, ok := strings.CutPrefix(user, "!"); ok {
		user = "invalid user " + name
	}
	s.log(fmt.Sprintf("sshd[%d]", 1000+len(s.lines)), "Failed password for %s from %s port 40000 ssh2", user, addr)
}

func (s *server) login(addr, user string) {
	s.log(fmt.Sprintf("sshd[%d]", 1000+len(s.lines)), "Accepted password for %s from %s port 40000 ssh2", user, addr)
}

func (s *server) imap(addr, user string, ok bool) {
	result := "Login"
	if !ok {
		s.tries[addr]++
		result = "Disconnected: Connection closed (auth failed, 1 attempts in 2 secs)"
	}
	s.log("dovecot", "imap-login: %s: user=<%s>, method=PLAIN, rip=%s, lip=192.0.2.1, TLS, session=<%d>", result, user, addr, len(s.lines))
}

// nextcloud logs a refused login of a web application that does not log those that succeed.
func (s *server) nextcloud(addr, user string) {
	s.tries[addr]++
	s.log("nextcloud", `{"level":2,"remoteAddr":"%s","user":"--","app":"core","message":"Login failed: %s (Remote IP: %s)"}`, addr, user, addr)
}

// bans replays the log under the defaults, as what-if.
func (s *server) bans() (bans []ban.Ban) {
	s.t.Helper()
	r, err := offline.NewReplay(configured(s.t, s.settings), offline.Options{WhatIf: true, Accounts: s.accounts})
	if err != nil {
		s.t.Fatal(err)
	}
	err = r.Run(strings.NewReader(strings.Join(s.lines, "\n")+"\n"), s.now, func(b ban.Ban) error {
		bans = append(bans, b)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return bans
}

// wantNone fails the test if anybody is banned.
func (s *server) wantNone() {
	s.t.Helper()
	for _, b := range s.bans() {
		if s.mayBan != nil && s.mayBan(b) {
			continue
		}
		s.t.Errorf("%s is banned: %s", b.Key, b.Reason)
	}
}

// first returns the first ban of an address, and fails the test if there is none.
func (s *server) first(addr string) ban.Ban {
	s.t.Helper()
	bans := s.bans()
	i := slices.IndexFunc(bans, func(b ban.Ban) bool { return b.Prefix.Addr().String() == addr })
	if i < 0 {
		s.t.Fatalf("%s is not banned; %d others are", addr, len(bans))
	}
	return bans[i]
}

const home, stranger = "198.51.100.7", "203.0.113.77"

func TestInnocents(t *testing.T) {
	for name, story := range map[string]func(s *server){
		"twenty people of an office, each two errors before the login": func(s *server) {
			for i := range 20 {
				user := fmt.Sprintf("person%c%c", 'a'+i, 'z'-i)
				s.ssh(home, user)
				s.wait(3 * time.Second)
				s.ssh(home, user)
				s.wait(4 * time.Second)
				s.login(home, user)
			}
		},
		"the same, each of them before anybody logs in": func(s *server) {
			office(s, 20, func(fail func(i int)) {
				for i := range 20 {
					fail(i)
					fail(i)
				}
			})
		},
		"the same, in two rounds": func(s *server) {
			office(s, 20, func(fail func(i int)) {
				for i := range 40 {
					fail(i % 20)
				}
			})
		},
		"the same, at a mail server for the users of the host": func(s *server) {
			s.accounts = map[string]bool{}
			user := func(i int) string { return fmt.Sprintf("person%c%c", 'a'+i, 'z'-i) }
			for round := range 3 {
				for i := range 20 {
					s.accounts[user(i)] = true
					s.imap(home, user(i), round == 2)
					s.wait(5 * time.Second)
				}
			}
		},
		"the same, at a mail server of a month": func(s *server) {
			s.imap(stranger, "alice@example.org", true)
			s.wait(30 * 24 * time.Hour)
			for round := range 3 {
				for i := range 20 {
					s.imap(home, fmt.Sprintf("person%c%c@example.org", 'a'+i, 'z'-i), round == 2)
					s.wait(5 * time.Second)
				}
			}
		},
		"the same, at a web application that logs no logins": func(s *server) {
			for range 2 {
				for i := range 20 {
					s.nextcloud(home, fmt.Sprintf("person%c%c", 'a'+i, 'z'-i))
					s.wait(3 * time.Second)
				}
			}
		},
		"a user name that nobody has, typed at a Keycloak, which does not log it": func(s *server) {
			for range 2 {
				s.tries[stranger]++
				s.log("keycloak", `WARN  [org.keycloak.events] (executor-thread-1) type="LOGIN_ERROR", realmId="a", clientId="web", userId="null", ipAddress="%s", error="user_not_found"`, stranger)
				s.wait(10 * time.Second)
			}
		},
		"a phone with an old password at such an application": func(s *server) {
			for range 24 * 6 {
				s.wait(10 * time.Minute)
				s.nextcloud(home, "alice")
			}
		},
		"the same, all at once": func(s *server) {
			r := rand.New(rand.NewPCG(1, 2))
			var left [20]int
			for done := 0; done < len(left); {
				i := r.IntN(min(len(left), done+6)) // some type at a time
				user := fmt.Sprintf("person%c%c", 'a'+i, 'z'-i)
				switch left[i]++; {
				case left[i] <= 2:
					s.ssh(home, user)
				case left[i] == 3:
					s.login(home, user)
					done++
				}
				s.wait(2 * time.Second)
			}
		},
		"a first login from a new place": func(s *server) {
			s.login(home, "alice")
			for range 4 {
				s.wait(10 * time.Second)
				s.ssh(stranger, "alice")
			}
			s.login(stranger, "alice")
		},
		"a phone with an old password in an office": func(s *server) {
			for _, user := range []string{"alice", "bob", "carol"} {
				s.imap(home, user+"@example.org", true)
			}
			for range 2 * 24 * 60 / 7 {
				s.wait(7 * time.Minute)
				s.imap(home, "dave@example.org", false)
				s.imap(home, "alice@example.org", false)
			}
		},
		"a phone with an old password, whose user is new and has a name like another one's": func(s *server) {
			s.imap(home, "quinn.nowak@example.org", true)
			for range 2 * 24 * 60 / 11 {
				s.wait(11 * time.Minute)
				s.imap(stranger, "quinn.novak@example.org", false)
			}
		},
		"a phone with an old password, in a place where nobody has logged in": func(s *server) {
			s.imap(home, "alice@example.org", true)
			for range 7 * 12 * 6 { // for three and a half days
				s.wait(10 * time.Minute)
				s.imap(stranger, "alice@example.org", false)
			}
		},
		"monitors that connect every minute and log in as nobody": func(s *server) {
			for range 24 * 60 {
				for i := range 5 {
					s.log(fmt.Sprintf("sshd[%d]", 1000+len(s.lines)), "Connection closed by 203.0.113.%d port 40000", 10+i)
					s.log(fmt.Sprintf("sshd[%d]", 1000+len(s.lines)), "banner exchange: Connection from 203.0.113.%d port 40000: could not read protocol version", 20+i)
				}
				s.wait(time.Minute)
			}
		},
		"Alice at home, while 300 addresses try her name": func(s *server) {
			s.login(home, "alice")
			for i := range 300 {
				s.ssh(fmt.Sprintf("%d.%d.113.9", 20+i%90, i/2), "alice")
				s.wait(time.Minute)
				if i%60 == 30 {
					s.ssh(home, "alice")
					s.wait(5 * time.Second)
					s.login(home, "alice")
				}
			}
			s.mayBan = func(b ban.Ban) bool { return b.Prefix.Addr().String() != home }
		},
		"a user of a web application that logs no logins, who mistypes three times a week": func(s *server) {
			for day := range 60 {
				if day%7%2 == 1 {
					s.nextcloud(home, "alice")
				}
				s.wait(24 * time.Hour)
			}
		},
		"twelve users of such an application behind the addresses of a mobile network": func(s *server) {
			for i := range 12 {
				for range 2 {
					s.nextcloud(fmt.Sprintf("203.0.113.%d", 10+i), fmt.Sprintf("user%d", i))
					s.wait(10 * time.Second)
				}
				s.wait(20 * time.Hour)
			}
		},
		"a wrong user name, typed at three prompts": func(s *server) {
			for range 3 {
				s.ssh(stranger, "!bobby-local")
				s.wait(4 * time.Second)
			}
		},
		"two networks guess alice, then Alice mistypes her name": func(s *server) {
			s.login(home, "alice")
			for _, addr := range []string{"203.0.113.1", "192.0.2.9", "100.64.0.9"} {
				s.ssh(addr, "!alcie")
				s.wait(time.Hour)
			}
			s.ssh(stranger, "!alcie")
			s.wait(5 * time.Second)
			s.ssh(stranger, "alice")
			s.wait(5 * time.Second)
			s.login(stranger, "alice")
		},
		"invented names in a webmail": func(s *server) {
			for i := range 60 {
				s.imap(home, fmt.Sprintf("user%03d@example.org", i), true)
			}
			for i := range 40 {
				s.wait(time.Second)
				s.imap(home, fmt.Sprintf("nobody%d@example.org", i*7), false)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			story(s)
			s.wantNone()
		})
	}
}

// office lets so many people fail, then log in, on a server that has never seen them.
func office(s *server, people int, errors func(fail func(i int))) {
	user := func(i int) string { return fmt.Sprintf("person%c%c", 'a'+i, 'z'-i) }
	errors(func(i int) {
		s.ssh(home, user(i))
		s.wait(3 * time.Second)
	})
	for i := range people {
		s.login(home, user(i))
		s.wait(time.Second)
	}
}

// Failures at a service that does not log logins never end, since no login cancels them. A ban for them is short and leaves other services alone:
// the address may be that of an office. Names that no user has are a reason for a long one.
func TestBansWithoutLogins(t *testing.T) {
	s := newServer(t)
	for day := range 3 {
		for i := range 40 {
			s.nextcloud(home, fmt.Sprintf("person%c%c%d", 'a'+i%26, 'z'-i%26, i/26))
			s.wait(20 * time.Minute)
		}
		s.wait(time.Duration(24*day) * time.Hour)
	}
	for i := range 3 {
		s.ssh(stranger, fmt.Sprintf("!zork%d", i*7))
	}
	s.nextcloud(stranger, "alice")
	if b := s.first(home); b.Ports != "80,443" || b.Until.Sub(b.Start) != 10*time.Minute || !strings.Contains(b.Reason, "nextcloud does not log logins") {
		t.Errorf("ports %q for %s: %s", b.Ports, b.Until.Sub(b.Start), b.Reason)
	}
	if b := s.first(stranger); b.Ports != "" || b.Until.Sub(b.Start) != 7*24*time.Hour {
		t.Errorf("names that do not exist: ports %q for %s: %s", b.Ports, b.Until.Sub(b.Start), b.Reason)
	}
}

func TestAttackersAreFound(t *testing.T) {
	for name, tt := range map[string]struct {
		most  int // tries before the ban
		least time.Duration
		story func(s *server)
	}{
		"a name that attacks have in common": {1, 7 * 24 * time.Hour, func(s *server) { s.ssh(stranger, "!admin") }},
		"names that do not exist":            {3, 7 * 24 * time.Hour, func(s *server) { tries(s, time.Minute, "!zork", "!plugh", "!xyzzy", "!frotz") }},
		"a name that two networks tried": {1, 7 * 24 * time.Hour, func(s *server) {
			s.ssh("100.64.0.9", "!zork")
			s.ssh("192.0.2.9", "!zork")
			tries(s, time.Minute, "!zork", "!zork")
		}},
		"a spray of existing accounts": {20, 10 * time.Minute, func(s *server) {
			for i := range 200 {
				s.ssh(stranger, fmt.Sprintf("person%03d", i))
				s.wait(time.Second)
			}
		}},
		"accounts of the system, with which nobody logs in": {5, 10 * time.Minute, func(s *server) {
			s.accounts = map[string]bool{"daemon": false, "bin": false, "sys": false, "games": false, "man": false, "lp": false}
			tries(s, 10*time.Second, "daemon", "bin", "sys", "games", "man", "lp")
		}},
		"one account, in no hurry": {3, 24 * time.Hour, func(s *server) {
			for i := range 5 {
				s.ssh(fmt.Sprintf("203.%d.113.1", i), "root")
			}
			for range 30 { // one try a day
				s.ssh(stranger, "root")
				s.wait(24 * time.Hour)
			}
		}},
		"a user of another place, at the pace of a device": {8 * 300, 24 * time.Hour, func(s *server) {
			s.login(home, "alice")
			for range 14 * 300 {
				s.ssh(stranger, "alice")
				s.wait(288 * time.Second)
			}
		}},
		"a user who has one account guesses others'": {12, 10 * time.Minute, func(s *server) {
			s.login(stranger, "mallory")
			for i := range 5 {
				s.ssh(fmt.Sprintf("203.%d.113.1", i), "root")
			}
			for i := range 100 {
				s.ssh(stranger, "root")
				s.wait(20 * time.Minute)
				if i%3 == 2 {
					s.login(stranger, "mallory")
				}
			}
		}},
		"a guesser behind the address of two hundred users": {20, 10 * time.Minute, func(s *server) {
			for i := range 200 {
				s.login(stranger, fmt.Sprintf("user%03d", i))
			}
			for range 400 {
				s.ssh(stranger, "user123")
				s.wait(3 * time.Second)
			}
		}},
		"a guesser beside a known user": {25, 10 * time.Minute, func(s *server) {
			s.login(stranger, "alice")
			for range 400 {
				s.ssh(stranger, "alice")
				s.wait(150 * time.Millisecond)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			tt.story(s)
			b := s.first(stranger)
			before := 0
			for _, l := range s.lines {
				at, _ := time.Parse(time.RFC3339Nano, l[:strings.IndexByte(l, ' ')])
				if strings.Contains(l, "Failed") && strings.Contains(l, stranger) && !at.After(b.Start) {
					before++
				}
			}
			if before > tt.most+1 {
				t.Errorf("banned after %d tries, want at most %d: %s", before, tt.most, b.Reason)
			}
			if length := b.Until.Sub(b.Start); length < tt.least {
				t.Errorf("banned for %s, want %s at least: %s", length, tt.least, b.Reason)
			}
		})
	}
}

func tries(s *server, pause time.Duration, users ...string) {
	for _, u := range users {
		s.ssh(stranger, u)
		s.wait(pause)
	}
}

// A server with users and attackers, all of them made up here. The shares are a floor, well below what is measured.
func TestFloor(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s := newServer(t)
	begin := s.now
	type line struct {
		at  time.Duration
		say func()
	}
	var log []line
	honest := map[string]bool{}
	for i := range 60 { // users at home, with typing errors, for ten days
		user, addr := fmt.Sprintf("%c%c.user%02d", 'a'+i%26, 'a'+i/26, i), fmt.Sprintf("198.51.%d.%d", i%4, i)
		honest[addr] = true
		for day := range 10 {
			at := time.Duration(day)*24*time.Hour + time.Duration(r.IntN(12*3600))*time.Second
			for r.IntN(10) == 0 {
				log = append(log, line{at, func() { s.ssh(addr, user) }})
				at += time.Duration(5+r.IntN(20)) * time.Second
			}
			log = append(log, line{at, func() { s.login(addr, user) }})
		}
	}
	common := []string{"root", "!admin", "!test", "!oracle", "!postgres", "!ubuntu", "!git", "!pi"}
	attempts := 0
	for i := range 150 { // attackers: a few names each, mostly those that others try too, slowly
		addr := fmt.Sprintf("%d.%d.113.9", 20+i%90, i)
		at := time.Duration(r.IntN(8*24*3600)) * time.Second
		for range 1 + r.IntN(80) {
			user := common[r.IntN(len(common))]
			if r.IntN(4) == 0 {
				user = fmt.Sprintf("!name%d", r.IntN(60))
			}
			attempts++
			log = append(log, line{at, func() { s.ssh(addr, user) }})
			at += time.Duration(r.IntN(3600)) * time.Second
		}
	}
	slices.SortStableFunc(log, func(a, b line) int { return int(a.at - b.at) })
	for _, l := range log {
		s.now = begin.Add(l.at)
		l.say()
	}
	bans := s.bans()
	for _, b := range bans {
		if honest[b.Prefix.Addr().String()] {
			t.Errorf("an honest user at %s is banned: %s", b.Key, b.Reason)
		}
	}
	stopped := 0
	for _, l := range s.lines {
		at, _ := time.Parse(time.RFC3339Nano, l[:strings.IndexByte(l, ' ')])
		_, rest, _ := strings.Cut(l, " from ")
		addr, _, _ := strings.Cut(rest, " ")
		if strings.Contains(l, "Failed") && slices.ContainsFunc(bans, func(b ban.Ban) bool {
			return b.Prefix.Addr().String() == addr && at.After(b.Start) && at.Before(b.Until)
		}) {
			stopped++
		}
	}
	if share := float64(stopped) / float64(attempts); share < 0.93 {
		t.Errorf("%.1f %% of %d attempts do not reach the server, want 93 %%", 100*share, attempts)
	}
}

// Each defense is switched off by one key.
func TestSwitchedOff(t *testing.T) {
	for _, tt := range []struct {
		setting string
		bans    int // by default
		then    int // with the setting
		story   func(s *server)
	}{
		{"score_ban=0", 1, 0, func(s *server) { tries(s, time.Minute, "!admin") }},
		{"score_halflife=1m", 1, 0, func(s *server) { tries(s, time.Hour, "!zork", "!plugh", "!xyzzy") }},
		{"score_days=0", 1, 0, func(s *server) {
			s.login(home, "alice")
			for range 3 {
				s.ssh(stranger, "carol")
				s.wait(24 * time.Hour)
			}
		}},
		{"score_after_ban=0", 2, 1, func(s *server) {
			tries(s, time.Minute, "!zork", "!plugh", "!xyzzy")
			s.wait(8 * 24 * time.Hour)
			tries(s, time.Minute, "!frotz")
		}},
		{"score_unknown_user=10", 1, 0, func(s *server) { tries(s, time.Minute, "!zork", "!plugh", "!xyzzy") }},
		{"score_contested=10", 1, 0, func(s *server) {
			s.login(home, "alice")
			for i := range 6 {
				s.ssh(fmt.Sprintf("100.%d.113.1", 64+i), "root")
			}
			tries(s, time.Hour, "root", "root", "root", "root")
		}},
		{"spray_limits=false", 3, 0, func(s *server) { // of one name
			for i := range 23 {
				s.ssh(fmt.Sprintf("%d.%d.113.9", 20+i, i), "carol")
				s.wait(time.Minute)
			}
		}},
		{"spray_limits=false", 5, 0, func(s *server) { // from one network
			for i := range 8 {
				for range 2 {
					s.ssh(fmt.Sprintf("203.0.113.%d", 10+i), fmt.Sprintf("person%d", i))
				}
				s.wait(time.Hour)
			}
		}},
		{"spray_limits=false", 4, 0, func(s *server) { // at one service
			for i := range 93 {
				for range 3 {
					s.ssh(fmt.Sprintf("%d.%d.113.9", 20+i%90, i), fmt.Sprintf("person%d", i))
				}
			}
		}},
		{"ban_networks=false", 2, 3, func(s *server) {
			for i := range 3 {
				for range 5 {
					s.ssh(fmt.Sprintf("2001:db8:77:1::%d", 1+i), "root")
					s.wait(time.Minute)
				}
			}
		}},
		{"ban_networks=false", 5, 8, func(s *server) {
			for i := range 4 {
				for j := range 2 {
					for range 5 {
						s.ssh(fmt.Sprintf("2001:db8:77:%d::%d", i, 1+j), "root")
						s.wait(time.Second)
					}
				}
			}
		}},
		{"known_limits=false", 0, 1, func(s *server) {
			s.login(stranger, "alice")
			for i := range 6 {
				s.imap(stranger, fmt.Sprintf("name%d", i), false)
			}
		}},
		{"known_burst=0", 0, 1, func(s *server) {
			s.login(stranger, "alice")
			for range 14 {
				s.ssh(stranger, "alice")
			}
		}},
		{"known_retries=0", 0, 1, func(s *server) {
			s.login(stranger, "alice")
			for range 14 {
				s.ssh(stranger, "alice")
			}
		}},
		{"known_retries=1", 0, 4, func(s *server) { // a device
			s.login(stranger, "alice")
			for range 100 {
				s.ssh(stranger, "alice")
				s.wait(5 * time.Minute)
			}
		}},
		{"starter_names=false", 1, 0, func(s *server) { tries(s, time.Minute, "!admin") }},
		{"score_hot_name=0", 1, 0, func(s *server) { tries(s, time.Minute, "!admin") }},
		{"canaries=", 1, 0, func(s *server) { tries(s, time.Minute, canaryName) }},
	} {
		t.Run(tt.setting, func(t *testing.T) {
			s := newServer(t)
			tt.story(s)
			if tt.setting == "canaries=" {
				s.settings = "canaries=" + canaryName + "\n"
			}
			if n := len(s.bans()); n != tt.bans {
				t.Errorf("by default %d bans, want %d", n, tt.bans)
			}
			s.settings = tt.setting + "\n"
			if n := len(s.bans()); n != tt.then {
				t.Errorf("with %s %d bans, want %d", tt.setting, n, tt.then)
			}
		})
	}
}

const canaryName = "backup-old"

// A log without any login does not show who belongs here: one failure a day of one existing name is given six days there.
func TestDaysWithoutLogins(t *testing.T) {
	for name, tt := range map[string]struct {
		users      []string // in turn, one a day
		login      bool     // somebody logs in elsewhere
		days, bans int
	}{
		"five days":       {[]string{"carol"}, false, 5, 0},
		"six days":        {[]string{"carol"}, false, 6, 1},
		"with a login":    {[]string{"carol"}, true, 3, 1},
		"root":            {[]string{"root"}, false, 3, 1},
		"several users":   {[]string{"carol", "dave", "erin"}, false, 3, 1},
		"no such user":    {[]string{"!zork"}, false, 3, 1},
		"one day too few": {[]string{"root"}, false, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if tt.login {
				s.login(home, "alice")
			}
			for day := range tt.days {
				user := tt.users[day%len(tt.users)]
				tries(s, 0, user)
				s.wait(24 * time.Hour)
			}
			if n := len(s.bans()); n != tt.bans {
				t.Errorf("%d bans, want %d", n, tt.bans)
			}
		})
	}
}
