//go:build integration

package nftset_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
)

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
