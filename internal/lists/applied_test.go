package lists

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

func key(text string) ban.Key { return ban.Key{Prefix: netip.MustParsePrefix(text)} }

// What must begin and end, by mode: in observe mode nothing begins, and after it everything is made again.
func TestAppliedNext(t *testing.T) {
	a := Applied{Blocked: prefixes("192.0.2.0/24", "198.51.100.0/24")}
	block := Block{Prefixes: prefixes("198.51.100.0/24", "203.0.113.0/24")}
	for _, step := range []struct {
		observe           bool
		next, began, gone []netip.Prefix
	}{
		{true, prefixes("198.51.100.0/24"), nil, prefixes("192.0.2.0/24")},
		{false, block.Prefixes, block.Prefixes, prefixes("192.0.2.0/24")},
		{false, block.Prefixes, prefixes("203.0.113.0/24"), prefixes("192.0.2.0/24")},
	} {
		next, began, gone := a.Next(block, step.observe)
		if !slices.Equal(next, step.next) || !slices.Equal(began, step.began) || !slices.Equal(gone, step.gone) {
			t.Errorf("observe %v: %v, began %v, gone %v; want %+v", step.observe, next, began, gone, step)
		}
	}
	if want := prefixes("198.51.100.0/24", "203.0.113.0/24"); !slices.Equal(block.Prefixes, want) {
		t.Errorf("the block itself was changed: %v", block.Prefixes)
	}
}

// Bans of an earlier run: those of lists are taken out, those that are allowed now must end.
func TestAppliedSplit(t *testing.T) {
	a := Applied{Blocked: prefixes("192.0.2.0/24", "198.51.100.0/24")}
	before := []ban.Ban{
		{Key: key("203.0.113.7/32"), Rule: "sshd"},
		{Key: key("198.51.100.0/24"), Rule: ban.ByList},
		{Key: key("192.0.2.0/24"), Rule: ban.ByList},
		{Key: key("203.0.113.9/32"), Rule: "sshd"},
	}
	others, forget, end := a.Split(before, Block{Prefixes: prefixes("198.51.100.0/24")}, prefixset.New(netip.MustParsePrefix("203.0.113.9/32")))
	if len(others) != 1 || others[0].Key != key("203.0.113.7/32") {
		t.Errorf("go on: %+v", others)
	}
	if want := []ban.Key{key("198.51.100.0/24"), key("192.0.2.0/24"), key("203.0.113.9/32")}; !slices.Equal(forget, want) {
		t.Errorf("forgotten: %v, want %v", forget, want)
	}
	if want := []ban.Key{key("192.0.2.0/24"), key("192.0.2.0/24"), key("203.0.113.9/32")}; !slices.Equal(end, want) {
		t.Errorf("ended: %v, want %v", end, want)
	}
}

// A ban by a list is one on all ports, of a network that is blocked; its record has the place of the entry, and when it began if that
// matters.
func TestAppliedRecords(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.conf"), []byte("# block\n192.0.2.0/24 # scanner\n203.0.113.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := New(Options{})
	l.Read(conf.Paths{BlacklistDir: dir})
	block := l.Block(&exempt.Facts{})
	var a Applied
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	a.SetBlocked(block.Prefixes, prefixes("192.0.2.0/24"), noon, true)
	onPorts := ban.Key{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Ports: "22"}
	unverified := ban.Key{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Class: ban.Unverified}
	for k, want := range map[ban.Key]bool{key("192.0.2.0/24"): true, key("192.0.2.7/32"): false, onPorts: false, unverified: false} {
		if got := a.IsBlocked(k); got != want {
			t.Errorf("IsBlocked(%v) = %v, want %v", k, got, want)
		}
	}
	records := a.Records(l, []ban.Key{key("192.0.2.0/24"), onPorts, key("198.51.100.0/24")})
	r := records[key("192.0.2.0/24")]
	if len(records) != 1 || !r.Start.Equal(noon) || r.Rule != ban.ByList || r.Note != "scanner" || r.Reason != "listed in "+dir+"/a.conf:2:1" {
		t.Errorf("records %+v", records)
	}
	if got := a.Records(l, []ban.Key{onPorts}); got != nil {
		t.Errorf("records of a ban that no list asks for: %+v", got)
	}

	// An entry that is gone from the file is still in force until the lists are applied.
	if err := os.WriteFile(filepath.Join(dir, "a.conf"), []byte("203.0.113.0/24 # still\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Read(conf.Paths{BlacklistDir: dir})
	places := a.Places(l, []ban.Key{key("192.0.2.0/24"), key("203.0.113.0/24"), key("198.51.100.0/24")})
	if len(places) != 2 || places[key("192.0.2.0/24")] != "the blacklist" || places[key("203.0.113.0/24")] != dir+"/a.conf:1:1" {
		t.Errorf("places %v", places)
	}

	held := a.Blocked
	a.Unblock([]ban.Key{key("192.0.2.0/24"), onPorts})
	if !slices.Equal(a.Blocked, prefixes("203.0.113.0/24")) || len(held) != 2 {
		t.Errorf("blocked %v, and before %v", a.Blocked, held)
	}
	a.SetBlocked(a.Blocked, nil, noon.Add(time.Hour), false)
	if a.fresh != nil {
		t.Errorf("times are kept although nobody asks for them: %v", a.fresh)
	}
}

func TestBlockBans(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	bans := BlockBans(prefixes("192.0.2.0/24"), noon)
	if len(bans) != 1 || bans[0].Key != key("192.0.2.0/24") || !bans[0].Start.Equal(noon) || bans[0].Rule != ban.ByList || !bans[0].Until.IsZero() {
		t.Errorf("bans %+v, want one without end", bans)
	}
	if keys := BlockKeys(prefixes("192.0.2.0/24")); !slices.Equal(keys, []ban.Key{key("192.0.2.0/24")}) {
		t.Errorf("keys %v", keys)
	}
}

// What was packed for the saved state is read back; anything else has no prefixes.
func TestPack(t *testing.T) {
	in := prefixes("192.0.2.0/24", "198.51.100.7/32", "2001:db8::/48")
	if got := Unpack(Pack(in)); !slices.Equal(got, in) {
		t.Errorf("read back %v, want %v", got, in)
	}
	for _, text := range []string{"", "\xff", "\x05abc", "\x03abcde", strings.Repeat("\x80", 20)} {
		if got := Unpack(text); got != nil {
			t.Errorf("Unpack(%q) = %v", text, got)
		}
	}
}

// Status names a few mistakes of each kind and counts the others.
func TestReportWarn(t *testing.T) {
	r := Report{Mistakes: []string{"1", "2", "3", "4", "5", "6", "7"}, LeftOut: 8, Held: 9, LeftOutNames: 10}
	var s control.Status
	r.Warn(&s, []string{"a.example.org has no address"})
	want := []string{
		"1", "2", "3", "4", "5", "2 more mistakes in lists; mefctl lists shows them",
		"8 entries of blacklist files are ignored; mefctl lists blacklist shows why",
		"9 entries of blacklist files are suspended, because they contain an address from which an administrator logged in; mefctl lists blacklist shows them",
		"10 DNS names of the allow list are ignored: there are more than 256",
		"a.example.org has no address",
	}
	if !slices.Equal(s.Warnings, want) {
		t.Errorf("warnings\n%s\nwant\n%s", strings.Join(s.Warnings, "\n"), strings.Join(want, "\n"))
	}
	s.Warnings = nil
	new(Report).Warn(&s, nil)
	if len(s.Warnings) > 0 {
		t.Errorf("nothing is wrong: %q", s.Warnings)
	}
}

// Why an address is never banned names the entry by which the operator allowed it.
func TestReportExplain(t *testing.T) {
	r := &Report{Allowed: []Item{{Text: "192.0.2.0/24", Source: "a.conf:1:1", Set: prefixset.New(netip.MustParsePrefix("192.0.2.0/24"))}}}
	for _, tt := range []struct {
		report      *Report
		addr, never string
		want        string
	}{
		{r, "192.0.2.7", "it is on the allow list", "it is on the allow list (192.0.2.0/24, a.conf:1:1)"},
		{r, "198.51.100.7", "it is this host's own", "it is this host's own"},
		{r, "192.0.2.7", "", ""},
		{nil, "192.0.2.7", "it is on the allow list", "it is on the allow list"},
	} {
		if got := tt.report.Explain(netip.MustParseAddr(tt.addr), tt.never); got != tt.want {
			t.Errorf("%s, %q: %q, want %q", tt.addr, tt.never, got, tt.want)
		}
	}
}
