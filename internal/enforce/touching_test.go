package enforce_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
)

func TestHeldOver(t *testing.T) {
	e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("192.0.2.7 ports 22", time.Hour),
		enforcetest.For("192.0.0.0/16", time.Hour), enforcetest.For("192.0.2.8", time.Hour), enforcetest.For("2001:db8:7::/48", time.Hour),
		excepting("198.51.100.0/24", time.Hour, "198.51.100.7"))
	if err := e.Grace(t.Context(), time.Minute, netip.MustParseAddr("2001:db8:7::1")); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string][]string{
		"192.0.2.7":       {"192.0.0.0/16", "192.0.2.7", "192.0.2.7 ports 22"},
		"192.0.2.9":       {"192.0.0.0/16"},
		"198.51.100.7":    {"198.51.100.0/24", "except 198.51.100.7"},
		"203.0.113.1":     nil,
		"2001:db8:7::1":   {"2001:db8:7::/48", "grace 2001:db8:7::/64"},
		"2001:db8:7:1::1": {"2001:db8:7::/48"},
	} {
		state, err := e.HeldOver(t.Context(), netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range state.Bans {
			got = append(got, h.Key.String())
		}
		for _, g := range state.Grace {
			got = append(got, "grace "+g.Prefix.String())
		}
		for _, x := range state.Except {
			got = append(got, "except "+x.Prefix.Addr().String())
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("over %s: %q, want %q", addr, got, want)
		}
	}
}

// BenchmarkHeldOver asks for one of 100,000 bans, without what a kernel adds.
func BenchmarkHeldOver(b *testing.B) {
	bans := make([]ban.Ban, 100_000)
	for i := range bans {
		bans[i] = enforcetest.For(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), time.Hour)
	}
	e := enforcetest.Start(b, &enforcetest.Fake{}, enforce.Options{}, bans...)
	for b.Loop() {
		if s, err := e.HeldOver(b.Context(), netip.MustParseAddr("10.0.0.7")); err != nil || len(s.Bans) != 1 {
			b.Fatalf("%d bans, %v", len(s.Bans), err)
		}
	}
}
