package lists

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/exempt"
	. "mef/internal/geodb/geodbtest"
	"mef/internal/prefixset"
)

var (
	germany = conf.GeoGroup{Country: "DE"}
	china   = conf.GeoGroup{Country: "CN"}
	example = conf.GeoGroup{AS: 64500}
)

// networks are those of a small world: 5.0.0.0/12 and 2a00:1::/32 are German, 5.64.0.0/12 is Chinese, and 5.0.1.0/24 is of AS64500.
func networks(t *testing.T, dir string) (country, as string) {
	t.Helper()
	country = Write(t, filepath.Join(dir, "country.mmdb"), Form{Aliases: true}, Country("5.0.0.0/12", "DE"), Country("2a00:1::/32", "DE"), Country("5.64.0.0/12", "CN"), Country("10.0.0.0/8", "CN"))
	return country, Write(t, filepath.Join(dir, "asn.mmdb"), Form{}, AS("5.0.1.0/24", 64500, "Example"))
}

func sectionFor(name string, only bool, ports ban.Ports, groups ...conf.GeoGroup) conf.Access {
	a := conf.Access{Name: name, Enabled: true, Ports: ports}
	a.SetGroups(groups, only)
	return a
}

func closedTo(t *testing.T, lists []enforce.List, name, addr string) bool {
	t.Helper()
	i := slices.IndexFunc(lists, func(l enforce.List) bool { return l.Name == "access."+name })
	return i >= 0 && lists[i].Addrs.Contains(netip.MustParseAddr(addr))
}

func TestAccess(t *testing.T) {
	dir := t.TempDir()
	country, as := networks(t, dir)
	l := New(Options{StateDir: dir})
	l.feeds.Configure(&conf.Config{GeoDatabases: []string{country, as}, Access: []conf.Access{
		sectionFor("deny", false, "22", china, example), sectionFor("only", true, "25", germany), sectionFor("web", true, "", germany),
	}})
	if problems := l.feeds.problems(); len(problems) > 0 {
		t.Fatal(problems)
	}
	facts := exempt.Facts{Allowed: addrs("5.64.0.1"), Sessions: addrs("5.64.0.2"), Admins: addrs("5.64.0.3"), Own: addrs("5.64.0.4"), Proxies: addrs("5.64.0.5")}
	lists := l.feeds.drops(&facts)
	for addr, want := range map[string][3]bool{ // whether deny, only and web have it
		"5.0.0.7":     {false, false, false},
		"5.0.1.7":     {true, false, false},
		"5.64.9.9":    {true, true, true},
		"6.6.6.6":     {false, true, true}, // of no country
		"2a00:1::7":   {false, false, false},
		"2a00:2::7":   {false, true, true},
		"5.64.0.1":    {}, // what must stay reachable
		"5.64.0.2":    {},
		"5.64.0.3":    {},
		"5.64.0.4":    {},
		"5.64.0.5":    {true, true, false}, // a proxy is one at web ports
		"10.0.0.7":    {},                  // private, whatever a database has
		"192.168.1.1": {},
		"fe80::1":     {},
		"fd00::1":     {},
		"127.0.0.1":   {},
		"224.0.0.1":   {},
	} {
		got := [3]bool{closedTo(t, lists, "deny", addr), closedTo(t, lists, "only", addr), closedTo(t, lists, "web", addr)}
		if got != want {
			t.Errorf("%s: deny, only and web have it: %v, want %v", addr, got, want)
		}
	}
	for _, list := range lists {
		if list.Both || list.Name == "access.deny" && list.Ports != "22" {
			t.Errorf("list %s: ports %q, both %v", list.Name, list.Ports, list.Both)
		}
	}
	// At a start nothing is refused, so status shows who would be locked out.
	if got := l.feeds.problems(); len(got) != 3 || got[1] != "[access only] (allow_only=@country:DE) would close ports 25 to 2 addresses from which administrators log in; "+
		"they are left out for 30 days after the last login: change the section, or run mefctl allow add" {
		t.Errorf("problems %q", got)
	}
	why := l.feeds.access.why(netip.MustParseAddr("5.64.9.9"), []string{"access.only"})
	if len(why) != 3 || why[1] != "[access only] (allow_only=@country:DE): its packets that open a connection are dropped, ports 25" || !strings.Contains(why[0], "not dropped") {
		t.Errorf("why %q", why)
	}
}

func addrs(all ...string) prefixset.Set {
	var prefixes []netip.Prefix
	for _, a := range all {
		addr := netip.MustParseAddr(a)
		prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return prefixset.New(prefixes...)
}

// TestDatabaseReplaced replaces a database while it is followed, by good ones and by ones that must not count.
func TestDatabaseReplaced(t *testing.T) {
	dir := t.TempDir()
	country, as := networks(t, dir)
	cfg := &conf.Config{GeoDatabases: []string{country, as}, Access: []conf.Access{sectionFor("ssh", true, "22", germany)}}
	l := New(Options{StateDir: dir})
	l.feeds.Configure(cfg)
	a := l.feeds.access
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	changed := make(chan struct{}, 100)
	go func() { ended <- a.run(ctx, func() { changed <- struct{}{} }) }()
	defer func() { cancel(); <-ended }()
	closed := func(addr string) bool { return closedTo(t, l.feeds.drops(&exempt.Facts{}), "ssh", addr) }
	within := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: problems %q", what, l.feeds.problems())
			}
		}
	}
	problem := func(words ...string) func() bool {
		return func() bool {
			text := strings.Join(l.feeds.problems(), "\n")
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
		}
	}
	if !closed("5.64.0.7") || closed("5.0.0.7") {
		t.Fatal("the first version does not count")
	}

	Write(t, country, Form{}, Country("5.64.0.0/11", "DE"))
	within("a new version", func() bool { return !closed("5.64.0.7") && closed("5.0.0.7") })
	<-changed

	for _, replace := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"missing", func() error { return os.Remove(country) }, []string{"country.mmdb: no such file"}},
		{"damaged", func() error { return os.WriteFile(country, []byte("<html>"), 0o644) }, []string{"country.mmdb: the file is damaged"}},
		{"without it", func() error { Write(t, country, Form{}, Country("5.0.0.0/12", "FR")); return nil }, []string{"it has no network of @country:DE"}},
		{"much smaller", func() error { Write(t, country, Form{}, Country("5.64.0.0/20", "DE")); return nil }, []string{"it has shrunk from 2097152 IPv4 addresses to 4096, less than a tenth"}},
		{"everybody's", func() error {
			path := Write(t, filepath.Join(t.TempDir(), "x"), Form{}, Country("5.0.0.0/8", "DE"))
			return errors.Join(os.Chmod(path, 0o666), os.Rename(path, country))
		}, []string{"every user can change it"}},
	} {
		if err := replace.do(); err != nil {
			t.Fatal(replace.name, err)
		}
		within(replace.name, problem(append(replace.want, "[access ssh]: ", "stay in force")...))
		if closed("5.64.0.7") || !closed("5.0.0.7") {
			t.Errorf("%s: the version before does not count", replace.name)
		}
	}

	// So it does after a restart, from the copy on disk.
	if err := os.Remove(country); err != nil {
		t.Fatal(err)
	}
	again := New(Options{StateDir: dir})
	again.feeds.Configure(cfg)
	if lists := again.feeds.drops(&exempt.Facts{}); closedTo(t, lists, "ssh", "5.64.0.7") || !closedTo(t, lists, "ssh", "5.0.0.7") || len(again.feeds.problems()) != 2 {
		t.Errorf("after a restart: problems %q", again.feeds.problems())
	}
	// A database that shrank while the daemon was stopped does not count either, until the operator accepts it.
	Write(t, country, Form{}, Country("5.64.0.0/20", "DE"))
	again = New(Options{StateDir: dir})
	again.feeds.Configure(cfg)
	if lists := again.feeds.drops(&exempt.Facts{}); closedTo(t, lists, "ssh", "5.64.255.7") || !strings.Contains(strings.Join(again.feeds.problems(), "\n"), "less than a tenth; mefctl reload accepts that") {
		t.Errorf("after a restart with a database that has shrunk: problems %q", again.feeds.problems())
	}
	if again.feeds.Configure(cfg); !closedTo(t, again.feeds.drops(&exempt.Facts{}), "ssh", "5.64.255.7") || len(again.feeds.problems()) > 0 {
		t.Errorf("after a reload with a database that has shrunk: problems %q", again.feeds.problems())
	}
	Write(t, country, Form{}, Country("5.64.0.0/11", "DE"))
	again.feeds.Configure(cfg)
	if err := os.Remove(country); err != nil {
		t.Fatal(err)
	}

	// A copy of something else does not count: the ports are open.
	other := &conf.Config{GeoDatabases: cfg.GeoDatabases, Access: []conf.Access{sectionFor("ssh", true, "22", germany, china)}}
	again = New(Options{StateDir: dir})
	again.feeds.Configure(other)
	if lists := again.feeds.drops(&exempt.Facts{}); len(lists) > 0 || !strings.Contains(strings.Join(again.feeds.problems(), "\n"), "[access ssh] is not in force: the networks of @country:CN, @country:DE are not known") {
		t.Errorf("%d lists, problems %q", len(lists), again.feeds.problems())
	}

	Write(t, country, Form{}, Country("5.128.0.0/10", "DE"))
	within("a good version", func() bool { return len(l.feeds.problems()) == 0 && !closed("5.128.0.7") })
	l.feeds.Configure(&conf.Config{})
	if _, err := os.Stat(a.copyPath("ssh")); err == nil || len(l.feeds.drops(&exempt.Facts{})) > 0 {
		t.Error("a section that there is no longer counts")
	}
}

func TestLockOut(t *testing.T) {
	dir := t.TempDir()
	country, as := networks(t, dir)
	cfg := &conf.Config{GeoDatabases: []string{country, as}, Access: []conf.Access{sectionFor("ssh", true, "22,993", germany), sectionFor("web", true, "443", germany)}}
	cfg.Access[0].Pos = conf.Pos{File: "mef.conf", Line: 3, Col: 1}
	want := "mef.conf:3:1: [access ssh] (allow_only=@country:DE) would close port 22 to 5.64.0.7 (@country:CN), from which an administrator is logged in; change the section, or run mefctl allow add 5.64.0.7"
	if got := LockOut(cfg, nil, addrs("5.0.0.7", "5.64.0.7"), "22"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, got := range map[string]string{
		"an address of the country": LockOut(cfg, nil, addrs("5.0.0.7"), "22"),
		"a private address":         LockOut(cfg, nil, addrs("192.168.0.7"), "22"),
		"another SSH port":          LockOut(cfg, nil, addrs("5.64.0.7"), "2222"),
		"in force already":          LockOut(cfg, cfg.Access, addrs("5.64.0.7"), "22"),
		"nobody":                    LockOut(cfg, nil, prefixset.Set{}, "22"),
	} {
		if got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
	deny := &conf.Config{GeoDatabases: []string{country, as}, Access: []conf.Access{sectionFor("all", false, "", example)}}
	if got := LockOut(deny, nil, addrs("5.0.1.7"), "22"); !strings.Contains(got, "[access all] (deny=@as:64500) would close port 22 to 5.0.1.7 (@country:DE)") {
		t.Errorf("a denied network: %q", got)
	}
}

func TestCheckAccess(t *testing.T) {
	dir := t.TempDir()
	country, as := networks(t, dir)
	cfg := &conf.Config{GeoDatabases: []string{country, filepath.Join(dir, "missing.mmdb")}, Access: []conf.Access{sectionFor("ssh", false, "22", germany), sectionFor("as", false, "22", example)}}
	got := strings.Join(CheckAccess(cfg), "\n")
	for _, want := range []string{"missing.mmdb: no such file or directory", "no database has autonomous systems", "[access as] will not be in force: the networks of @as:64500 are not known"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	cfg.GeoDatabases[1] = as
	if got := CheckAccess(cfg); len(got) > 0 {
		t.Errorf("a good configuration: %q", got)
	}
	if got := CheckAccess(&conf.Config{}); len(got) > 0 {
		t.Errorf("without databases: %q", got)
	}
}
