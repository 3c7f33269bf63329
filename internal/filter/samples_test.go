package filter_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/rulefile"
	"mef/internal/event"
	"mef/internal/filter"
)

// A sample is a line of testdata/samples/RULE.log with the event that stands above it as a comment:
//
//	# KIND ADDRESS USER xCOUNT unknownuser
//
// KIND is failure, echo (a failure that may have been told already), probe, success or nothing. The rest is left out where
// it is empty or 1; a user with blanks is quoted as in Go.
type sample struct {
	number     int // of the line
	want, text string
}

func readSamples(t testing.TB, rule string) []sample {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "samples", rule+".log"))
	if err != nil {
		t.Fatalf("rule %s has no samples: %v", rule, err)
	}
	var samples []sample
	want := ""
	for i, l := range strings.Split(string(text), "\n") {
		switch {
		case l == "" || strings.HasPrefix(l, "##"):
		case strings.HasPrefix(l, "# "):
			want = l[2:]
		case want == "":
			t.Fatalf("%s.log:%d: no event above the line", rule, i+1)
		default:
			samples = append(samples, sample{i + 1, want, l})
			want = ""
		}
	}
	return samples
}

// describe returns what a line tells, in the words of a sample.
func describe(v *filter.View, text string) string {
	var m filter.Match
	if !v.Match(line(text), &m) {
		return "nothing"
	}
	kind := m.Kind.String()
	if m.Echo {
		kind = "echo"
	}
	words := []string{kind, string(m.Host)}
	if m.Addr.IsValid() {
		words[1] = m.Addr.String()
	}
	if user := string(m.User); strings.ContainsAny(user, " \"") {
		words = append(words, strconv.Quote(user))
	} else if user != "" {
		words = append(words, user)
	}
	if m.Count != 1 {
		words = append(words, fmt.Sprintf("x%d", m.Count))
	}
	if m.UnknownUser {
		words = append(words, "unknownuser")
	}
	return strings.Join(words, " ")
}

func TestSamples(t *testing.T) {
	rules := shippedRules(t)
	set := compile(t, rules)
	for i, rule := range rules {
		t.Run(rule.Name, func(t *testing.T) {
			v := set.View(all) // as mefctl match reads lines: against all rules
			if !rule.Enabled {
				rules[i].Enabled = true
				v = compile(t, rules).View(all)
				rules[i].Enabled = false
			}
			for _, s := range readSamples(t, rule.Name) {
				if got := describe(v, s.text); got != s.want {
					t.Errorf("%s.log:%d: got %s, want %s\n%s", rule.Name, s.number, got, s.want, s.text)
				}
			}
		})
	}
}

// Leaving out any pattern must change what the samples give: a pattern that no sample needs is untested or useless.
func TestEachPatternHasASample(t *testing.T) {
	for _, rule := range shippedRules(t) {
		rule.Enabled = true
		t.Run(rule.Name, func(t *testing.T) {
			samples := readSamples(t, rule.Name)
			for name, field := range map[string]*[]conf.Pattern{
				"failregex": &rule.Fail, "attemptregex": &rule.Attempt, "echoregex": &rule.Echo, "proberegex": &rule.Probe, "okregex": &rule.OK,
				"orphanregex": &rule.Orphan, "peerregex": &rule.Peer, "ignoreregex": &rule.Ignore,
			} {
				whole := *field
				for i, pattern := range whole {
					*field = append(append([]conf.Pattern{}, whole[:i]...), whole[i+1:]...)
					if sameAnswers(compile(t, []conf.Rule{rule}).View(all), samples) {
						t.Errorf("%s: no sample needs %s=%s", pattern.Pos, name, pattern.Text)
					}
				}
				*field = whole
			}
		})
	}
}

func sameAnswers(v *filter.View, samples []sample) bool {
	for _, s := range samples {
		if describe(v, s.text) != s.want {
			return false
		}
	}
	return true
}

// A legitimate user who mistypes twice before he gets in has made two attempts, and one whose client offers six keys none
// that counts by itself.
func TestLegitimateUserCountsWhatHeDid(t *testing.T) {
	v := compile(t, shippedRules(t)).View(all)
	counts := func(lines ...string) (failures, echoes int) {
		for _, l := range lines {
			var m filter.Match
			switch {
			case !v.Match(line(l), &m) || m.Kind == event.Success:
			case m.Echo:
				echoes++
			default:
				failures += m.Count
			}
		}
		return failures, echoes
	}
	mistyped, _ := counts(
		"Mar  1 10:00:00 web1 sshd[7]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=203.0.113.7  user=alice",
		"Mar  1 10:00:02 web1 sshd[7]: Failed password for alice from 203.0.113.7 port 4711 ssh2",
		"Mar  1 10:00:08 web1 sshd[7]: Failed password for alice from 203.0.113.7 port 4711 ssh2",
		"Mar  1 10:00:14 web1 sshd[7]: Accepted password for alice from 203.0.113.7 port 4711 ssh2",
		"Mar  1 10:00:14 web1 sshd[7]: PAM 1 more authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=203.0.113.7  user=alice",
	)
	if mistyped != 2 {
		t.Errorf("a user who mistyped twice made %d attempts, want 2", mistyped)
	}
	var keys []string
	for i := range 6 {
		keys = append(keys, fmt.Sprintf("Mar  1 10:00:0%d web1 sshd[8]: Failed publickey for alice from 203.0.113.7 port 4712 ssh2: RSA SHA256:%d", i, i))
	}
	if failures, echoes := counts(keys...); failures != 0 || echoes != 6 {
		t.Errorf("six keys are %d attempts and %d echoes, want 0 and 6", failures, echoes)
	}
}

// A rule says where the daemon's log calls are that its patterns read, and of which versions: a file of its source, its manual, or another rule
// that says it.
func TestEachRuleCitesItsSource(t *testing.T) {
	source := regexp.MustCompile(`[\w-]\.(?:c|cc|cpp|cs|erl|go|h|java|js|m|php|pl|pm|pre|py|rb|rs|sh|stb|ts)\b|\b[Mm]anual\b|bin/v-`)
	versions := regexp.MustCompile(`\d(?:\.[\dx]+)* (?:to|and) \d|\d and later|\b[\w-]+ \d+(?:\.\d+)+|\b[A-Z][\w -]* \d+\b`)
	other := regexp.MustCompile(`([\w-]+)\.conf\b`)
	comment := func(rule string) string {
		text, err := fs.ReadFile(filter.Shipped(), rule+".conf")
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for l := range strings.Lines(string(text)) {
			if strings.HasPrefix(l, "#") {
				lines = append(lines, l)
			}
		}
		return strings.Join(lines, "")
	}
	for _, rule := range allShipped(t) {
		text := comment(rule.Name)
		if m := other.FindStringSubmatch(text); m != nil && m[1] != rule.Name {
			if _, err := fs.Stat(filter.Shipped(), m[1]+".conf"); err == nil {
				text += comment(m[1])
			}
		}
		if !source.MatchString(text) {
			t.Errorf("%s.conf names no file of the daemon's source and no manual", rule.Name)
		}
		if !versions.MatchString(text) {
			t.Errorf("%s.conf names no versions", rule.Name)
		}
	}
}

// Where clients may write whole lines, a rule reports only, and knows no successful login: a client would write its own.
func TestRulesThatOnlyReportKnowNoLogins(t *testing.T) {
	for _, rule := range allShipped(t) {
		if rule.Action == conf.ActionDetect && (len(rule.OK) > 0 || rule.JSON != nil && len(rule.JSON.OK) > 0) {
			t.Errorf("%s.conf reports only, and has okregex or okwhen", rule.Name)
		}
	}
}

// A log into which clients write whole lines is one that config check warns of when a rule of the operator bans by it.
func TestLogsThatClientsWriteAreWarnedOf(t *testing.T) {
	for _, rule := range allShipped(t) {
		text, err := fs.ReadFile(filter.Shipped(), rule.Name+".conf")
		if err != nil {
			t.Fatal(err)
		}
		written := regexp.MustCompile(`whole\s(?:#\s)?lines\sof\s(?:#\s)?this\slog`).Match(text)
		for _, file := range rule.Files {
			_, notices, _ := rulefile.Parse("own", []byte("[rule]\nprograms=x\nfiles="+file+"\nfailregex=^x <HOST>$\n"), nil)
			warned := slices.ContainsFunc(notices, func(n diag.Notice) bool { return strings.Contains(n.Text, "clients write whole lines") })
			switch {
			case written && !warned:
				t.Errorf("%s.conf: clients write whole lines into %s, and config check does not warn of it", rule.Name, file)
			case warned && rule.Action != conf.ActionDetect:
				t.Errorf("%s.conf bans by %s, into which clients write whole lines", rule.Name, file)
			}
		}
		if written && rule.Action != conf.ActionDetect {
			t.Errorf("%s.conf bans although clients write whole lines of its log", rule.Name)
		}
	}
}

// BusyBox' syslogd (Alpine Linux) and openSUSE's rsyslog write everything into one file.
func TestSyslogFilesOfAllDistributions(t *testing.T) {
	for _, rule := range allShipped(t) {
		reads := func(path string) bool { return slices.Contains(rule.Files, path) }
		if slices.ContainsFunc([]string{"/var/log/auth.log", "/var/log/secure", "/var/log/mail.log", "/var/log/maillog", "/var/log/syslog"}, reads) && !reads("/var/log/messages") {
			t.Errorf("%s.conf reads syslog and not /var/log/messages", rule.Name)
		}
	}
	v := compile(t, shippedRules(t)).View(all)
	const alpine = "Mar  1 10:00:00 alpine auth.info sshd[2207]: Failed password for root from 203.0.113.7 port 4711 ssh2"
	if got := describe(v, alpine); got != "failure 203.0.113.7 root" {
		t.Errorf("a line of BusyBox' syslogd: %s", got)
	}
}
