package filter

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"mef/internal/conf"
)

// checkPrefix reads lines one after the other with a memory, and each by itself: there must be no difference. It returns how many headers
// were read by what was remembered of the date and host, and of the program as well.
func checkPrefix(t *testing.T, lines [][]byte) (remembered, known int) {
	t.Helper()
	set, errs := Compile(nil)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	v := set.View(func(*conf.Rule) bool { return true })
	for i, line := range lines {
		line = trimEnd(line)
		var got, quick header
		if rest, ok := v.prefix.cut(line); ok {
			if _, ok := firstTag(rest); ok {
				remembered++
			}
			if v.cutKnown(rest, &quick) != nil {
				known++
			}
		}
		v.header(line, &got)
		want := parseHeader(line)
		if !sameHeader(line, got, want) || !same(line, got.whole, want.whole) {
			t.Fatalf("line %d of\n%s\nis read as program %q, pid %q, message %q; by itself as %q, %q, %q", i+1,
				bytes.Join(lines[:i+1], []byte("\n")), got.program, got.pid, got.message, want.program, want.pid, want.message)
		}
	}
	return remembered, known
}

// sameHeader compares what is read, down to where it stands in the line.
func sameHeader(line []byte, a, b header) bool {
	return same(line, a.program, b.program) && same(line, a.pid, b.pid) && same(line, a.message, b.message)
}

func same(line, a, b []byte) bool {
	return bytes.Equal(a, b) && (len(a) == 0 || &a[0] == &b[0])
}

// Parts of lines that look alike: what could be a date's end, a host's name, a facility, a program.
var (
	fronts = []string{"Jan  2 03:04:05", "Jan  2 03:04:06", "Tue Jan  2 03:04:05", "Jan  2 03:04:05.123", "Jan  2 03:04:05:",
		"2026-01-02T03:04:05.123456+01:00", "2026-01-02T03:04:05.654321+01:00", "2026-01-02T03:04:05.1Z", "2026-01-02 03:04:05,123",
		"2026-01-02T03:04:05+01:00", "2026-01-02 03:04:05", "@400000004c91b044077a9e94", "<38>Jan  2 03:04:05",
		"<38>1 2026-01-02T03:04:05Z", " Jan  2 03:04:05", "", "2026-01-02T03:04:05.+", "2026-01-02T03:04:05.12345678901"}
	blanks = []string{" ", " ", " ", " ", "  ", "\t", "", ":"}
	words  = []string{"srv1", "srv2", "2024", "2024:", "+01", "+0100", "-01:00", "auth.info", "auth.info:", "<10.5>", "[192.0.2.1]",
		"Jan", "sshd[12]:", "sshd:", "sshd(pam_unix)[1]:", "/usr/sbin/sshd[12]:", "sshd[12]", "sshd[x]:", "sshd[1234567]:", "sshd[12345678]:", "sshd[]:", "sshd[1:", "sshd[12]x", "sshd[1;2]:", "kernel:", "kernel::", "kernel:\t", "Z",
		"Failed password for root", "10", "Jan  2 03:04:05", "é", "<", strings.Repeat("long", 30), "\r"}
)

func TestPrefix(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	front := func() string {
		if r.IntN(2) == 0 {
			return pick(fronts) + " srv1 "
		}
		return pick(fronts) + pick(blanks) + pick(words) + pick(blanks)
	}
	remembered, known := 0, 0
	for range 20_000 {
		now, lines := front(), make([][]byte, 6)
		for i := range lines {
			if r.IntN(4) == 0 {
				now = front()
			}
			lines[i] = []byte(now + pick(words) + pick(blanks) + pick(words) + pick(blanks) + pick(words))
		}
		r, k := checkPrefix(t, lines)
		remembered, known = remembered+r, known+k
	}
	if remembered < 2000 || known < 200 {
		t.Errorf("of 120000 lines, only %d had a front that was remembered and %d a program: this shows little", remembered, known)
	}
}

func FuzzPrefix(f *testing.F) {
	for i, front := range fronts {
		f.Add([]byte(front + " srv1 sshd[1]: a\n" + front + " srv1 cron: b\n" + front + " " + words[i] + " c: d\n"))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkPrefix(t, bytes.Split(text, []byte("\n"))) })
}

// Names returns each name as it is, also after others of the same place, and does not keep the bytes that it was given.
func TestNames(t *testing.T) {
	var names Names
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		name := make([]byte, r.IntN(maxUser+3))
		for i := range name {
			name[i] = "ab1\xff"[r.IntN(4)]
		}
		want := string(name)
		got := names.of(name)
		clear(name)
		if got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	again := []byte("root")
	names.of(again)
	if n := testing.AllocsPerRun(100, func() { names.of(again) }); n != 0 {
		t.Errorf("a name that comes again costs %v allocations", n)
	}
}
