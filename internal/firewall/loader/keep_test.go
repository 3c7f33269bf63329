package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/firewall/inforce"
	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
)

// kept returns a state in a directory of the test.
func kept(t *testing.T) *state {
	t.Helper()
	s, err := openState(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rulesOf returns what is kept under a name, "" for nothing.
func (s *state) rulesOf(t *testing.T, name string) string {
	t.Helper()
	text, _, err := s.get(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestConfirmedRulesFollowEachOther keeps the ones before as previous, and nothing changes where nothing is new.
func TestConfirmedRulesFollowEachOther(t *testing.T) {
	s := kept(t)
	for i, tt := range []struct {
		text                string
		changed             bool
		confirmed, previous string
	}{
		{"one", true, "one", ""},
		{"one", false, "one", ""},
		{"two", true, "two", "one"},
		{"three", true, "three", "two"},
	} {
		changed := ok[bool](t)(s.accept([]byte(tt.text), Record{Digest: tt.text, Made: time.Unix(int64(i), 0)}))
		if changed != tt.changed || s.rulesOf(t, confirmed) != tt.confirmed || s.rulesOf(t, previous) != tt.previous {
			t.Errorf("after %q: changed %t, confirmed %q, previous %q", tt.text, changed, s.rulesOf(t, confirmed), s.rulesOf(t, previous))
		}
	}
}

// TestExchangeGoesBackAndForth exchanges confirmed and previous rules. What one goes back from is refused, and pardoned when it is back.
func TestExchangeGoesBackAndForth(t *testing.T) {
	s := kept(t)
	for _, text := range []string{"one", "two"} {
		ok[bool](t)(s.accept([]byte(text), Record{Digest: text}))
	}
	for _, now := range []string{"one", "two", "one"} {
		before := s.rulesOf(t, confirmed)
		must(t, s.exchange())
		if s.rulesOf(t, confirmed) != now || s.rulesOf(t, previous) != before {
			t.Errorf("confirmed %q, previous %q", s.rulesOf(t, confirmed), s.rulesOf(t, previous))
		}
		if _, is := s.refusal(before); !is {
			t.Errorf("%q is not refused", before)
		}
		if _, is := s.refusal(now); is {
			t.Errorf("%q is refused, and it is confirmed", now)
		}
	}
}

// TestCutShort completes what a killed process has left at each step of a confirmation and of an exchange.
func TestCutShort(t *testing.T) {
	for name, tt := range map[string]struct {
		left                map[string]string // rules by name
		confirmed, previous string
	}{
		"confirm, before the first step": {map[string]string{accepted: "new", confirmed: "old", previous: "older"}, "new", "old"},
		"confirm, previous removed":      {map[string]string{accepted: "new", confirmed: "old"}, "new", "old"},
		"confirm, nothing confirmed":     {map[string]string{accepted: "new", previous: "old"}, "new", "old"},
		"exchange, confirmed moved":      {map[string]string{swapped: "new", previous: "old"}, "old", "new"},
		"exchange, previous moved":       {map[string]string{swapped: "new", confirmed: "old"}, "old", "new"},
		"nothing was begun":              {map[string]string{confirmed: "old", previous: "older"}, "old", "older"},
	} {
		t.Run(name, func(t *testing.T) {
			s := kept(t)
			for name, text := range tt.left {
				must(t, os.Mkdir(s.path(name), 0o700))
				must(t, s.put(name, []byte(text), Record{Digest: text}))
			}
			must(t, s.confirm())
			if s.rulesOf(t, confirmed) != tt.confirmed || s.rulesOf(t, previous) != tt.previous {
				t.Errorf("confirmed %q, previous %q; want %q and %q", s.rulesOf(t, confirmed), s.rulesOf(t, previous), tt.confirmed, tt.previous)
			}
			if s.has(accepted) || s.has(swapped) {
				t.Error("something is still on its way")
			}
		})
	}
}

// TestOneDecision lets one of several processes end a trial.
func TestOneDecision(t *testing.T) {
	s := kept(t)
	must(t, os.Mkdir(s.path(trial), 0o700))
	must(t, s.put(trial, []byte("new"), Record{Digest: "new"}))
	if first := ok[bool](t)(s.decide(accepted)); !first {
		t.Error("the first decision does not count")
	}
	if second := ok[bool](t)(s.decide(expired)); second {
		t.Error("a second decision counts")
	}
	if s.rulesOf(t, accepted) != "new" {
		t.Errorf("accepted: %q", s.rulesOf(t, accepted))
	}
}

// TestRefusals remembers the last policies that nobody confirmed, each once, until it is pardoned.
func TestRefusals(t *testing.T) {
	s := kept(t)
	refuse := func(digest string) {
		t.Helper()
		must(t, os.Mkdir(s.path(expired), 0o700))
		must(t, s.put(expired, []byte(digest), Record{Digest: digest, Made: time.Unix(7, 0)}))
		must(t, s.refuse())
	}
	for i := range maxRefused + 2 {
		refuse(fmt.Sprint("policy ", i))
	}
	refuse("policy 5")
	for digest, want := range map[string]bool{"policy 0": false, "policy 1": false, "policy 2": true, "policy 5": true, "policy 9": true, "": false, "other": false} {
		if when, is := s.refusal(digest); is != want || is && !when.Equal(time.Unix(7, 0)) {
			t.Errorf("%q is refused: %t, tried %s", digest, is, when)
		}
	}
	must(t, s.pardon("policy 5"))
	if _, is := s.refusal("policy 5"); is {
		t.Error("a pardoned policy is refused")
	}
}

// TestGuarded reports a trial as guarded while the guard or its maker holds a lock.
func TestGuarded(t *testing.T) {
	s := kept(t)
	if guarded := ok[bool](t)(s.guarded()); guarded {
		t.Error("guarded without a trial")
	}
	must(t, os.Mkdir(s.path(trial), 0o700))
	for _, name := range []string{ownerLock, guardLock} {
		lock := ok[*os.File](t)(s.lock(name))
		if guarded := ok[bool](t)(s.guarded()); !guarded {
			t.Errorf("not guarded, and %s is held", name)
		}
		if second := ok[*os.File](t)(s.lock(name)); second != nil {
			t.Errorf("%s can be taken twice", name)
		}
		lock.Close()
	}
	if guarded := ok[bool](t)(s.guarded()); guarded {
		t.Error("guarded by nobody")
	}
}

// TestNotes writes and overwrites what is noted of one boot.
func TestNotes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "note")
	for _, text := range []string{"a long one", "short", ""} {
		must(t, writeNote(path, []byte(text), 0o644))
		if got := ok[[]byte](t)(os.ReadFile(path)); string(got) != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
	must(t, overwrite(path, []byte("overwritten")))
	must(t, overwrite(path, []byte("once more")))
	if got := ok[[]byte](t)(os.ReadFile(path)); string(got) != "once more" {
		t.Errorf("%q", got)
	}
	if info := ok[os.FileInfo](t)(os.Stat(path)); info.Mode().Perm() != 0o644 {
		t.Errorf("mode %s", info.Mode())
	}
}

// TestRescueLetsSSHIn has the rescue policy let in SSH on every port, and answers, and nothing else.
func TestRescueLetsSSHIn(t *testing.T) {
	src, err := policy.Parse("rescue", []byte(Rescue([]uint16{2222, 22})+"expect dir=in proto=tcp dport=22,2222 action=accept\n"+
		"expect dir=in proto=tcp dport=25,80,443 action=drop\nexpect dir=in proto=tcp ct=established action=accept\n"))
	must(t, err)
	p := src.Policy(policy.Facts{})
	for _, f := range policy.NewModel(p).Unmet(p.Expects) {
		t.Errorf("%s: %s", f.Expect.At, f)
	}
}

// TestComparedLines compares statements, not where they stand in their files.
func TestComparedLines(t *testing.T) {
	added, removed := compareLines("policy dir=in action=drop  # a:1\nrule one  # a:2\n", "policy dir=in action=drop  # b:7\nrule two  # b:8\n")
	if strings.Join(added, "|") != "rule two" || strings.Join(removed, "|") != "rule one" {
		t.Errorf("added %q, removed %q", added, removed)
	}
	const script = "tcp dport 22 accept comment \"mef.rules:6 ssh\"\ntcp dport 23 accept comment \"mef.rules:7\"\n"
	if got, want := withoutPlaces(script), "tcp dport 22 accept comment \"ssh\"\ntcp dport 23 accept\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestTrust refuses files and directories that others can write.
func TestTrust(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mef.rules")
	must(t, os.WriteFile(path, nil, 0o644))
	for _, tt := range []struct {
		dir, file fs.FileMode
		want      string
	}{
		{0o755, 0o644, ""},
		{0o755, 0o664, "chmod go-w " + path},
		{0o755, 0o646, "chmod go-w " + path},
		{0o777, 0o644, "chmod go-w " + dir},
		{0o777 | fs.ModeSticky, 0o644, ""},
	} {
		must(t, os.Chmod(dir, tt.dir))
		must(t, os.Chmod(path, tt.file))
		err := trust(path)
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("%s in %s: %v, want %q", tt.file, tt.dir, err, tt.want)
		}
	}
}

// TestOneTable has the table that nft loads and the one that is read back be the same.
func TestOneTable(t *testing.T) {
	if nft.Table != inforce.Table {
		t.Errorf("loaded is %s, read back %s", nft.Table, inforce.Table)
	}
}

// TestFatal lists what keeps a policy from being loaded, and warnings are not among it.
func TestFatal(t *testing.T) {
	c := Candidate{Warnings: []policy.Warning{{At: conf.Pos{File: "f", Line: 1}, Msg: "odd"}}, Notices: []string{"so"}}
	if err := c.Fatal(); err != nil {
		t.Errorf("with warnings alone: %v", err)
	}
	c.Lockout, c.Exposed = []string{"it locks out"}, []string{"others write it"}
	if err := c.Fatal(); err == nil || err.Error() != "it locks out\nothers write it" {
		t.Errorf("%v", err)
	}
}

// TestOutcomeOfATrialThatIsConfirmedMeanwhile asks for the outcome again and again while another process confirms.
func TestOutcomeOfATrialThatIsConfirmedMeanwhile(t *testing.T) {
	for i := range 50 {
		l := &Loader{settings: &conf.Config{}, state: kept(t)}
		s, r := l.state, Record{Digest: fmt.Sprint(i), Made: time.Now().Round(0)}
		_, err := s.accept([]byte("old"), Record{Digest: "old"})
		must(t, err)
		must(t, os.Mkdir(s.path(trial), 0o700))
		must(t, s.put(trial, []byte("new"), r))
		guard := ok[*os.File](t)(s.lock(guardLock))
		outcome := make(chan Outcome, 1)
		go func() {
			o, _ := (&Trial{Until: time.Now().Add(time.Hour), loader: l, record: r}).Outcome(t.Context())
			outcome <- o
		}()
		must(t, l.locked(t.Context(), func() error {
			_, err := s.decide(accepted)
			return errors.Join(err, s.confirm())
		}))
		if o := <-outcome; o != Kept {
			t.Fatalf("trial %d was confirmed, and its outcome is %v", i, o)
		}
		guard.Close()
	}
}
