package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/exempt"
	"mef/internal/lists"
	"mef/internal/prefixset"
)

func TestListedBansLeaveProtectedAddressesOut(t *testing.T) {
	entries := []conf.Entry{
		{Text: "198.51.100.0/30", Note: "asked three times", Pos: conf.Pos{File: "b.conf", Line: 3, Col: 1}},
		{Text: "2001:db8:7::1"},
		{Text: "bad.example"},
		{Text: "192.0.2.1"},
		{Text: "0.0.0.0/0"},
	}
	protected := prefixset.New(netip.MustParsePrefix("198.51.100.1/32"), netip.MustParsePrefix("192.0.2.0/24"))
	bans, leftOut := lists.Bans(entries, protected, time.Now())
	var got []string
	for _, b := range bans {
		if !b.Permanent() || b.Rule != ban.ByList {
			t.Errorf("%v: rule %q until %v, want a ban without end by %q", b.Key, b.Rule, b.Until, ban.ByList)
		}
		got = append(got, b.Key.String())
	}
	want := []string{"198.51.100.0", "198.51.100.2/31", "2001:db8:7::1"}
	if !slices.Equal(got, want) || len(leftOut) != 2 {
		t.Errorf("bans %q, %v left out; want %q", got, leftOut, want)
	}
	if bans[0].Reason != "listed in b.conf:3:1" || bans[0].Note != "asked three times" {
		t.Errorf("reason %q, note %q", bans[0].Reason, bans[0].Note)
	}
}

func TestEntriesThatWentAreLifted(t *testing.T) {
	d := &daemon{loop: &loop{log: quiet(), engine: engine.New(engine.Config{}, exempt.Facts{})}}
	d.lists.black = []conf.ListFile{{Entries: []conf.Entry{{Text: "192.0.2.7"}}}}
	key := func(s string) ban.Key { return ban.Key{Prefix: netip.MustParsePrefix(s)} }
	before := []ban.Ban{
		{Key: key("192.0.2.7/32"), Rule: ban.ByList},
		{Key: key("192.0.2.8/32"), Rule: ban.ByList},
		{Key: key("192.0.2.9/32"), Rule: "sshd"},
	}
	inForce, gone := d.adoptLists(before, time.Now())
	if len(inForce) != 2 || inForce[0].Key != key("192.0.2.9/32") || inForce[1].Key != key("192.0.2.7/32") {
		t.Errorf("in force: %v", inForce)
	}
	if !slices.Equal(gone, []ban.Key{key("192.0.2.8/32")}) {
		t.Errorf("gone: %v", gone)
	}
}

// What a blacklist asks for in vain is left out, and said of every entry.
func TestEntriesInVain(t *testing.T) {
	d := &daemon{loop: &loop{log: quiet(), engine: engine.New(engine.Config{}, exempt.Facts{})}}
	var file conf.ListFile
	add := func(text string) {
		file.Entries = append(file.Entries, conf.Entry{Text: text, Pos: conf.Pos{File: "b.conf", Line: len(file.Entries) + 1, Col: 1}})
	}
	for _, text := range []string{"bad.example", "10.0.0.0/8", "192.0.2.1"} {
		add(text)
	}
	for i := range lists.MaxBlocked {
		add(netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}).String())
	}
	add("203.0.113.7")
	add("worse.example")
	d.lists.black = []conf.ListFile{file}
	protected := prefixset.New(netip.MustParsePrefix("192.0.2.0/24"))
	bans, leftOut := lists.Bans(entriesOf(d.lists.black), protected, time.Now())
	d.leaveOut(leftOut)
	if len(bans) != lists.MaxBlocked || d.leftOut != 4 {
		t.Errorf("%d bans, %d entries left out; want %d and 4", len(bans), d.leftOut, lists.MaxBlocked)
	}
	shown := make([]control.Entry, len(file.Entries))
	d.lists.explainBlock(shown, protected)
	last := len(shown) - 1
	for i, want := range map[int]string{
		0: "a name is not resolved here", 1: "wider than /16", 2: "never banned: the allow list has it, this host needs it",
		3: "", last - 2: "", last - 1: "left out: there is room for 100,000 networks", last: "a name is not resolved here",
	} {
		if got := shown[i].Error; !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("entry %s: %q, want %q", file.Entries[i].Text, got, want)
		}
	}
}
