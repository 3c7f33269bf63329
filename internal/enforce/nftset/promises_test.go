//go:build integration

package nftset_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
)

func TestKernelKeepsThePromises(t *testing.T) {
	enforcetest.Promises(t, func(t testing.TB) enforce.Backend { return open(t, netnstest.New(t)) })
}

func TestOldKernelKeepsThePromises(t *testing.T) {
	enforcetest.Promises(t, func(t testing.TB) enforce.Backend {
		b := open(t, netnstest.New(t))
		b.Pretend(nftset.Features{})
		return b
	})
}

func TestSmallTransactionsKeepThePromises(t *testing.T) {
	enforcetest.Promises(t, func(t testing.TB) enforce.Backend {
		b := open(t, netnstest.New(t))
		b.Narrow(100_000)
		return b
	})
}

func TestProbeFindsWhatThisKernelCan(t *testing.T) {
	f := open(t, netnstest.New(t)).Features()
	t.Logf("features: %+v", f)
	if !f.Counters {
		t.Error("no counters, which Linux has since 5.7")
	}
}

func TestAFullSetDelaysNoOtherBan(t *testing.T) {
	ns := netnstest.New(t)
	b := open(t, ns)
	if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
		t.Fatal(err)
	}
	ns.Run(t, "", "nft", `flush chain inet mefdaemon ban4_exact; flush chain inet mefdaemon reply4_exact; delete set inet mefdaemon ban4_32;
		add set inet mefdaemon ban4_32 { type ipv4_addr; flags timeout; size 3; }`)
	var bans []enforce.Change
	for i := range 10 {
		bans = append(bans,
			enforce.Change{Key: enforcetest.Key(fmt.Sprintf("192.0.2.%d", i)), Timeout: enforce.Permanent},
			enforce.Change{Key: enforcetest.Key(fmt.Sprintf("2001:db8:%d::/64", i)), Timeout: enforce.Permanent})
	}
	failed, err := b.Apply(t.Context(), enforce.Changes{Bans: bans})
	if err != nil || len(failed) != 7 {
		t.Errorf("%d bans failed (%v), want 7", len(failed), err)
	}
	for _, f := range failed {
		if !errors.Is(f.Err, syscall.ENFILE) || f.Key.Prefix.Addr().Is6() {
			t.Errorf("ban %v failed: %v; want only IPv4 ones, with ENFILE", f.Key, f.Err)
		}
	}
	if s, err := b.Held(t.Context()); err != nil || len(s.Bans) != 13 {
		t.Errorf("%d bans are held (%v), want 13", len(s.Bans), err)
	}
}

// A saved state may have bans of too many kinds; the others are restored nevertheless.
func TestARebuildIsBounded(t *testing.T) {
	b := open(t, netnstest.New(t))
	c := enforce.Changes{Bans: []enforce.Change{{Key: enforcetest.Key("203.0.113.1"), Timeout: enforce.Permanent}}}
	for port := 1; port <= 300; port++ {
		c.Bans = append(c.Bans, enforce.Change{Key: enforcetest.Key(fmt.Sprintf("192.0.2.7 ports %d", port)), Timeout: enforce.Permanent})
	}
	failed, err := b.Rebuild(t.Context(), c)
	if err != nil || len(failed) != 300-248 { // 256 sets, eight of them for the usual bans
		t.Errorf("%d bans were refused (%v), want 52", len(failed), err)
	}
	if s, err := b.Held(t.Context()); err != nil || len(s.Bans) != 1+248 {
		t.Errorf("%d bans are held (%v), want 249", len(s.Bans), err)
	}
}

// Sets without bans make room for those of other kinds.
func TestSetsOfEndedBansMakeRoom(t *testing.T) {
	e := enforcetest.Start(t, open(t, netnstest.New(t)), enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("203.0.113.1", 0))
	for port := 1; port <= 300; port++ {
		b := enforcetest.For(fmt.Sprintf("192.0.2.7 ports %d", port), 0)
		enforcetest.Bans(t, e, b)
		if err := e.Unban(t.Context(), 0, b.Key); err != nil {
			t.Fatal(err)
		}
	}
	if got := enforcetest.Lists(t, e); got != "203.0.113.1\n" {
		t.Errorf("bans:\n%s", got)
	}
	if s := e.Status(); s.Problem != "" || s.Repairs != 0 {
		t.Errorf("status %+v, want no problem", s)
	}
}

func TestSetsAreBounded(t *testing.T) {
	e := enforcetest.Start(t, open(t, netnstest.New(t)), enforce.Options{})
	var bans []ban.Ban
	for port := 1; port <= 300; port++ {
		bans = append(bans, enforcetest.For(fmt.Sprintf("192.0.2.7 ports %d", port), 0), enforcetest.For(fmt.Sprintf("203.0.113.%d", port%250), 0))
	}
	results, err := e.BanNow(t.Context(), false, bans...)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, r := range results {
		if r.Err != nil {
			failed++
			if r.Ban.Ports == "" {
				t.Errorf("%v, which needs no new set", r.Err)
			}
		}
	}
	if failed != 300-248 { // 256 sets, eight of them for the usual bans
		t.Errorf("%d bans were refused, want 52", failed)
	}
	if s := e.Status(); s.Problem != "" || s.Evicted != 0 {
		t.Errorf("status %+v, want no problem", s)
	}
}
