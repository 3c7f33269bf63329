package top

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"

	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/cli/clitest"
)

var update = flag.Bool("update", false, "write the screen into docs/top.md")

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// attack is a picture of a host under attack.
func attack() control.Picture {
	soon, later := noon.Add(9*time.Minute), noon.Add(26*time.Hour)
	p := control.Picture{Now: noon, Since: noon.Add(-50 * time.Hour), Version: "2.0", Level: control.Yellow, Text: "x",
		Warnings: []string{"journal: 12 lines were lost: too long, suppressed or cut off"},
		Alarms:   []string{`198.51.100.21 has logged in as "alice" (sshd) after 5 failures of other addresses`},
		Counters: control.Counters{Mode: "enforce", AlarmCount: 1, Dropped: control.Drops{Known: true, Total: 90210, Verified: 90210}, Attempts: 48000, Probes: 211, Bans: control.Tally{Total: 1312, Unverified: 4}, Services: []control.ServiceCounter{
			{Name: "ssh", State: "journal", Failures: 40118, Probes: 211, Logins: 12, Sources: 431, Bans: 1290},
			{Name: "imap", State: "files", Failures: 7882, Logins: 4410, Sources: 80, Bans: 22},
			{Name: "ftp", State: "none"},
			{Name: "asterisk", State: "off"},
		}},
		Attackers: []control.Attacker{
			{Addr: "203.0.113.7", Score: 140.4, Limit: 100, Banned: true, Until: &later, Rule: "sshd", Service: "ssh", Attempts: 412},
			{Addr: "2001:db8:bad:7::/64", Score: 88, Limit: 100, Rule: "dovecot", Service: "imap", Attempts: 31},
			{Addr: "198.51.100.9", Score: 60, Limit: 100, Banned: true, Until: &soon, Rule: "sshd", Service: "ssh", Attempts: 6},
			{Addr: "192.0.2.99", Score: 60, Limit: 100, Banned: true, Rule: "manual", Service: "", Attempts: 1},
		}}
	for i := range 60 {
		p.Seconds = append(p.Seconds, control.Second{Attempts: uint64(i * i % 23), Drops: uint64(max(0, i-20)) * 31})
	}
	return p
}

// showing returns a Model that shows a picture.
func showing(p control.Picture, look Look) Model {
	m, _ := New(daemon{ctx: context.Background()}, look).update(answer{picture: p})
	return m
}

// type presses keys, one after the other, without running their commands but the last one's.
func press(t *testing.T, m Model, keys ...string) (Model, tea.Cmd) {
	t.Helper()
	var cmd tea.Cmd
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k}
		if len(k) == 1 {
			msg.Code = rune(k[0])
		} else {
			code, ok := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "up": tea.KeyUp, "end": tea.KeyEnd,
				"pgdown": tea.KeyPgDown, "backspace": tea.KeyBackspace}[k]
			if !ok {
				t.Fatalf("no key %q", k)
			}
			msg = tea.KeyPressMsg{Code: code}
		}
		m, cmd = m.update(msg)
	}
	return m, cmd
}

// has fails unless the screen has each text.
func has(t *testing.T, m Model, texts ...string) {
	t.Helper()
	screen := sgr.ReplaceAllString(m.screen(), "")
	for _, text := range texts {
		if !strings.Contains(screen, text) {
			t.Errorf("the screen does not have %q:\n%s", text, screen)
		}
	}
}

// The page of the manual shows what a terminal of 80 columns and 24 lines shows that has neither color nor UTF-8.
func TestScreen(t *testing.T) {
	m := showing(attack(), Look{})
	m.now = noon
	screen := sgr.ReplaceAllString(m.screen(), "")
	const path = "../../../docs/top.md"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for l := range strings.SplitSeq(screen, "\n") {
		shown.WriteString(strings.TrimRight("    "+l, " ") + "\n")
	}
	block := regexp.MustCompile(`(?s)    mefdaemon .*?quit\n`)
	if *update {
		if err := os.WriteFile(path, block.ReplaceAllLiteral(doc, []byte(shown.String())), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got := block.Find(doc); string(got) != shown.String() {
		t.Errorf("docs/top.md shows\n%s\nand the screen is\n%s\ngo test ./internal/mefctl/top -update writes it", got, shown.String())
	}
	if n := strings.Count(screen, "\n"); n != 23 {
		t.Errorf("%d lines, want 24", n+1)
	}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// hostile are texts that steer a terminal, or take more room than they seem to.
var hostile = []string{"\x1b[2J\x1b]0;owned\x07", "\u009b31m", "\u202eevil\u2066", "\xff\xfe", "a\nb\tc\rd", "漢字", "é", "שלום", "🙂🙂", strings.Repeat("A\x1b[31m", 2000), "", "\x1b"}

// No escape sequence of an attacker reaches the terminal, and no line is longer or deeper than the screen, whatever its size and view.
func TestHostileTexts(t *testing.T) {
	for _, evil := range hostile {
		p := attack()
		p.Version, p.Mode, p.Text = evil, evil, evil
		p.Warnings, p.Missing, p.Alarms, p.Attacks = []string{evil}, []string{evil, "x" + evil}, []string{evil}, []string{evil}
		for i := range p.Attackers {
			p.Attackers[i].Addr, p.Attackers[i].Rule, p.Attackers[i].Service = evil, evil, evil
		}
		for i := range p.Services {
			p.Services[i].Name, p.Services[i].State = evil, evil
		}
		for _, look := range []Look{{}, {Color: true, Unicode: true}} {
			for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {20, 5}, {1, 1}, {0, 0}} {
				m := showing(p, look)
				m, _ = m.update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
				views := map[string]Model{"list": m}
				views["why"], _ = m.update(reply{why: []string{evil, "  evidence: " + evil}})
				views["refused"], _ = m.update(reply{err: errors.New(evil)})
				views["lost"], _ = m.update(answer{err: errors.New(evil)})
				views["typing"], _ = press(t, m, "b")
				views["asking"], _ = press(t, m, "a", "x", "enter")
				views["pasted"], _ = views["typing"].update(tea.PasteMsg{Content: evil})
				for name, v := range views {
					v.filter = evil
					checkScreen(t, fmt.Sprintf("%s at %v with %.20q", name, size, evil), v, look)
				}
			}
		}
	}
}

func checkScreen(t *testing.T, what string, m Model, look Look) {
	t.Helper()
	lines := strings.Split(m.screen(), "\n")
	if len(lines) > max(1, m.height) {
		t.Errorf("%s: %d lines", what, len(lines))
	}
	for _, l := range lines {
		text := []rune(sgr.ReplaceAllString(l, ""))
		if len(text) > m.width {
			t.Errorf("%s: %d columns: %q", what, len(text), l)
		}
		for _, r := range text {
			if r < ' ' || r > '~' && (!look.Unicode || !narrow(r) || unicode.Is(unicode.Mn, r)) {
				t.Errorf("%s: %q is on the screen: %q", what, r, l)
			}
		}
	}
}

// An operator is a control.Service that notes what it is asked for.
type operator struct {
	control.Service
	ban   control.BanRequest
	unban control.UnbanRequest
	allow control.AllowRequest
	asked netip.Addr
}

func (o *operator) Ban(_ context.Context, r control.BanRequest) (control.Ban, error) {
	o.ban = r
	if r.Caller.String()+"/32" == r.Prefix {
		return control.Ban{}, &control.Error{Message: "you are logged in from there"}
	}
	return control.Ban{Prefix: r.Prefix, Ports: "all"}, nil
}

func (o *operator) Unban(_ context.Context, r control.UnbanRequest) ([]control.Ban, error) {
	o.unban = r
	return make([]control.Ban, 2), nil
}

func (o *operator) Allow(_ context.Context, r control.AllowRequest) (control.Entry, error) {
	o.allow = r
	return control.Entry{Entry: r.Entry}, nil
}

func (o *operator) Why(_ context.Context, a netip.Addr) (control.Why, error) {
	o.asked = a
	return control.Why{Addr: a.String(), Verdict: "BANNED", Evidence: []string{"Failed password for \x1b[2J from"}}, nil
}

// Keys ask the daemon what the commands ask it, with the address of the operator, and only after y.
func TestKeys(t *testing.T) {
	path := clitest.Config(t, &operator{}, "")
	places := (&cli.Global{Config: path}).Places()
	defer places.Close()
	for name, tt := range map[string]struct {
		keys []string
		want operator
		says string
	}{
		"ban":             {[]string{"b", "enter", "y"}, operator{ban: control.BanRequest{Prefix: "203.0.113.7/32", For: 24 * time.Hour}}, "Banned 203.0.113.7/32 on all ports"},
		"ban for good":    {[]string{"b", "backspace", "backspace", "backspace", "enter", "y"}, operator{ban: control.BanRequest{Prefix: "203.0.113.7/32"}}, "Banned"},
		"ban oneself":     {[]string{"down", "down", "b", "enter", "y"}, operator{ban: control.BanRequest{Prefix: "198.51.100.9/32", For: 24 * time.Hour}}, "you are logged in from there"},
		"no":              {[]string{"b", "enter", "n"}, operator{}, "Nothing was changed."},
		"enter is no yes": {[]string{"u", "enter", "enter"}, operator{}, "Nothing was changed."},
		"escape":          {[]string{"b", "esc"}, operator{}, "w why"},
		"mistake":         {[]string{"b", "x", "enter"}, operator{}, `"24hx" is not a time`},
		"unban":           {[]string{"u", "enter", "y"}, operator{unban: control.UnbanRequest{Prefix: "203.0.113.7/32", Covering: true}}, "Lifted 2 bans of 203.0.113.7."},
		"unban a network": {[]string{"down", "u", "enter", "y"}, operator{unban: control.UnbanRequest{Prefix: "2001:db8:bad:7::/64"}}, "Lifted 2 bans"},
		"allow":           {[]string{"end", "a", "enter", "y"}, operator{allow: control.AllowRequest{Entry: "192.0.2.99"}}, "192.0.2.99 is never banned"},
		"allow for":       {[]string{"a", " ", "2", "h", "enter", "y"}, operator{allow: control.AllowRequest{Entry: "203.0.113.7", For: 2 * time.Hour}}, "is never banned"},
		"why":             {[]string{"down", "w"}, operator{asked: netip.MustParseAddr("2001:db8:bad:7::")}, `"Failed password for \x1b[2J from"`},
	} {
		t.Run(name, func(t *testing.T) {
			o := new(operator)
			caller := netip.MustParseAddr("198.51.100.9")
			m := New(daemon{t.Context(), control.NewClient(clitest.Socket(t, o)), places, caller}, Look{})
			m, _ = m.update(answer{picture: attack()})
			m, cmd := press(t, m, tt.keys...)
			if cmd != nil {
				m, _ = m.update(cmd())
			}
			if tt.want.ban.Prefix != "" {
				tt.want.ban.Caller = caller
			}
			o.ban.Author, o.unban.Author, o.allow.Author = "", "", ""
			if o.ban != tt.want.ban || o.unban != tt.want.unban || o.allow != tt.want.allow || o.asked != tt.want.asked {
				t.Errorf("asked for %+v, want %+v", *o, tt.want)
			}
			has(t, m, tt.says)
		})
	}
}

// The cursor stays at its address when the picture changes; filter and order choose what is shown.
func TestListing(t *testing.T) {
	m := showing(attack(), Look{})
	m, _ = press(t, m, "down")
	has(t, m, "> 2001:db8:bad:7::/64")
	p := attack()
	p.Attackers[0], p.Attackers[1] = p.Attackers[1], p.Attackers[0]
	p.Attackers[0].Score = 99
	m, _ = m.update(answer{picture: p})
	has(t, m, "> 2001:db8:bad:7::/64")
	m, _ = press(t, m, "s", "s")
	has(t, m, "LEFT*")
	if s := m.screen(); strings.Index(s, "192.0.2.99") > strings.Index(s, "203.0.113.7") {
		t.Errorf("a ban until lifted is not first:\n%s", s)
	}
	m, _ = press(t, m, "f", "d", "o", "v", "e", "enter")
	if s := m.screen(); strings.Contains(s, "203.0.113.7") || !strings.Contains(s, "dovecot") {
		t.Errorf("the filter is not applied:\n%s", s)
	}
	m, _ = press(t, m, "f", "x", "enter")
	has(t, m, "esc shows everything")
	m, _ = press(t, m, "w", "esc", "p")
	has(t, m, "203.0.113.7", "PAUSED")
	p.Version = "new"
	m, _ = m.update(answer{picture: p})
	if strings.Contains(m.screen(), "mefdaemon new") {
		t.Error("the picture changes though it is paused")
	}
	if m, cmd := m.update(tick(noon)); cmd == nil || !m.asked.IsZero() {
		t.Error("a paused screen asks for pictures, or its clock has stopped")
	}
	m, _ = press(t, m, "h")
	has(t, m, "this help", "lines 1-")
	m, _ = press(t, m, "q")
	has(t, m, "ADDRESS")
	if _, cmd := press(t, m, "q"); cmd == nil {
		t.Error("q does not quit")
	} else if _, ok := cmd().(tea.QuitMsg); !ok {
		t.Error("q does not quit")
	}
}

// A daemon that does not answer is asked again every second, one question at a time, and one that was restarted is noticed.
func TestRestartOfTheDaemon(t *testing.T) {
	m := showing(attack(), Look{})
	m, cmd := m.update(tick(noon.Add(time.Second)))
	if cmd == nil || m.asked.IsZero() {
		t.Fatal("the clock asks for no picture")
	}
	m, _ = m.update(tick(noon.Add(5 * time.Second)))
	has(t, m, "SLOW: mefdaemon has not answered for 4s")
	m, _ = m.update(answer{err: control.ErrNotRunning})
	m, _ = m.update(tick(noon.Add(9 * time.Second)))
	has(t, m, "NO ANSWER from mefdaemon for 4s")
	p := attack()
	p.Since, p.Now = noon.Add(10*time.Second), noon.Add(11*time.Second)
	m, _ = m.update(answer{picture: p})
	has(t, m, "PROTECTED: yes, with warnings", "mefdaemon was restarted at ")
}

func TestLevels(t *testing.T) {
	for level, want := range map[string]string{control.Green: "PROTECTED: yes", control.Yellow: "PROTECTED: yes, with warnings", control.Red: "PROTECTED: NO", "": "PROTECTED: NO"} {
		p := attack()
		p.Level = level
		m := showing(p, Look{Color: true})
		has(t, m, want)
	}
}

func TestUnicodeLocale(t *testing.T) {
	for env, want := range map[string]bool{"": false, "LANG=C": false, "LANG=C.UTF-8": true, "LANG=de_DE.utf8": true, "LANG=de_DE.utf8 LC_ALL=C": false, "LC_CTYPE=en_US.UTF-8": true} {
		vars := make(map[string]string)
		for _, v := range strings.Fields(env) {
			name, value, _ := strings.Cut(v, "=")
			vars[name] = value
		}
		if got := unicodeLocale(func(name string) string { return vars[name] }); got != want {
			t.Errorf("%q: %v, want %v", env, got, want)
		}
	}
}
