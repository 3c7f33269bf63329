package filter

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
)

// compileShipped returns all shipped rules, those included that are disabled.
func compileShipped(t *testing.T) *Set {
	t.Helper()
	rules, err := rulefile.Shipped(Shipped())
	if err != nil {
		t.Fatal(err)
	}
	for i := range rules {
		rules[i].Enabled = true
	}
	set, errs := Compile(rules)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	return set
}

// sampleLines returns the lines of all samples, as they are in a log.
func sampleLines(t *testing.T) (lines [][]byte) {
	t.Helper()
	paths, err := filepath.Glob("testdata/samples/*.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			if line = bytes.TrimRight(line, "\n"); !bytes.HasPrefix(line, []byte("#")) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// Patterns that are divided by the first byte of a message, and joined, give what a trial of each in order gives: the same pattern, the
// same groups. The messages are those of all samples, and others made of them.
func TestTextsAgreeWithPlainMatching(t *testing.T) {
	set := compileShipped(t)
	r := rand.New(rand.NewPCG(1, 2))
	var messages [][]byte
	for _, line := range sampleLines(t) {
		h := parseHeader(line)
		messages = append(messages, h.message, line)
	}
	for range len(messages) {
		a, b := messages[r.IntN(len(messages))], messages[r.IntN(len(messages))]
		at := r.IntN(len(a) + 1)
		mixed := slices.Concat(a[:at], b[min(at, len(b)):]) // of two that may be alike
		if n := len(mixed); n > 0 && r.IntN(2) == 0 {
			mixed[r.IntN(min(n, 4))] = byte(r.Uint32())
		}
		messages = append(messages, mixed)
	}
	messages = append(messages, nil, []byte{0xff}, []byte("é"))
	r.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	messages = messages[:min(len(messages), 1500)] // plain matching is slow
	of := func(rules ...string) func(*pattern) bool {
		return func(p *pattern) bool { return slices.Contains(rules, p.rule.Name) }
	}
	for name, include := range map[string]func(*pattern) bool{
		"divided":           func(p *pattern) bool { return !p.whole },
		"joined":            of("sshd", "postfix", "dovecot", "exim", "zimbra"),
		"joined and masked": of("hestiacp", "zimbra", "cpanel", "directadmin", "gitlab-application", "pam"),
	} {
		t.Run(name, func(t *testing.T) {
			texts := newTexts(set.rules, include)
			if divided := len(texts.patterns) > maxJoined; divided != (name == "divided") {
				t.Fatalf("%d patterns are divided: %v", len(texts.patterns), divided)
			}
			if masked := texts.masks != nil; masked != (name == "joined and masked") {
				t.Fatalf("%d patterns are masked: %v", len(texts.patterns), masked)
			}
			var plain []*regexp.Regexp
			for i := range texts.patterns {
				plain = append(plain, regexp.MustCompile(texts.patterns[i].text))
			}
			matched := 0
			for _, message := range messages {
				want, groups := -1, []int(nil)
				for i, re := range plain {
					if groups = re.FindSubmatchIndex(message); groups != nil {
						want = i
						break
					}
				}
				if want >= 0 {
					matched++
				}
				p, loc, ok := texts.match(message)
				switch {
				case want < 0 && (p != nil || ok):
					t.Errorf("%q matches %q, want nothing", message, p.text)
				case want >= 0 && p == nil:
					t.Errorf("%q matches nothing, want %q", message, plain[want])
				case want >= 0 && p.pattern != texts.patterns[want].pattern:
					t.Errorf("%q matches %q, want %q", message, p.text, plain[want])
				case want >= 0 && !slices.Equal(loc[:len(groups)], groups):
					t.Errorf("%q has the groups %v, want %v", message, loc[:len(groups)], groups)
				}
			}
			t.Logf("%d of %d messages match", matched, len(messages))
			if matched < 10 {
				t.Errorf("only %d of %d messages match: this shows little", matched, len(messages))
			}
		})
	}
}

// Shipped patterns are not checked at a start. They are here, as those of an operator.
func TestShippedPatternsAreWellFormed(t *testing.T) {
	names, err := fs.Glob(Shipped(), "*.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(Shipped(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, errs := rulefile.Parse(name, text, nil); errs.Err() != nil {
			t.Error(errs)
		}
	}
	for _, r := range compileShipped(t).rules {
		for i, c := range slices.Concat(r.Fail, r.Attempt, r.Echo, r.Probe, r.Orphan, r.Peer, r.OK) {
			c.Shipped = false
			p, err := compilePattern(c, r.patterns[i].verdict, r.JSON != nil && len(r.JSON.Addr) > 0)
			if err != nil {
				t.Error(err)
			}
			if p.namesSession != r.patterns[i].namesSession {
				t.Errorf("%s: %q has a group session: %v", r.Name, c.Text, p.namesSession)
			}
		}
		for _, c := range r.Ignore {
			if _, err := compileRegexp(c); err != nil {
				t.Error(err)
			}
		}
	}
}

// The edges of a pattern may hold more than what its matches begin and end with, never less.
func FuzzEdges(f *testing.F) {
	for _, pattern := range []string{"^a", "(?i)k", "^(?:a|bc)?d", "^[^x]y", "^\\bfoo", "^$", "", "^.", "(?s)^.", "^a{0,2}b", "^(?P<ip>é|z)", "^(?:)*x", "^[[:^ascii:]]", "a$", "(?i)k$", "(a|b*)$", "a(?:b$|c)", "^(?m:a$)", "x\\b$", "[^a]$", "^(?P<user>.*)é$",
		"^a(?:bc)?$", "a\\z", `a\Q(`, `\Q`} {
		f.Add(pattern, []byte("K\xe2\x84\xaa"))
	}
	f.Fuzz(func(t *testing.T, pattern string, text []byte) {
		p, err := compilePattern(conf.Pattern{Text: pattern}, orphan, false)
		if err != nil || len(pattern) > 100 {
			t.Skip()
		}
		c := newCandidate(&p, nil)
		if !regexp.MustCompile(c.text).Match(text) {
			return
		}
		if !c.first.empty && (len(text) == 0 || !c.first.set[text[0]]) {
			t.Errorf("%q matches %q, which cannot be by its first byte", pattern, text)
		}
		if !c.last.empty && (len(text) == 0 || !c.last.set[text[len(text)-1]]) {
			t.Errorf("%q matches %q, which cannot be by its last byte", pattern, text)
		}
		if newMasks([]candidate{c}).exclude(text) {
			t.Errorf("%q matches %q, which is excluded", pattern, text)
		}
	})
}
