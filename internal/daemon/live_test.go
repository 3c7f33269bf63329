package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/host"
)

var sshd = &conf.Rule{Name: "sshd", Programs: []string{"sshd"}, Files: []string{"/var/log/auth.log", "/var/log/secure"}}

func TestOriginOfRule(t *testing.T) {
	fixed := func(s conf.SourceKind) *conf.Rule { r := *sshd; r.Source = s; return &r }
	for name, tt := range map[string]struct {
		rule     *conf.Rule
		programs []string // that log to the journal
		files    []string // that are there
		want     origin
		reason   string
	}{
		"journal has it":        {sshd, []string{"cron", "sshd-session"}, nil, inJournal, "the journal has entries of sshd-session"},
		"journal before files":  {sshd, []string{"sshd"}, []string{"/var/log/auth.log"}, inJournal, "the journal has entries of sshd"},
		"only another program":  {sshd, []string{"cron"}, []string{"/var/log/secure"}, inFiles, "the journal has no entries of sshd, and /var/log/secure is there"},
		"nothing yet":           {sshd, nil, nil, nowhere, "neither journal entries nor files of sshd yet"},
		"source=file in force":  {fixed(conf.SourceFile), []string{"sshd"}, nil, inFiles, "the rule says source=file"},
		"source=journal, empty": {fixed(conf.SourceJournal), nil, []string{"/var/log/auth.log"}, inJournal, "the rule says source=journal"},
	} {
		t.Run(name, func(t *testing.T) {
			covers := func(program string) bool { return strings.HasPrefix(program, "sshd") }
			found := func(glob string) bool {
				for _, f := range tt.files {
					if f == glob {
						return true
					}
				}
				return false
			}
			l := newLive(tt.rule, covers, tt.programs, found)
			if l.from != tt.want || l.reason != tt.reason {
				t.Errorf("from %v because %q, want %v because %q", l.from, l.reason, tt.want, tt.reason)
			}
		})
	}
}

// A service that strangers reach, and of which nobody hears, is named; one that only this host reaches, or no rule is about, is not.
func TestUnheard(t *testing.T) {
	rules, err := conf.ShippedRules(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	any6, local := netip.IPv6Unspecified(), netip.MustParseAddr("127.0.0.1")
	listeners := []host.Listener{
		{Protocol: "tcp", Addr: any6, Port: 22, Unit: "ssh.socket"},
		{Protocol: "tcp", Addr: any6, Port: 143, Unit: "dovecot.service"},
		{Protocol: "tcp", Addr: any6, Port: 993, Unit: "dovecot.service"},
		{Protocol: "tcp", Addr: local, Port: 25, Unit: "postfix@-.service"},
		{Protocol: "tcp", Addr: any6, Port: 80, Unit: "nginx.service"},
		{Protocol: "tcp", Addr: any6, Port: 21},
		{Protocol: "tcp", Addr: any6, Port: 2222, Unit: "session-3.scope"},
	}
	for name, tt := range map[string]struct {
		from origin // of every rule
		want []string
	}{
		"nothing yet": {nowhere, []string{
			"ssh.service listens on tcp port 22, and rule sshd has no live source: nothing yet",
			"dovecot.service listens on tcp port 143, and rule dovecot has no live source: nothing yet",
		}},
		"from the journal": {inJournal, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := &loop{set: set, lives: make(map[string]*live)}
			for i := range rules {
				e.lives[rules[i].Name] = &live{rule: &rules[i], from: tt.from, reason: "nothing yet"}
			}
			if got := e.unheard(listeners); !slices.Equal(got, tt.want) {
				t.Errorf("says %q, want %q", got, tt.want)
			}
		})
	}
}

// A record is one thing that happened, as the journal or a file tells it.
func record(from origin, second int, message string) *event.Event {
	ev := &event.Event{Rule: "sshd", Time: time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC), Line: message}
	if from == inFiles {
		ev.Line = "Jan  2 03:04:05 host sshd[1]: " + message
	}
	return ev
}

// TestMoveCountsNothingTwice follows a rule from files to the journal while a logger writes every record to both.
func TestMoveCountsNothingTwice(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, tt := range map[string]struct {
		start origin
		steps []struct {
			from    origin
			message string
			counts  bool
		}
		end origin
	}{
		"the journal lags behind the file": {inFiles, []struct {
			from    origin
			message string
			counts  bool
		}{
			{inFiles, "Failed password 1", true},
			{inFiles, "Failed password 2", true},
			{inJournal, "Failed password 1", false}, // moves; told by the file
			{inJournal, "Failed password 2", false},
			{inFiles, "Failed password 3", false},
			{inJournal, "Failed password 3", true},
			{inJournal, "Failed password 1", true}, // the same words again are another attempt
		}, inJournal},
		"the file lags behind the journal": {nowhere, []struct {
			from    origin
			message string
			counts  bool
		}{
			{inJournal, "Failed password 1", true},
			{inFiles, "Failed password 1", false},
		}, inJournal},
		"a file appears first": {nowhere, []struct {
			from    origin
			message string
			counts  bool
		}{
			{inFiles, "Failed password 1", true},
			{inJournal, "Failed password 1", false},
			{inJournal, "Failed password 2", true},
		}, inJournal},
		"records longer than evidence": {inFiles, []struct {
			from    origin
			message string
			counts  bool
		}{
			{inFiles, long, true},
			{inJournal, long, false},
			{inJournal, "y" + long, true},
		}, inJournal},
	} {
		t.Run(name, func(t *testing.T) {
			l := &live{rule: sshd, from: tt.start}
			for i, step := range tt.steps {
				ev := record(step.from, i, step.message)
				ev.Line = ev.Line[:min(len(ev.Line), event.MaxEvidence)]
				counts, _ := l.counts(step.from, ev)
				if counts != step.counts {
					t.Errorf("step %d, %q from %v: counts = %v", i, step.message, step.from, counts)
				}
				if counts {
					l.remember(ev)
				}
			}
			if l.from != tt.end {
				t.Errorf("ends at %v, want %v", l.from, tt.end)
			}
		})
	}
}

// TestEchoMovesNothing is a service that logs to a file, while PAM tells of the same failures in the journal.
func TestEchoMovesNothing(t *testing.T) {
	echo := record(inJournal, 1, "pam_unix(sshd:auth): authentication failure")
	echo.Echo = true
	l := &live{rule: sshd, from: nowhere}
	if counts, moved := l.counts(inJournal, echo); !counts || moved {
		t.Errorf("the first echo: counts %v, moved %v; want it counted, as long as nothing else is known", counts, moved)
	}
	if counts, moved := l.counts(inFiles, record(inFiles, 1, "Failed password")); !counts || !moved {
		t.Errorf("the service's own line: counts %v, moved %v; want both", counts, moved)
	}
	if counts, moved := l.counts(inJournal, echo); counts || moved || l.from != inFiles {
		t.Errorf("the next echo: counts %v, moved %v, to %v; want it passed over", counts, moved, l.from)
	}
}

func TestFixedRuleNeverMoves(t *testing.T) {
	l := &live{rule: sshd, from: inFiles, fixed: true}
	if counts, moved := l.counts(inJournal, record(inJournal, 0, "Failed password")); counts || moved {
		t.Errorf("source=file took a journal entry: counts %v, moved %v", counts, moved)
	}
}
