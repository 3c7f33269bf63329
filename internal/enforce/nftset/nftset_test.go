//go:build integration

package nftset_test

import (
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// drops are the settings for logging of the default configuration.
var drops = conf.DropLog{Enabled: true, Prefix: "MEF_", Level: "warn", Rate: 1, Burst: 5}

func open(t testing.TB, ns *netnstest.NS) *nftset.Backend {
	return openWith(t, ns, enforce.Settings{Log: drops})
}

func openWith(t testing.TB, ns *netnstest.NS, settings enforce.Settings) *nftset.Backend {
	t.Helper()
	b, err := nftset.NewIn(ns.Fd(), slog.New(slog.NewTextHandler(t.Output(), nil)), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// key reads "192.0.2.7", "2001:db8::/64", "192.0.2.7 25,465", "192.0.2.7 25 unverified".
func key(t testing.TB, prefix string, more ...string) ban.Key {
	t.Helper()
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		a := netip.MustParseAddr(prefix)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	k := ban.Key{Prefix: p}
	for _, m := range more {
		if m == "unverified" {
			k.Class = ban.Unverified
			continue
		}
		if k.Ports, err = ban.ParsePorts(m); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

var passing = regexp.MustCompile(`packets \d+ bytes \d+`)

func TestTableIsTheReference(t *testing.T) {
	const golden = "testdata/table.nft"
	got := listing(t, enforce.Settings{Log: drops})
	if os.Getenv("UPDATE") != "" {
		os.WriteFile(golden, []byte(got), 0o644)
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("nft list table (-want +got):\n%s", diff)
	}
}

// TestTableWithoutLogOnlyDrops compares with the table that logs, without its two chains.
func TestTableWithoutLogOnlyDrops(t *testing.T) {
	text, err := os.ReadFile("testdata/table.nft")
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?s)\n\tchain drop_\w+ {.*?\n\t}\n`).ReplaceAllString(string(text), "")
	want = regexp.MustCompile(`goto drop_\w+`).ReplaceAllString(want, "drop")
	if diff := cmp.Diff(want, listing(t, enforce.Settings{})); diff != "" {
		t.Errorf("nft list table (-want +got):\n%s", diff)
	}
}

// listing returns the table with some bans as nft shows it, after Check has found no damage.
func listing(t *testing.T, settings enforce.Settings) string {
	t.Helper()
	ns := netnstest.New(t)
	b := openWith(t, ns, settings)
	allow := prefixset.New(netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:a::/48"))
	const perm = enforce.Permanent
	_, err := b.Rebuild(t.Context(), enforce.Changes{
		Allow:  &allow,
		Grace:  []enforce.Element{{Prefix: netip.MustParsePrefix("192.0.2.99/32"), Timeout: perm}},
		Except: []enforce.Element{{Prefix: netip.MustParsePrefix("203.0.113.9/32"), Timeout: perm}},
		Bans: []enforce.Change{
			{Key: key(t, "192.0.2.7"), Timeout: perm},
			{Key: key(t, "203.0.113.0/25"), Timeout: perm},
			{Key: key(t, "192.0.2.8", "25,465,587"), Timeout: perm},
			{Key: key(t, "2001:db8:1::/64", "22,8000-8010"), Timeout: perm},
			{Key: key(t, "2001:db8:2::/64"), Timeout: perm},
			{Key: key(t, "192.0.2.9", "unverified"), Timeout: perm},
			{Key: key(t, "192.0.2.9", "53", "unverified"), Timeout: perm},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []enforce.List{
		{Name: "drop.v4", Addrs: enforcetest.Packed("203.0.113.77 198.51.100.0/25 2001:db8:bad::/48")},
		{Name: "mail", Addrs: enforcetest.Packed("203.0.113.78 2001:db8:bad:1::1"), Both: true, Ports: "25,465-587"},
	} {
		setList(t, b, l)
	}
	got := passing.ReplaceAllString(ns.Run(t, "", "nft", "list", "table", "inet", "mefdaemon"), "packets N bytes N")
	check, err := b.Check(t.Context())
	if err != nil || len(check.Damaged) > 0 {
		t.Errorf("Check right after Rebuild = %+v, %v; want nothing damaged", check, err)
	}
	if check.Bans != 7 && check.Bans != -1 {
		t.Errorf("Check counts %d bans, want 7", check.Bans)
	}
	second, err := openWith(t, ns, settings).Check(t.Context())
	if err != nil || len(second.Damaged) > 0 {
		t.Errorf("Check by a newcomer = %+v, %v; want nothing damaged", second, err)
	}
	return got
}
