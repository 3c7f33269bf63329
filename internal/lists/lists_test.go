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

// in returns the networks of a set, as text.
func in(p *prefixset.Packed) string {
	var ranges []prefixset.Range
	for _, v6 := range []bool{false, true} {
		for a := range p.Hosts(v6) {
			ranges = append(ranges, prefixset.Range{First: a, Last: a})
		}
		ranges = slices.AppendSeq(ranges, p.Nets(v6))
	}
	return fmt.Sprint(prefixset.FromRanges(ranges).Prefixes())
}

func TestBlockLeavesProtectedAddressesOut(t *testing.T) {
	l, path := blacklist(t, "bad.example\n2001:db8:7::1\n198.51.100.0/30 # asked three times\n192.0.2.1\n0.0.0.0/0\n198.51.100.2/31\n")
	facts := exempt.Facts{Allowed: prefixset.New(prefixes("198.51.100.1/32")...), Own: prefixset.New(prefixes("192.0.2.0/24")...)}
	block := l.Block(&facts)
	if got := in(block.Addrs); got != "[198.51.100.0/32 198.51.100.2/31 2001:db8:7::1/128]" || block.LeftOut != 3 {
		t.Errorf("%s, %d left out; want 3", got, block.LeftOut)
	}
	l.feeds.setBlacklist(block.Addrs, l.block.files)
	for addr, want := range map[string]string{"198.51.100.0": path + ":3:1", "198.51.100.3": path + ":3:1", "2001:db8:7::1": path + ":2:1",
		"198.51.100.1": "", "192.0.2.1": "", "203.0.113.1": ""} {
		if got := l.Place(netip.MustParseAddr(addr)); got != want {
			t.Errorf("the place of %s is %q, want %q", addr, got, want)
		}
	}
	if err := os.WriteFile(path, []byte("203.0.113.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := l.Place(netip.MustParseAddr("198.51.100.0")); got != "the blacklist" {
		t.Errorf("the entry is gone from the file and in force, its place is %q", got)
	}
}

// An address from which an administrator logs in is left out of the entries around it, and counted.
func TestBlockLeavesAdministratorsOut(t *testing.T) {
	l, _ := blacklist(t, "198.51.100.0/31\n2001:db8::/127\n")
	facts := exempt.Facts{Sessions: prefixset.New(prefixes("198.51.100.1/32")...), Admins: prefixset.New(prefixes("2001:db8::1/128", "203.0.113.1/32")...)}
	if block := l.Block(&facts); in(block.Addrs) != "[198.51.100.0/32 2001:db8::/128]" || block.Held != 2 || block.LeftOut != 0 {
		t.Errorf("%s, %v addresses held, %d entries left out", in(block.Addrs), block.Held, block.LeftOut)
	}
}

// What a blacklist asks for in vain is left out, and the reason shown with every entry. Entries count again once nothing protects them.
func TestEntriesInVain(t *testing.T) {
	l, _ := blacklist(t, "bad.example\n10.0.0.0/8\n192.0.2.1\n203.0.113.7\nworse.example\n")
	facts := exempt.Facts{Allowed: prefixset.New(prefixes("192.0.2.0/24")...)}
	for range 2 {
		block := l.Block(&facts)
		if block.Addrs.Len() != 1 || block.LeftOut != 4 || len(block.Notable) != 4 {
			t.Errorf("%d networks, %d entries left out, %q; want 1 and 4", block.Addrs.Len(), block.LeftOut, block.Notable)
		}
	}
	var out control.Lists
	l.showBlock(&out, &facts)
	for i, want := range []string{"names have no effect in a blacklist", "wider than /16", "never banned: it is on the allow list, this host needs it", "",
		"names have no effect in a blacklist"} {
		if got := out.Entries[i].Error; !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("entry %s: %q, want %q", out.Entries[i].Entry, got, want)
		}
	}
	if block := l.Block(&exempt.Facts{}); block.Addrs.Len() != 2 || block.LeftOut != 3 {
		t.Errorf("not allowed any more: %d networks, %d entries left out", block.Addrs.Len(), block.LeftOut)
	}
}

// A long blacklist is one list, and nothing is left out because there is too much. Its first entries are shown one by one.
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
	if hosts, _ := block.Addrs.Counts(false); hosts < n || block.LeftOut != 2 {
		t.Errorf("%d addresses, %d entries left out; want %d and 2", hosts, block.LeftOut, n)
	}
	for addr, want := range map[string]bool{"100.0.0.1": true, "100.2.73.239": true, "203.0.113.1": true, "203.0.113.5": false, "203.0.113.6": false, "10.0.0.1": false} {
		if block.Addrs.Contains(netip.MustParseAddr(addr)) != want {
			t.Errorf("%s is in the list: %v", addr, !want)
		}
	}
	l.feeds.setBlacklist(block.Addrs, l.block.files)
	if drops := l.feeds.drops(&facts); len(drops) != 1 || drops[0].Name != BlockList || !drops[0].Both || !drops[0].Addrs.Equal(block.Addrs) {
		t.Errorf("lists for the kernel: %+v", drops)
	}
	// Of the lists of the community server, too, what must stay reachable is left out.
	var community prefixset.Packer
	for _, p := range prefixes("203.0.113.5/32", "203.0.113.6/32", "203.0.113.7/32") {
		community.Add(p)
	}
	packed := community.Pack()
	l.feeds.Community = func() (*prefixset.Packed, ban.Ports) { return packed, "22" }
	if drops := l.feeds.drops(&facts); len(drops) != 2 || drops[1].Name != CommunityList || drops[1].Ports != "22" || drops[1].Both ||
		drops[1].Addrs.Len() != 1 || !drops[1].Addrs.Contains(netip.MustParseAddr("203.0.113.7")) {
		t.Errorf("with the community server: %+v", drops)
	}
	if at, want := l.Place(netip.MustParseAddr("203.0.113.1")), fmt.Sprintf("%s:%d:1", path, n+1); at != want {
		t.Errorf("place %q, want %q", at, want)
	}
	var out control.Lists
	l.showBlock(&out, &facts)
	if len(out.Files) != 1 || out.Files[0].Entries != n+3 || len(out.Entries) != maxShown || out.More != n+3-maxShown {
		t.Errorf("%+v, %d entries shown, %d more", out.Files, len(out.Entries), out.More)
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
	l.feeds.Configure(&conf.Config{Feeds: []conf.Feed{feed("drop", conf.FeedDrop), feed("score", conf.FeedScore), feed("watch", conf.FeedDetect)}})
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
