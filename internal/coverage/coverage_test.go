package coverage_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/coverage"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/host"
)

// ftp is a rule whose service writes a log of its own and which a syslog daemon may have lines of.
func ftp(source conf.SourceKind) conf.Rule {
	return conf.Rule{Name: "ftp", Service: "ftpd", Enabled: true, Source: source, Programs: []string{"ftpd"},
		Files: []string{"/var/log/ftpd.log", "/var/log/auth.log"}}
}

// machine is a host that has these files, units and entries of units in its journal.
func machine(journald bool, files, units, logged []string) *coverage.Host {
	return &coverage.Host{
		Journald: journald, Units: units, Logged: logged,
		Shared:  func(path string) bool { return path == "/var/log/auth.log" },
		Program: func(string) bool { return false },
		Files: func(glob string) (found []string) {
			for _, f := range files {
				if ok, _ := filepath.Match(glob, f); ok {
					found = append(found, f)
				}
			}
			return found
		},
	}
}

func read(t *testing.T, rules []conf.Rule, h *coverage.Host) (map[string]*coverage.Reader, *filter.Set) {
	t.Helper()
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	return coverage.Read(rules, set, h), set
}

func TestWhatARuleReads(t *testing.T) {
	unit, own, both := []string{"ftpd.service"}, []string{"/var/log/ftpd.log"}, []string{"/var/log/ftpd.log", "/var/log/auth.log"}
	shared := []string{"/var/log/auth.log"}
	for name, tt := range map[string]struct {
		source conf.SourceKind
		host   *coverage.Host
		live   string
		reads  string // of journal, own and shared
		reason string
	}{
		"journal has it":                    {conf.SourceAuto, machine(true, nil, unit, unit), "journal", "journal own", "the journal has entries of ftpd.service"},
		"nothing logged yet":                {conf.SourceAuto, machine(true, nil, unit, nil), "journal", "journal own", "the journal is read, but has no entries of ftpd yet"},
		"an own file":                       {conf.SourceAuto, machine(true, own, unit, nil), "journal+files", "journal own", "the service itself writes /var/log/ftpd.log"},
		"PAM's entries beside an own file":  {conf.SourceAuto, machine(true, own, unit, unit), "journal+files", "journal own", "the journal has entries of ftpd.service; the service itself writes /var/log/ftpd.log"},
		"a syslog daemon beside journald":   {conf.SourceAuto, machine(true, shared, unit, nil), "journal", "journal own", "the journal is read, but has no entries of ftpd yet; /var/log/auth.log is not read, because local users can write to it with logger(1)"},
		"not installed":                     {conf.SourceAuto, machine(true, shared, []string{"ssh.service"}, nil), "off", "journal own", "ftpd is not installed on this host and does not listen"},
		"without journald, a syslog daemon": {conf.SourceAuto, machine(false, shared, unit, nil), "files", "own shared", "journald does not run, and /var/log/auth.log exists"},
		"without journald, nothing yet":     {conf.SourceAuto, machine(false, nil, unit, nil), "none", "own shared", "journald does not run, and there is no /var/log/ftpd.log, no /var/log/auth.log"},
		"source=file":                       {conf.SourceFile, machine(true, both, unit, unit), "files", "own shared", "source=file"},
		"source=journal":                    {conf.SourceJournal, machine(true, both, nil, nil), "journal", "journal", "source=journal"},
	} {
		t.Run(name, func(t *testing.T) {
			readers, _ := read(t, []conf.Rule{ftp(tt.source)}, tt.host)
			r := readers["ftp"]
			var reads []string
			for what, is := range map[string]bool{"journal": r.Journal, "own": r.ReadsFile("/var/log/ftpd.log"), "shared": r.ReadsFile("/var/log/auth.log")} {
				if is {
					reads = append(reads, what)
				}
			}
			slices.Sort(reads)
			if got := strings.Join(reads, " "); r.Live() != tt.live || got != tt.reads || r.Reason() != tt.reason {
				t.Errorf("live %q, reads %q, because %q;\nwant %q, %q, because %q", r.Live(), got, r.Reason(), tt.live, tt.reads, tt.reason)
			}
			want := coverage.Wanted(readers, nil)
			if want.Journal != r.Journal || slices.Contains(want.Globs, "/var/log/auth.log") != r.ReadsFile("/var/log/auth.log") {
				t.Errorf("follows %+v", want)
			}
		})
	}
}

// at returns a record that a source has of something that happened at a second.
func at(second int, line string) *event.Event {
	return &event.Event{Rule: "ftp", Kind: event.Failure, Time: time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC), Line: line}
}

// A record that comes from several sources in the same words counts once, whichever comes first.
func TestOneRecordFromTwoSources(t *testing.T) {
	type step struct {
		source, text string
		counts       bool
	}
	const header = "Jan  2 03:04:05 host ftpd[1]: "
	long := strings.Repeat("x", 300)
	for name, steps := range map[string][]step{
		"one source": {{"file", "a", true}, {"file", "a", true}, {"file", "a", true}},
		"the journal lags behind": {
			{"file", "a", true}, {"file", "b", true}, {"journal", "a", false}, {"journal", "b", false}, {"file", "c", true}, {"journal", "c", false},
			{"journal", "a", true}, // the same words again are another attempt
		},
		"the file lags behind": {{"journal", "a", true}, {"file", "a", false}, {"journal", "b", true}, {"file", "b", false}},
		"other words":          {{"file", "FAIL LOGIN", true}, {"journal", "pam_unix: authentication failure", true}},
		"two files":            {{"file", "a", true}, {"other file", "a", false}, {"other file", "a", true}},
		"longer than evidence": {{"file", long, true}, {"journal", long, false}, {"journal", "y" + long, true}},
		"each answers for one": {{"file", "a", true}, {"file", "a", true}, {"journal", "a", false}, {"journal", "a", false}, {"journal", "a", true}},
	} {
		t.Run(name, func(t *testing.T) {
			readers, _ := read(t, []conf.Rule{ftp(conf.SourceAuto)}, machine(true, nil, nil, nil))
			for i, s := range steps {
				line := s.text
				if s.source != "journal" {
					line = header + s.text
				}
				ev := at(i, line[:min(len(line), event.MaxEvidence)])
				if got := readers["ftp"].Accept(s.source, s.source == "journal", ev); got != s.counts {
					t.Errorf("step %d, %.20q from the %s: counts = %v", i, s.text, s.source, got)
				}
			}
		})
	}
}

// What a local user can write with logger(1) never makes a login known where journald runs, not even with source=file.
func TestLoginsOfSharedFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		journald bool
		file     string
		want     bool
	}{
		"shared":           {true, "/var/log/auth.log", false},
		"own":              {true, "/var/log/ftpd.log", true},
		"without journald": {false, "/var/log/auth.log", true},
	} {
		t.Run(name, func(t *testing.T) {
			readers, _ := read(t, []conf.Rule{ftp(conf.SourceFile)}, machine(tt.journald, []string{"/var/log/auth.log"}, nil, nil))
			login := at(1, "OK LOGIN")
			login.Kind = event.Success
			if got := readers["ftp"].Accept(tt.file, false, login); got != tt.want {
				t.Errorf("a login counts: %v, want %v", got, tt.want)
			}
			if !readers["ftp"].Accept(tt.file, false, at(2, "FAIL LOGIN")) {
				t.Error("a failure does not count")
			}
			if got := readers["ftp"].Forgeable() != ""; got != tt.journald {
				t.Errorf("warns: %v", got)
			}
		})
	}
}

// A rule whose service is not there is on as soon as a source has a line that it believes.
func TestOffUntilALineComes(t *testing.T) {
	readers, _ := read(t, []conf.Rule{ftp(conf.SourceAuto)}, machine(true, nil, nil, nil))
	r := readers["ftp"]
	if r.Live() != "off" {
		t.Fatalf("live %q", r.Live())
	}
	r.Accept("journal", true, at(1, "x"))
	again, _ := read(t, []conf.Rule{ftp(conf.SourceAuto)}, machine(true, nil, nil, nil))
	again["ftp"].Inherit(r, time.Now())
	for what, r := range map[string]*coverage.Reader{"then": r, "after a reload": again["ftp"]} {
		if got := fmt.Sprint(r.Live(), ": ", r.Reason()); got != "journal: the journal has entries of ftpd" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// A rule that reads elsewhere from now on begins at that moment: the new place has records that have been counted. One that reads where
// it did before goes on.
func TestRuleThatMovesBeginsAnew(t *testing.T) {
	now := at(10, "").Time
	old, _ := read(t, []conf.Rule{ftp(conf.SourceAuto)}, machine(true, nil, nil, nil))
	for name, tt := range map[string]struct {
		source conf.SourceKind
		moved  bool
	}{
		"to files":      {conf.SourceFile, true},
		"where it was":  {conf.SourceAuto, false},
		"still journal": {conf.SourceJournal, false},
	} {
		readers, _ := read(t, []conf.Rule{ftp(tt.source)}, machine(true, nil, nil, nil))
		r := readers["ftp"]
		r.Inherit(old["ftp"], now)
		again, _ := read(t, []conf.Rule{ftp(tt.source)}, machine(true, nil, nil, nil))
		again["ftp"].Inherit(r, now.Add(time.Hour))
		for when, r := range map[string]*coverage.Reader{"then": r, "after a reload": again["ftp"]} {
			if got := r.Accept("/var/log/ftpd.log", false, at(9, "old")); got == tt.moved {
				t.Errorf("%s, %s: what happened before counts: %v", name, when, got)
			}
			if !r.Accept("/var/log/ftpd.log", false, at(11, "new")) {
				t.Errorf("%s, %s: what happens now does not count", name, when)
			}
		}
	}
}

// A service that others reach and of which nothing is logged, or that no rule covers, is named; one that only this host reaches is not.
func TestListeners(t *testing.T) {
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	any6, local := netip.IPv6Unspecified(), netip.MustParseAddr("127.0.0.1")
	listeners := []host.Listener{
		{Protocol: "tcp", Addr: any6, Port: 22, Unit: "ssh.socket"},
		{Protocol: "tcp", Addr: any6, Port: 143, Unit: "dovecot.service"},
		{Protocol: "tcp", Addr: any6, Port: 993, Unit: "dovecot.service"},
		{Protocol: "tcp", Addr: local, Port: 25, Unit: "postfix@-.service"},
		{Protocol: "tcp", Addr: any6, Port: 8000, Unit: "no-such-server.service"},
		{Protocol: "tcp", Addr: any6, Port: 8001, Unit: "no-such-server.service"},
		{Protocol: "udp", Addr: any6, Port: 8002, Unit: "no-such-server.service"},
		{Protocol: "tcp", Addr: local, Port: 8003, Unit: "local.service"},
		{Protocol: "tcp", Addr: any6, Port: 21},
		{Protocol: "tcp", Addr: any6, Port: 2222, Unit: "session-3.scope", Program: "mine"},
	}
	h := machine(true, nil, nil, []string{"ssh.service"})
	h.Listeners = listeners
	readers, set := read(t, rules, h)
	want := []string{"dovecot.service listens on tcp port 143, but nothing that rule dovecot reads has been logged: the journal is read, but has no entries of dovecot yet"}
	if got := coverage.Silent(readers, set, listeners); !slices.Equal(got, want) {
		t.Errorf("silent: %q, want %q", got, want)
	}
	want = []string{"no-such-server.service (8000, 8001)", "session-3.scope (2222)"}
	own := []host.Listener{{Protocol: "tcp", Addr: any6, Port: 8480, Unit: "mefdaemon.service"}, {Protocol: "tcp", Addr: any6, Port: 8481, Program: "mefpage"}}
	if got := coverage.Uncovered(rules, set, append(own, listeners...)); !slices.Equal(got, want) {
		t.Errorf("uncovered: %q, want %q", got, want)
	}
	var listed []string
	listeners = host.Forwarded(listeners, []host.Forward{
		{Protocol: "tcp", Port: 22, To: netip.MustParseAddrPort("172.17.0.2:22")}, // something listens there
		{Protocol: "tcp", Port: 8081, To: netip.MustParseAddrPort("172.17.0.2:80")},
		{Protocol: "tcp", Port: 8003, To: netip.MustParseAddrPort("172.17.0.2:80")},
		{Protocol: "tcp", Port: 443, To: netip.MustParseAddrPort("172.17.0.3:443")},
	})
	bans := func(rule string) ban.Ports { return map[string]ban.Ports{"dovecot": "143,995"}[rule] }
	for _, s := range coverage.List(rules, set, listeners, bans) {
		listed = append(listed, fmt.Sprintf("%s %s %d local=%v %s", s.Name, s.Protocol, s.Ports, s.Local, s.Rules))
		if s.Open != nil {
			listed[len(listed)-1] += fmt.Sprint(" open ", s.Open)
		}
	}
	want = []string{
		"dovecot.service tcp [143 993] local=false [dovecot] open [993]",
		"no-such-server.service tcp [8000 8001] local=false []",
		"no-such-server.service udp [8002] local=false []",
		"session-3.scope tcp [2222] local=false []",
		"ssh.service tcp [22] local=false [sshd]",
		"an unknown service tcp [21] local=false [ftpd proftpd pure-ftpd sftpgo vsftpd]",
		"forwarded to 172.17.0.2 tcp [8081 8003] local=false []",
		"forwarded to 172.17.0.3 tcp [443] local=false []",
		"local.service tcp [8003] local=true []",
		"postfix@-.service tcp [25] local=true [postfix]",
	}
	if !slices.Equal(listed, want) {
		t.Errorf("listed are\n%s\nwant\n%s", strings.Join(listed, "\n"), strings.Join(want, "\n"))
	}
	if readers["postfix"].Off || readers["dovecot"].Off {
		t.Error("a rule whose service listens is off")
	}
	if !readers["vsftpd"].Off {
		t.Error("a rule whose service is not there is on")
	}
}

// The accounts of daemons are known by name or number; one that does not exist has no entries.
func TestAccountsWanted(t *testing.T) {
	rule := ftp(conf.SourceAuto)
	rule.UIDs = []string{"ftp", "nobody-here", "33", "ftp"}
	readers, _ := read(t, []conf.Rule{rule}, machine(true, nil, nil, nil))
	want := coverage.Wanted(readers, func(name string) (uint32, bool) { return 107, name == "ftp" })
	if !slices.Equal(want.UIDs, []uint32{33, 107}) {
		t.Errorf("accounts %d, want 33 and 107", want.UIDs)
	}
}

// A file that an ordinary user may write is no evidence where journald runs, unless the rule reports it.
func TestOwners(t *testing.T) {
	const path, root, daemon, user, own = "/var/log/ftpd.log", 0, 33, 1000, 2000
	named := ftp(conf.SourceAuto)
	named.UIDs = []string{"1000"}
	for name, tt := range map[string]struct {
		rule     conf.Rule
		journald bool
		uid      uint32
		mode     fs.FileMode
		want     bool
	}{
		"root's":                     {ftp(conf.SourceAuto), true, root, 0o640, true},
		"a service's":                {ftp(conf.SourceAuto), true, daemon, 0o640, true},
		"of a dynamic user":          {ftp(conf.SourceAuto), true, 65000, 0o640, true},
		"our own":                    {ftp(conf.SourceAuto), true, own, 0o640, true},
		"a user's":                   {ftp(conf.SourceAuto), true, user, 0o640, false},
		"a user's, named":            {named, true, user, 0o640, true},
		"another user's":             {named, true, user + 1, 0o640, false},
		"a user's, by source=file":   {ftp(conf.SourceFile), true, user, 0o640, true},
		"a user's, without journald": {ftp(conf.SourceAuto), false, user, 0o640, true},
		"everybody may write":        {ftp(conf.SourceAuto), true, root, 0o666, false},
	} {
		t.Run(name, func(t *testing.T) {
			readers, _ := read(t, []conf.Rule{tt.rule}, machine(tt.journald, nil, nil, nil))
			err := coverage.Wanted(readers, nil).Accept(path, tt.uid, tt.mode, own)
			if (err == nil) != tt.want {
				t.Errorf("Accept = %v", err)
			}
		})
	}
}
