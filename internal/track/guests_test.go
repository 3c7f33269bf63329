package track

import (
	"fmt"
	"testing"
	"time"
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
