package track

import (
	"fmt"
	"testing"
	"time"

	"mef/internal/event"
)

// Whoever knows the names of many users guesses a few passwords of each, also with an account of his own: only one device at a place, or a
// few, may go on for long.
func TestManyGuestsAreNoDevices(t *testing.T) {
	for name, insider := range map[string]bool{"a stranger": false, "a user": true} {
		t.Run(name, func(t *testing.T) {
			tr := New(testConfig())
			for i := range 20 {
				tr.Observe(line{0, "ok", fmt.Sprintf("user%02d", i), "", 0}.event("dovecot", fmt.Sprintf("10.%d.0.1", i)))
			}
			if insider {
				tr.Observe(line{1, "ok", "mallory", "", 0}.event("dovecot", "203.0.113.7"))
			}
			for n := range 200 {
				ev := line{0, "fail", fmt.Sprintf("user%02d", n%20), fmt.Sprint(n), 0}.event("dovecot", "203.0.113.7")
				ev.Time = start.Add(time.Duration(n+3) * 20 * time.Second)
				if tally := tr.Observe(ev); tally.RuleReached() || tally.ScoreReached() || tally.UserReached() {
					return
				}
			}
			t.Error("200 guesses in an hour lead to nothing")
		})
	}
}

// A mailbox whose user has never logged in is no device either, also while a service is new.
func TestStrangersAtANewService(t *testing.T) {
	tr := New(testConfig())
	for n := range 200 {
		ev := line{0, "fail", fmt.Sprintf("user%02d@example.com", n%3), fmt.Sprint(n), 0}.event("dovecot", "203.0.113.7")
		ev.Time = start.Add(time.Duration(n+3) * 100 * time.Second)
		if tally := tr.Observe(ev); tally.RuleReached() || tally.ScoreReached() || tally.UserReached() {
			return
		}
	}
	t.Error("200 guesses at three mailboxes in six hours lead to nothing")
}

// A scanner or telephone with an old password tries its one mailbox every quarter of an hour. It is not
// cut off on its first day, whether or not the service reports that the mailbox exists.
func TestDeviceWithAnOldPassword(t *testing.T) {
	for name, exists := range map[string]bool{"mailbox reported to exist": true, "nothing reported": false} {
		t.Run(name, func(t *testing.T) {
			tr := New(testConfig())
			for n := range 40 {
				ev := line{0, "fail", "scan@example.com", fmt.Sprint(n), 0}.event("dovecot", "203.0.113.7")
				ev.Time, ev.ExistingUser = start.Add(time.Duration(n)*15*time.Minute), exists
				if tally := tr.Observe(ev); tally.RuleReached() || tally.ScoreReached() || tally.UserReached() {
					t.Fatalf("failure %d, after %s, leads to a ban", n+1, ev.Time.Sub(start))
				}
			}
		})
	}
}

// That names of users are guessed behind an address is known after a restart too.
func TestGuessedNamesSurvive(t *testing.T) {
	cfg := testConfig()
	cfg.Score.Sprays = true
	tr, disk := New(cfg), map[string][]byte{}
	for i := range 40 {
		tr.Observe(line{0, "ok", fmt.Sprintf("user%02d", i), "", 0}.event("dovecot", "192.0.2.7"))
	}
	for i := range 20 {
		tr.Observe(line{float64(60 + i), "fail", fmt.Sprintf("user%02d", i), fmt.Sprint(i), 0}.event("dovecot", "192.0.2.7"))
	}
	apply(disk, tr.Changes())
	restored := New(cfg)
	if err := restored.Import(entries(disk)); err != nil {
		t.Fatal(err)
	}
	for name, tr := range map[string]*Tracker{"before": tr, "after": restored} {
		all := tr.Attacks(start.Add(2 * time.Minute))
		if len(all) != 1 || all[0].Users != 40 || all[0].Sources != 20 || all[0].Net.String() != "192.0.2.7/32" {
			t.Errorf("%s a restart: %+v", name, all)
		}
	}
}

// Where lines do not name the user who failed, the first login of each user takes back the few failures before it, so that an office is not cut
// off. An account of one's own takes back no more.
func TestFailuresWithoutAName(t *testing.T) {
	type step struct {
		at   float64
		what string // "fail", or who logs in
	}
	for name, tt := range map[string]struct {
		steps []step
		want  int // attempts that count
	}{
		"nobody logs in":             {[]step{{0, "fail"}, {10, "fail"}, {20, "fail"}}, 3},
		"a user's first login":       {[]step{{0, "fail"}, {10, "fail"}, {20, "alice"}, {30, "fail"}}, 1},
		"no more than three":         {[]step{{0, "fail"}, {1, "fail"}, {2, "fail"}, {3, "fail"}, {20, "alice"}, {30, "fail"}}, 2},
		"two users":                  {[]step{{0, "fail"}, {1, "fail"}, {2, "alice"}, {3, "fail"}, {4, "fail"}, {5, "bob"}, {30, "fail"}}, 1},
		"long before":                {[]step{{0, "fail"}, {10, "fail"}, {200, "alice"}, {210, "fail"}}, 3},
		"a later login":              {[]step{{0, "alice"}, {10, "fail"}, {20, "fail"}, {30, "alice"}, {40, "fail"}}, 3},
		"one account, over and over": {[]step{{0, "fail"}, {1, "mallory"}, {2, "fail"}, {3, "mallory"}, {4, "fail"}, {5, "mallory"}, {6, "fail"}}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			tr := New(testConfig())
			var got, last int
			for i, s := range tt.steps {
				ev := line{s.at, "fail", "", fmt.Sprint(i), 0}.event("dovecot", "192.0.2.7")
				if s.what != "fail" {
					ev = line{s.at, "ok", s.what, fmt.Sprint(i), 0}.event("dovecot", "192.0.2.7")
				}
				tally := tr.Observe(ev)
				got, last = tally.Attempts, event.Points(tally.Score)
			}
			if got != tt.want || last > 10*tt.want || last < 10*tt.want-1 {
				t.Errorf("%d attempts count, with %d points; want %d", got, last, tt.want)
			}
		})
	}
}

// Whoever guesses the names of an office's users floods nobody with alarms: each user raises one a day, and all of them a few.
func TestGuessedNamesRaiseFewAlarms(t *testing.T) {
	cfg := testConfig()
	cfg.Score.Sprays, cfg.LoginAlarms = true, true
	tr := New(cfg)
	const users = 60
	user := func(i int) string { return fmt.Sprintf("user%02d", i) }
	for i := range users {
		tr.Observe(line{0, "ok", user(i), "", 0}.event("dovecot", "192.0.2.7"))
	}
	at := 60.0
	for i := range users {
		at++
		tr.Observe(line{at, "fail", user(i), fmt.Sprint(i), 0}.event("dovecot", "192.0.2.7"))
	}
	login := func(i int) bool {
		at++
		tr.Observe(line{at, "fail", user(i), fmt.Sprint(at), 0}.event("dovecot", "192.0.2.7"))
		at++
		return tr.Observe(line{at, "ok", user(i), "", 0}.event("dovecot", "192.0.2.7")).Alarm != ""
	}
	if !login(0) || login(0) {
		t.Error("the same user raises no alarm, or more than one")
	}
	for i := range 40 {
		login(i)
	}
	if n := len(tr.Alarms()); n != maxGuessed {
		t.Errorf("%d alarms, want %d", n, maxGuessed)
	}
	at += 86400
	for i := range users {
		at++
		tr.Observe(line{at, "fail", user(i), fmt.Sprint(at), 0}.event("dovecot", "192.0.2.7"))
	}
	if !login(0) {
		t.Error("no alarm a day later")
	}
}
