//go:build integration

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/lab"
)

// mefctl replay decides about a journal as mefdaemon did while sshd and Dovecot wrote it: the same events in the same order, each with the
// same score, and the same bans for the same reasons.
func TestReplayAgreesWithTheDaemon(t *testing.T) {
	s := begin(t, "", nil)
	const office, stranger = "198.51.100.90", "203.0.113.90"
	login := func(from string, who lab.Account) {
		t.Helper()
		if _, err := s.w.Client(from).SSH(s.ctx, lab.SSHPort, who.Name, who.Password, ""); err != nil {
			t.Errorf("%s logs in: %v", who.Name, err)
		}
		if err := s.w.Client(from).IMAP(s.ctx, who.Name, who.Password); err != nil {
			t.Errorf("%s reads mail: %v", who.Name, err)
		}
	}
	one := func(do guess, user, from string) {
		t.Helper()
		before := s.attemptsSeen()
		s.fail(do, user, from)
		s.until("the guess to be counted", func() error {
			if s.attemptsSeen() == before {
				return errors.New("it is not")
			}
			return nil
		})
	}
	login(office, lab.Alice)
	for range 3 { // forgiven to Alice
		one(ssh, "alice", office)
		one(imap, "alice", office)
	}
	login(office, lab.Mallory)
	one(imap, "root", office)
	one(ssh, "nobody-here", stranger)
	one(ssh, "nobody-there", stranger)
	one(imap, "nobody-there", stranger)
	one(ssh, "nobody-at-all", stranger) // banned by now
	s.banned(stranger)
	one(ssh, "admin", "2001:db8:bad0:90::1") // a hot name
	s.banned("2001:db8:bad0:90::1")
	for i := range 12 { // one account, from many addresses of a network
		one(ssh, "root", fmt.Sprintf("203.0.113.%d", 100+i))
	}
	s.banned("203.0.113.111")
	for range 5 {
		one(imap, "carol", "2001:db8:bad0:91::1")
	}
	s.banned("2001:db8:bad0:91::1")

	var live, replayed []verdict
	var liveBans, replayedBans []string
	s.until("the last lines to be read", func() error {
		live, replayed, liveBans, replayedBans = nil, nil, nil, nil
		for _, rec := range s.records() {
			live, liveBans = verdicts(rec, live, liveBans)
		}
		for line := range strings.Lines(s.mefctl("replay", "--journal", "--events", "--json")) {
			var rec control.Record
			if err := json.Unmarshal([]byte(line), &rec); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			replayed, replayedBans = verdicts(rec, replayed, replayedBans)
		}
		if len(live) != len(replayed) {
			return fmt.Errorf("mefdaemon has reported %d events, and mefctl replay %d", len(live), len(replayed))
		}
		return nil
	})
	if len(live) < 40 || len(liveBans) < 8 {
		t.Errorf("%d events and %d bans: the test shows little", len(live), len(liveBans))
	}
	if !slices.EqualFunc(live, replayed, verdict.equal) {
		t.Errorf("events: mefdaemon\n%s\nmefctl replay\n%s", lines(live), lines(replayed))
	}
	if !slices.Equal(liveBans, replayedBans) {
		t.Errorf("bans: mefdaemon\n%s\nmefctl replay\n%s", strings.Join(liveBans, "\n"), strings.Join(replayedBans, "\n"))
	}
}

// A verdict is what a record says of a line.
type verdict struct {
	event string
	score float64
}

// equal allows for points that decay between lines, whose times a journal's text has by the second only.
func (v verdict) equal(other verdict) bool {
	return v.event == other.event && math.Abs(v.score-other.score) < 0.5
}

func lines(verdicts []verdict) string {
	var text strings.Builder
	for _, v := range verdicts {
		fmt.Fprintf(&text, "%s %.2f points\n", v.event, v.score)
	}
	return text.String()
}

// spans are times between lines.
var spans = regexp.MustCompile(` in (?:under 1s|(?:\d+[hms])+)`)

// header precedes each message in the journal's text. The daemon reads the message alone.
var header = regexp.MustCompile(`^[\d-]+T\S+ server [^ :]+: `)

// verdicts appends the verdict of a record to events or bans.
func verdicts(rec control.Record, events []verdict, bans []string) ([]verdict, []string) {
	switch {
	case rec.Prefix != "" && (rec.Event == "ban" || rec.Event == ""):
		prefix := strings.TrimSuffix(strings.TrimSuffix(rec.Prefix, "/32"), "/128")
		deciding := ""
		if n := len(rec.Evidence); n > 0 {
			deciding = header.ReplaceAllString(rec.Evidence[n-1], "")
			deciding = deciding[:min(len(deciding), 80)] // less is kept of a line with a header
		}
		bans = append(bans, fmt.Sprintf("%s ports %s by %s: %s; %s", prefix, rec.Ports, rec.Rule, spans.ReplaceAllString(rec.Reason, ""), deciding))
	case rec.Event == "failure" || rec.Event == "success" || rec.Event == "probe":
		events = append(events, verdict{fmt.Sprintf("%s %s %s %q", rec.Event, rec.Rule, rec.Addr, rec.User), rec.Score})
	}
	return events, bans
}

// attemptsSeen returns how many failures mefdaemon has reported, those of banned addresses included.
func (s *scene) attemptsSeen() (n int) {
	for _, rec := range s.records() {
		if rec.Event == "failure" {
			n++
		}
	}
	return n
}
