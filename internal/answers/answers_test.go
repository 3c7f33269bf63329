package answers_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/answers"
	"mef/internal/ban"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/track"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestKernel(t *testing.T) {
	var s control.Status
	answers.Kernel(&s, enforce.Report{Names: enforce.Names{Filter: "nftables", Table: "table inet mefdaemon"}, Present: true, Problems: []string{"set bans4_32 is missing"},
		Bans: enforce.Tally{Total: 7, IPv4: 4, IPv6: 3, Unverified: 2, Permanent: 1}, Repairs: 5, Evicted: 6}, 99)
	if want := (control.Tally{Total: 7, IPv4: 4, IPv6: 3, Unverified: 2, Permanent: 1, Ever: 99}); s.Bans != want {
		t.Errorf("bans %+v, want %+v", s.Bans, want)
	}
	k := s.Kernel
	if k.Backend != "nftables" || k.Table != "table inet mefdaemon" || !k.Present || k.Matches || k.Elements != 7 || k.Repairs != 5 || k.Evicted != 6 ||
		len(k.Problems) != 1 {
		t.Errorf("kernel %+v", k)
	}
}

// Each thing that keeps a host from being protected is named, and what is only amiss is a warning.
func TestJudge(t *testing.T) {
	good := control.Status{Config: "/etc/mef/mef.conf", Kernel: control.Kernel{Table: "table inet mefdaemon", Present: true},
		Sources: []control.Source{{Name: "journal", State: "active", Rules: []string{"sshd"}}}}
	for name, tt := range map[string]struct {
		change    func(*control.Status)
		observing bool
		firewall  []string
		eventLog  []string
		missing   string
		warning   string
	}{
		"all is well":    {func(*control.Status) {}, false, nil, nil, "", ""},
		"observe mode":   {func(*control.Status) {}, true, nil, nil, "mode=observe: bans are logged, not applied; set mode=enforce in /etc/mef/mef.conf", ""},
		"no table":       {func(s *control.Status) { s.Kernel.Present = false }, false, nil, nil, "table inet mefdaemon is not in the kernel", ""},
		"kernel problem": {func(s *control.Status) { s.Kernel.Problems = []string{"a set is missing"} }, false, nil, nil, "a set is missing", ""},
		"firewall":       {func(*control.Status) {}, false, []string{"the policy is not in force"}, nil, "the policy is not in force", ""},
		"no source":      {func(s *control.Status) { s.Sources[0].State = "waiting" }, false, nil, nil, "no rule has a live source of log lines", ""},
		"unused source":  {func(s *control.Status) { s.Sources[0].Rules = nil }, false, nil, nil, "no rule has a live source of log lines", ""},
		"disk":           {func(s *control.Status) { s.Store.Problem = "no space left" }, false, nil, nil, "", "state is not saved: no space left; bans continue"},
		"event log":      {func(*control.Status) {}, false, nil, []string{"/var/log/mef.log: no space left"}, "", "/var/log/mef.log: no space left; bans continue, and mefctl events shows the last"},
		"evictions":      {func(s *control.Status) { s.Kernel.Evicted = 3 }, false, nil, nil, "", "too many bans: since start, the 3 with the least time left have ended early"},
		"lost lines":     {func(s *control.Status) { s.Sources[0].Lost = 8 }, false, nil, nil, "", "journal: 8 lines were lost: too long, suppressed or cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			s.Sources = slices.Clone(good.Sources)
			tt.change(&s)
			answers.Judge(&s, tt.observing, tt.firewall, tt.eventLog)
			check := func(what string, got []string, want string) {
				t.Helper()
				switch {
				case want == "" && len(got) == 0:
				case want == "" || len(got) != 1 || !strings.HasPrefix(got[0], want):
					t.Errorf("%s %q, want %q", what, got, want)
				}
			}
			check("missing", s.Missing, tt.missing)
			check("warnings", s.Warnings, tt.warning)
		})
	}
}

func TestWindow(t *testing.T) {
	w := confirm.Window{Since: noon, Until: noon.Add(10 * time.Minute), For: 10 * time.Minute, From: "192.0.2.1 50000 192.0.2.2 22"}
	lapsed, lifted := w, w
	lapsed.Lapsed = true
	lifted.Lapsed, lifted.Lifted = true, true
	for name, tt := range map[string]struct {
		window           *confirm.Window
		missing, warning string
	}{
		"none":   {nil, "", ""},
		"open":   {&w, "", "on trial: run mefctl confirm in a new SSH session within 4m0s; otherwise all bans are lifted, and further ones only logged"},
		"lapsed": {&lapsed, "not confirmed within 10m: its bans are not all lifted yet, and bans are logged, not applied; run mefctl confirm to apply them", ""},
		"lifted": {&lifted, "not confirmed within 10m: its bans were lifted, and bans are logged, not applied; run mefctl confirm to apply them", ""},
	} {
		var s control.Status
		answers.Window(&s, tt.window, noon.Add(6*time.Minute))
		if got := strings.Join(s.Missing, ""); got != tt.missing {
			t.Errorf("%s: missing %q, want %q", name, got, tt.missing)
		}
		if got := strings.Join(s.Warnings, ""); got != tt.warning {
			t.Errorf("%s: warning %q, want %q", name, got, tt.warning)
		}
		if (s.Armed != nil) != (tt.window != nil) || s.Armed != nil && s.Armed.Lapsed != tt.window.Lapsed {
			t.Errorf("%s: armed %+v", name, s.Armed)
		}
	}
}

func TestScans(t *testing.T) {
	for name, tt := range map[string]struct {
		kernel   enforce.ScanStatus
		found    engine.ScanStats
		warnings []string
	}{
		"off":       {enforce.ScanStatus{Warnings: []string{"no interface"}}, engine.ScanStats{Full: true}, []string{"no interface"}},
		"on":        {enforce.ScanStatus{On: true}, engine.ScanStats{}, nil},
		"no kernel": {enforce.ScanStatus{On: true, Off: "no NFLOG"}, engine.ScanStats{Full: true}, []string{"port scans are not detected: no NFLOG"}},
		"sampling":  {enforce.ScanStatus{On: true, Sampling: "a flood"}, engine.ScanStats{Full: true}, []string{"a flood"}},
		"full": {enforce.ScanStatus{On: true, Warnings: []string{"no interface"}}, engine.ScanStats{Full: true},
			[]string{"no interface", "too many sources scan, possibly with forged addresses: further ones are not banned for some minutes"}},
	} {
		var s control.Status
		answers.Scans(&s, tt.kernel, tt.found)
		if !slices.Equal(s.Warnings, tt.warnings) || s.Scans.On != tt.kernel.On {
			t.Errorf("%s: %q, %+v; want %q", name, s.Warnings, s.Scans, tt.warnings)
		}
	}
}

// The one sentence about an address, in the order in which reasons count.
func TestVerdict(t *testing.T) {
	banned := control.Why{Bans: []control.Ban{{Prefix: "192.0.2.7", Rule: "sshd", Ports: "all"}}}
	onPorts := control.Why{Bans: []control.Ban{{Prefix: "192.0.2.7", Rule: "dovecot", Ports: "143,993"}}}
	counted := engine.Explanation{Account: track.Account{Score: 30, ScoreLimit: 100, Rules: []track.RuleCount{{Rule: "sshd", Attempts: 2, Unverified: 1, Limit: 5, FindTime: 10 * time.Minute}}}}
	forgiven := engine.Explanation{Account: track.Account{Pardons: []track.Pardon{{User: "alice", Service: "sshd", Failures: 3, Last: noon, Reason: "has logged in from here"}}}}
	for name, tt := range map[string]struct {
		why     control.Why
		known   engine.Explanation
		allowed string
		grace   time.Duration
		want    string
	}{
		"nothing":         {want: "not banned: no failures count"},
		"banned":          {why: banned, want: "BANNED by sshd"},
		"banned on ports": {why: onPorts, want: "BANNED on ports 143,993 by dovecot"},
		"allowed":         {allowed: "it is on the allow list", want: "not banned: it is on the allow list"},
		"allowed, banned": {why: banned, known: engine.Explanation{Through: true}, allowed: "it is this host's own", want: "not banned: it is this host's own"},
		"lifted":          {why: banned, grace: 90 * time.Second, want: "not banned: its ban was lifted by an operator; it is not banned again for 1m30s"},
		"counted":         {known: counted, want: "not banned: 3 of 5 attempts at sshd, and 30 of 100 points"},
		"listed":          {known: engine.Explanation{Account: track.Account{Score: 12, ScoreLimit: 100}, Listed: 40}, want: "not banned: 52 of 100 points"},
		"score only":      {known: engine.Explanation{Account: track.Account{Score: 12, ScoreLimit: 100}}, want: "not banned: 12 of 100 points"},
		"score off":       {known: engine.Explanation{Account: track.Account{Score: 12}}, want: "not banned: 12 points, which ban nobody"},
		"forgiven":        {known: forgiven, want: "not banned: its failures are forgiven, and nothing else counts against it"},
	} {
		why := tt.why
		answers.Why(&why, tt.known, tt.allowed, tt.grace, noon.Add(time.Minute))
		if why.Verdict != tt.want {
			t.Errorf("%s: %q, want %q", name, why.Verdict, tt.want)
		}
		if banned := strings.HasPrefix(tt.want, "BANNED"); why.Banned != banned {
			t.Errorf("%s: banned %v", name, why.Banned)
		}
	}
}

// What is counted, and why, in sentences.
func TestArithmetic(t *testing.T) {
	addr := netip.MustParseAddr("2001:db8::7")
	a := track.Account{Addr: addr, Source: netip.MustParsePrefix("2001:db8::/64"), Tracked: true, Seen: noon, Score: 50, ScoreUnverified: 4, HalfLife: 14 * 24 * time.Hour,
		Rules:   []track.RuleCount{{Rule: "sshd", Attempts: 4, Limit: 5, FindTime: 10 * time.Minute, Points: 40}},
		Pardons: []track.Pardon{{User: "al\x1bice", Service: "imap", Failures: 3, Last: noon, Reason: "has logged in from here"}},
		Wider:   []ban.Wider{{Prefix: netip.MustParsePrefix("2001:db8::/48"), Banned: 2, Limit: 3}, {Prefix: netip.MustParsePrefix("2001:db8::/32")}},
		History: []ban.Past{
			{Prefix: netip.MustParsePrefix("2001:db8::/64"), Rule: "sshd", Start: noon.Add(-time.Hour), Until: noon.Add(time.Hour)},
			{Prefix: netip.MustParsePrefix("2001:db8::/64"), Rule: "sshd", Start: noon.Add(-9 * time.Hour), Until: noon.Add(-8 * time.Hour)},
			{Prefix: netip.MustParsePrefix("2001:db8::/64"), Rule: "sshd", Start: noon.Add(-9 * time.Hour), Lifted: true},
			{Prefix: netip.MustParsePrefix("2001:db8::/64"), Rule: "manual", Start: noon.Add(-9 * time.Hour)},
		}}
	var why control.Why
	answers.Why(&why, engine.Explanation{Account: a, Web: "a proxy", SSH: "22"}, "", 0, noon.Add(time.Minute))
	want := []string{
		"counted as 2001:db8::/64, all addresses together",
		"4 attempts at sshd, now worth 40.0 points",
		"10 more points of probes and of old attempts",
		"points halve every 14d; last event 1m0s ago",
		"4 more points from sources that can be forged",
		`3 failures of user "al\x1bice" at imap do not count: the user has logged in from here, and fails at a person's or a device's pace; the latest was 1m0s ago`,
		"banned networks within 2001:db8::/48: 2; with 3, all of it is banned",
		"it is a proxy: bans by rules do not cover its web ports (" + string(engine.WebPorts) + ")",
		"an administrator is logged in from it over SSH: new bans do not cover port 22",
	}
	if !slices.Equal(why.Arithmetic, want) {
		t.Errorf("arithmetic\n%s\nwant\n%s", strings.Join(why.Arithmetic, "\n"), strings.Join(want, "\n"))
	}
	var reasons []string
	for _, b := range why.History {
		reasons = append(reasons, b.Reason)
	}
	if want := []string{"in force", "ended", "lifted by an operator", "without end"}; !slices.Equal(reasons, want) {
		t.Errorf("history %q, want %q", reasons, want)
	}
}
