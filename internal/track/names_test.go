package track

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/track/dictionary"
)

// missing is a failure with a name that the daemon says does not exist.
func missing(tr *Tracker, at float64, addr, user string) (points float64) {
	ev := line{at, "fail", user, "", 0}.event("sshd", addr)
	ev.UnknownUser, ev.EmptyUser = true, user == ""
	before := tr.Explain(ev.Addr, ev.Time).Score
	return tr.Observe(ev).Score - float64(before)
}

// A service that reports an unknown user without a name is no reason to take the name for an empty one.
func TestUnknownUserWithoutName(t *testing.T) {
	tr := New(namesConfig())
	ev := line{0, "fail", "", "", 0}.event("sshd", "192.0.2.7")
	ev.UnknownUser = true
	for i, want := range []float64{35, 45, 55} {
		ev.Time = start.Add(time.Duration(i) * time.Minute)
		if score := tr.Observe(ev).Score; math.Round(score) != want {
			t.Errorf("after %d such lines the score is %v, want %v", i+1, score, want)
		}
	}
}

func namesConfig() Config {
	cfg := testConfig()
	cfg.Score.Absent, cfg.Score.Contested, cfg.Score.Hot = 35, 25, 100
	cfg.Score.HalfLife = 14 * 24 * time.Hour
	cfg.Canaries = []string{"Mallory.Trap"}
	cfg.StarterNames = true
	cfg.Accounts = map[string]bool{"alice": true, "daemon": false}
	return cfg
}

func TestNameIsHot(t *testing.T) {
	for name, tt := range map[string]struct {
		tried []string // addresses that tried the name before
		users []string // who logged in before
		user  string
		want  int // points of a try from elsewhere
	}{
		"new":                          {nil, nil, "zork", 35},
		"tried by one network":         {[]string{"203.0.113.1", "203.0.113.2", "203.0.7.1"}, nil, "zork", 35},
		"tried by two":                 {[]string{"203.0.113.1", "100.64.0.1"}, nil, "zork", 100},
		"differing in case and domain": {[]string{"203.0.113.1", "100.64.0.1"}, nil, `EXAMPLE\Zork`, 100},
		"with blanks around it":        {[]string{"203.0.113.1", "100.64.0.1"}, nil, " zork ", 100},
		"from the start":               {nil, nil, "admin", 100},
		"a canary":                     {nil, nil, "mallory.trap", 100},
		"no name at all":               {nil, nil, "", 100},
		"an account":                   {[]string{"203.0.113.1", "100.64.0.1"}, nil, "alice", 10},
		"an account of the system":     {[]string{"203.0.113.1", "100.64.0.1"}, nil, "daemon", 10},
		"near an account":              {[]string{"203.0.113.1", "100.64.0.1"}, nil, "alcie", 0},
		"logged in once":               {[]string{"203.0.113.1", "100.64.0.1"}, []string{"zork@example.net"}, "zork", 0},
		"near one who did":             {[]string{"203.0.113.1", "100.64.0.1"}, []string{"zork"}, "zrok", 0},
		"three edits away":             {nil, []string{"zork"}, "zorkist", 35},
	} {
		t.Run(name, func(t *testing.T) {
			tr := New(namesConfig())
			for _, u := range tt.users {
				tr.Observe(line{0, "ok", u, "", 0}.event("sshd", "198.51.100.1"))
			}
			for i, addr := range tt.tried {
				missing(tr, 1+float64(i), addr, tt.user)
			}
			if got := missing(tr, 10, "192.0.2.7", tt.user); got != float64(tt.want) {
				t.Errorf("a try of %q adds %v points, want %d", tt.user, got, tt.want)
			}
		})
	}
}

// Forged events teach nothing.
func TestForgersTeachNoNames(t *testing.T) {
	tr := New(namesConfig())
	for i := range 50 {
		ev := line{float64(i), "fail", "zork", "", 0}.event("sshd", fmt.Sprintf("%d.0.2.1", 20+i))
		ev.Verified, ev.UnknownUser = false, true
		tr.Observe(ev)
	}
	if got := missing(tr, 60, "192.0.2.7", "zork"); got != 35 {
		t.Errorf("%v points, want 35", got)
	}
}

func TestNamesShown(t *testing.T) {
	tr := New(namesConfig())
	tr.Observe(line{0, "ok", "bob", "", 0}.event("sshd", "198.51.100.1"))
	for i, addr := range []string{"203.0.113.1", "100.64.0.1", "192.0.2.1"} {
		for _, u := range []string{"zork", "bbo", "daemon"} {
			missing(tr, float64(i), addr, u)
		}
	}
	got := map[string]dictionary.Name{}
	for _, n := range tr.Names("", 0, start.Add(time.Minute)) {
		got[n.Name] = n
	}
	for name, want := range map[string]string{
		"zork": "learned true ", "bbo": "learned false may be a typing error of bob", "daemon": "user false exists on this host",
		"mallory.trap": "canary true ", "admin": "starter true ",
	} {
		n := got[name]
		if s := fmt.Sprintf("%s %v %s", n.Origin, n.Hot, n.Protected); s != want {
			t.Errorf("%s: %q, want %q", name, s, want)
		}
	}
	if n := got["zork"]; n.Networks != 3 || n.Tries != 3 {
		t.Errorf("zork: %+v", n)
	}
}

func TestLoginAlarm(t *testing.T) {
	for name, tt := range map[string]struct {
		before func(tr *Tracker)
		want   bool
	}{
		"nothing before": {func(*Tracker) {}, false},
		"typing errors of one's own": {func(tr *Tracker) {
			for i := range 4 {
				tr.Observe(line{float64(i), "fail", "alice", "", 0}.event("sshd", "192.0.2.7"))
			}
		}, false},
		"the address attacked": {func(tr *Tracker) {
			missing(tr, 0, "192.0.2.7", "zork")
			missing(tr, 1, "192.0.2.7", "plugh")
		}, true},
		"the name was being guessed": {func(tr *Tracker) {
			for i := range 6 {
				tr.Observe(line{float64(i), "fail", "alice", "", 0}.event("sshd", fmt.Sprintf("203.%d.113.1", i)))
			}
		}, true},
		"but its user has been here": {func(tr *Tracker) {
			tr.Observe(line{0, "ok", "alice", "", 0}.event("sshd", "192.0.2.7"))
			for i := range 6 {
				tr.Observe(line{float64(i), "fail", "alice", "", 0}.event("sshd", fmt.Sprintf("203.%d.113.1", i)))
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := namesConfig()
			cfg.LoginAlarms = true
			tr, disk := New(cfg), map[string][]byte{}
			tt.before(tr)
			tally := tr.Observe(line{20, "ok", "alice", "", 0}.event("sshd", "192.0.2.7"))
			if (tally.Alarm != "") != tt.want {
				t.Fatalf("alarm %q", tally.Alarm)
			}
			apply(disk, tr.Changes())
			restored := New(cfg)
			if err := restored.Import(entries(disk)); err != nil {
				t.Fatal(err)
			}
			if alarms := restored.Alarms(); (len(alarms) == 1 && alarms[0].Addr == netip.MustParseAddr("192.0.2.7")) != tt.want {
				t.Errorf("after a restart %+v", alarms)
			}
			if n := restored.Acknowledge(); (n == 1) != tt.want || restored.Acknowledge() != 0 {
				t.Errorf("acknowledged %d", n)
			}
			cfg.LoginAlarms = false
			off := New(cfg)
			tt.before(off)
			if tally := off.Observe(line{20, "ok", "alice", "", 0}.event("sshd", "192.0.2.7")); tally.Alarm != "" || len(off.Alarms()) > 0 {
				t.Errorf("switched off, there is an alarm: %q", tally.Alarm)
			}
		})
	}
}

// Alarms about one account do not push out those about others, however many there are.
func TestAlarmsAreKept(t *testing.T) {
	cfg := namesConfig()
	cfg.LoginAlarms = true
	tr := New(cfg)
	raise := func(i int, user string) {
		addr, at := fmt.Sprintf("203.0.%d.%d", i/250, 1+i%250), float64(10*i)
		missing(tr, at, addr, fmt.Sprintf("zork%d", 7*i))
		missing(tr, at+1, addr, fmt.Sprintf("plugh%d", 7*i))
		tr.Observe(line{at + 2, "ok", user, "", 0}.event("sshd", addr))
	}
	raise(0, "alice")
	raise(1, "carol")
	tr.Acknowledge(2)
	for i := range 2 * maxAlarms {
		raise(2+i, "mallory")
	}
	alarms := tr.Alarms()
	if len(alarms) != maxAlarms || alarms[0].User != "alice" || alarms[1].User != "mallory" || alarms[maxAlarms-1].ID != 2*maxAlarms+2 {
		t.Errorf("%d alarms, the first %+v", len(alarms), alarms[0])
	}
}

// A lifted ban was a mistake: what logs report of the time before counts no more, over a restart too.
func TestLiftedIsAFact(t *testing.T) {
	tr, disk := New(testConfig()), map[string][]byte{}
	ev := line{10, "fail", "a", "", 5}.event("sshd", "192.0.2.7")
	tr.Observe(ev)
	tr.Unbanned(ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, start.Add(20*time.Second))
	apply(disk, tr.Changes())
	tr = New(testConfig())
	if err := tr.Import(entries(disk)); err != nil {
		t.Fatal(err)
	}
	if tally := tr.Observe(ev); tally.RuleReached() || tr.Explain(ev.Addr, start.Add(time.Minute)).Score > 0 {
		t.Errorf("read again, it counts: %+v", tally)
	}
	ev.Time = start.Add(21 * time.Second)
	if tally := tr.Observe(ev); !tally.RuleReached() {
		t.Errorf("what comes later does not: %+v", tally)
	}
}
