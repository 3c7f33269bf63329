package lists

import (
	"fmt"
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

// blacklist returns lists with a blacklist of one file, b.conf.
func blacklist(t *testing.T, text string) (*Lists, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "b.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l := New(Options{})
	l.Read(conf.Paths{WhitelistDir: filepath.Join(dir, "none"), BlacklistDir: dir})
	return l, path
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestBlockLeavesProtectedAddressesOut(t *testing.T) {
	l, path := blacklist(t, "bad.example\n2001:db8:7::1\n198.51.100.0/30 # asked three times\n192.0.2.1\n0.0.0.0/0\n198.51.100.2/31\n")
	facts := exempt.Facts{Allowed: prefixset.New(prefixes("198.51.100.1/32")...), Own: prefixset.New(prefixes("192.0.2.0/24")...)}
	block := l.Block(&facts)
	if want := prefixes("198.51.100.0/32", "198.51.100.2/31", "2001:db8:7::1/128"); !slices.Equal(block.Prefixes, want) || block.LeftOut != 3 {
		t.Errorf("%v, %d left out; want %v and 3", block.Prefixes, block.LeftOut, want)
	}
	keys := []ban.Key{{Prefix: block.Prefixes[0]}, {Prefix: block.Prefixes[1]}, {Prefix: block.Prefixes[2]}, {Prefix: netip.MustParsePrefix("203.0.113.1/32")}}
	records := l.Records(keys)
	for i, place := range []string{":3:1", ":3:1", ":2:1"} {
		if b := records[keys[i]]; b.Reason != "listed in "+path+place || b.Rule != ban.ByList || !b.Permanent() {
			t.Errorf("the record of %s is %+v, want one of %s", keys[i], b, place)
		}
	}
	if len(records) != 3 || records[keys[0]].Note != "asked three times" {
		t.Errorf("records %+v", records)
	}
}

// What a blacklist asks for in vain is left out, and the reason shown with every entry.
func TestEntriesInVain(t *testing.T) {
	l, _ := blacklist(t, "bad.example\n10.0.0.0/8\n192.0.2.1\n203.0.113.7\nworse.example\n")
	facts := exempt.Facts{Allowed: prefixset.New(prefixes("192.0.2.0/24")...)}
	block := l.Block(&facts)
	if len(block.Prefixes) != 1 || block.LeftOut != 4 || len(block.Notable) != 4 {
		t.Errorf("%d networks, %d entries left out, %q; want 1 and 4", len(block.Prefixes), block.LeftOut, block.Notable)
	}
	var out control.Lists
	l.ShowBlock(&out, &facts)
	for i, want := range []string{"names have no effect in a blacklist", "wider than /16", "never banned: it is on the allow list, this host needs it", "",
		"names have no effect in a blacklist"} {
		if got := out.Entries[i].Error; !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("entry %s: %q, want %q", out.Entries[i].Entry, got, want)
		}
	}
}

// The first networks of a long blacklist are bans of their own, the others are one list; nothing is left out because there is too much.
func TestLongBlacklist(t *testing.T) {
	const n = 150_000
	var text strings.Builder
	for i := range n {
		fmt.Fprintln(&text, netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	text.WriteString("203.0.113.0/28 # the last\nworse.example\n10.0.0.0/8\n")
	l, path := blacklist(t, text.String())
	facts := exempt.Facts{Allowed: prefixset.New(prefixes("203.0.113.5/32")...), Admins: prefixset.New(prefixes("203.0.113.6/32")...)}
	block := l.Block(&facts)
	if len(block.Prefixes) != MaxBanned || block.LeftOut != 2 {
		t.Errorf("%d networks, %d entries left out; want %d and 2", len(block.Prefixes), block.LeftOut, MaxBanned)
	}
	if hosts, _ := block.Rest.Counts(false); hosts < n-MaxBanned {
		t.Errorf("%d addresses in the list, want %d", hosts, n-MaxBanned)
	}
	for addr, want := range map[string]bool{"100.0.0.1": false, "100.2.73.239": true, "203.0.113.1": true, "203.0.113.5": false, "203.0.113.6": false, "10.0.0.1": false} {
		if block.Rest.Contains(netip.MustParseAddr(addr)) != want {
			t.Errorf("%s is in the list: %v", addr, !want)
		}
	}
	if drops := l.feeds.drops(&facts); len(drops) != 1 || drops[0].Name != BlockList || !drops[0].Both || !drops[0].Addrs.Equal(block.Rest) {
		t.Errorf("lists for the kernel: %+v", drops)
	}
	if at, want := l.feeds.inBlacklist(netip.MustParseAddr("203.0.113.1")), fmt.Sprintf(", %s:%d:1", path, n+1); at != want {
		t.Errorf("place %q, want %q", at, want)
	}
	var out control.Lists
	l.ShowBlock(&out, &facts)
	if len(out.Files) != 1 || out.Files[0].Entries != n+3 || len(out.Entries) != maxKept {
		t.Errorf("%+v, %d entries shown", out.Files, len(out.Entries))
	}
}

func TestDiffAndPack(t *testing.T) {
	before := prefixes("192.0.2.1/32", "192.0.2.4/30", "2001:db8::/64")
	after := prefixes("192.0.2.0/32", "192.0.2.4/30", "192.0.2.4/31", "2001:db8::/64")
	began, gone := Diff(before, after)
	if !slices.Equal(began, prefixes("192.0.2.0/32", "192.0.2.4/31")) || !slices.Equal(gone, prefixes("192.0.2.1/32")) {
		t.Errorf("began %v, gone %v", began, gone)
	}
	for _, p := range after {
		if !Has(after, p) || Has(before, p) != slices.Contains(before, p) {
			t.Errorf("Has is wrong about %s", p)
		}
	}
	if got := Unpack(Pack(after)); !slices.Equal(got, after) {
		t.Errorf("packed and unpacked: %v, want %v", got, after)
	}
	for _, text := range []string{"x", "\x05abc", Pack(after) + "\xff", "\x00"} {
		Unpack(text) // must not panic, whatever the disk has made of it
	}
}

// A feed that drops nothing adds points to the score of its addresses, or only reports them; it is no list of the kernel.
func TestFeedsThatScore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "own")
	if err := os.WriteFile(path, []byte("45.83.0.7\n2a00:1::/32\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := New(Options{StateDir: dir})
	feed := func(name string, action conf.FeedAction) conf.Feed {
		return conf.Feed{Name: name, Enabled: true, URL: "file://" + path, Refresh: time.Hour, MaxSize: 1, MaxShare: 20, Action: action, Weight: 70}
	}
	l.feeds.Configure([]conf.Feed{feed("drop", conf.FeedDrop), feed("score", conf.FeedScore), feed("watch", conf.FeedDetect)})
	go l.feeds.keeper.Run(t.Context())
	if err := l.feeds.update(t.Context(), "", false); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := l.feeds.Listings(netip.MustParseAddr("2a00:1::5"))
	for _, one := range got {
		if one.At.Before(began) { // it would not count where an operator has ever lifted a ban
			t.Errorf("%s is of %v", one, one.At)
		}
	}
	if len(got) != 2 || got[0].String() != "feed score (score)" || got[0].Points != 70 || got[1].String() != "feed watch (detect)" || got[1].Points != 0 {
		t.Errorf("listings %+v", got)
	}
	if got := l.feeds.Listings(netip.MustParseAddr("45.83.0.8")); len(got) > 0 {
		t.Errorf("listings of another address: %+v", got)
	}
	if drops := l.feeds.drops(&exempt.Facts{}); len(drops) != 1 || drops[0].Name != "drop" {
		t.Errorf("lists for the kernel: %+v", drops)
	}
}
