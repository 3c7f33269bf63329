package cli

import (
	"testing"
	"time"

	"mef/internal/control"
)

func TestTimes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) *time.Time { t := now.Add(d); return &t }
	for name, tt := range map[string]struct{ got, want string }{
		"no end":                  {Left(nil, now), "until lifted"},
		"an end":                  {Left(at(90*time.Second), now), "1m30s"},
		"an end that has passed":  {Left(at(-time.Hour), now), "now"},
		"less than half a second": {Left(at(400*time.Millisecond), now), "now"},
		"no end, as a sentence":   {Lasts(nil, now), "until lifted"},
		"an end, as a sentence":   {Lasts(at(2*time.Hour), now), "2h left"},
		"never":                   {Ago(nil, now), "never"},
		"never, zero":             {Ago(&time.Time{}, now), "never"},
		"just now":                {Ago(at(-900*time.Millisecond), now), "now"},
		"in the future":           {Ago(at(time.Minute), now), "now"},
		"ago":                     {Ago(at(-time.Minute), now), "1m ago"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", name, tt.got, tt.want)
		}
	}
}

// Text of an attacker is quoted, so that it cannot control the terminal.
func TestQuoted(t *testing.T) {
	if got, want := Quoted([]string{"a\x1b[2Jb", "c"}, "  "), "  \"a\\x1b[2Jb\"\n  \"c\"\n"; got != want {
		t.Errorf("Quoted = %q, want %q", got, want)
	}
	if got, want := QuotedList([]string{"root", "a\nb"}), `"root", "a\nb"`; got != want {
		t.Errorf("QuotedList = %q, want %q", got, want)
	}
}

func TestKernel(t *testing.T) {
	ok := control.Kernel{Backend: "nftables", Table: "table inet mefdaemon", Present: true, Elements: 3, Matches: true}
	gone, wrong := ok, ok
	gone.Present = false
	wrong.Matches, wrong.Problems, wrong.Repairs = false, []string{"1 ban is missing", "no chain ban4"}, 2
	for want, k := range map[string]control.Kernel{
		"nftables: table inet mefdaemon holds 3 bans, as it should be":                                                        ok,
		"nftables: table inet mefdaemon is MISSING":                                                                           gone,
		"nftables: table inet mefdaemon holds 3 bans, NOT as it should be: 1 ban is missing; no chain ban4; repaired 2 times": wrong,
	} {
		if got := Kernel(k); got != want {
			t.Errorf("Kernel = %q, want %q", got, want)
		}
	}
	five := uint64(5)
	if got := Packets(&five) + Packets(nil); got != "5-" {
		t.Errorf("Packets = %q", got)
	}
}
