package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/control"
)

func TestListedBansAreNotLifted(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "198.0.0.0/8\n198.51.100.0/24\n"})
	h.await("the list", func() bool { return h.listed() == "198.51.100.0/24" })
	_, err := h.Unban(t.Context(), control.UnbanRequest{Prefix: "198.51.100.7", Covering: true})
	want := "198.51.100.7 is listed in " + h.dir + "/deny/a.conf:2:1: remove it there, or run mefctl allow add"
	if err == nil || err.Error() != want {
		t.Errorf("Unban of what is listed: %v, want %q", err, want)
	}
	h.ban("198.51.100.7")
	lifted, err := h.Unban(t.Context(), control.UnbanRequest{Prefix: "198.51.100.7", Covering: true})
	if err != nil || len(lifted) != 1 || lifted[0].Prefix != "198.51.100.7" || strings.Contains(h.banned(), "198.51.100.7") {
		t.Errorf("lifted %v, %v; want the ban beside the list", lifted, err)
	}
	why, err := h.Why(t.Context(), netip.MustParseAddr("198.51.100.7"))
	if place := "the blacklist, " + h.dir + "/deny/a.conf:2:1: 198.51.100.0/24: all its packets are dropped"; err != nil || !why.Banned ||
		why.Verdict != "BANNED by blacklist" || !slices.Contains(why.Listings, place) {
		t.Errorf("why says %q, %q, %v; want %q", why.Verdict, why.Listings, err, place)
	}
}

func TestClearBans(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n"})
	h.await("the list", func() bool { return h.listed() == "198.51.100.0/24" })
	h.ban("203.0.113.7")
	h.ban("2001:db8:7::/48")
	c, err := h.ClearBans(t.Context(), "alice")
	if err != nil || c.Lifted != 2 || c.Listed != 1 || h.banned() != "" || h.listed() != "198.51.100.0/24" {
		t.Errorf("%+v, %v; %s is banned now", c, err, h.banned())
	}
	if c, err := h.ClearBans(t.Context(), "alice"); err != nil || c.Lifted != 0 {
		t.Errorf("again: %+v, %v", c, err)
	}
}

// Lifting one ban reads none of the others, of which there may be very many.
func TestUnbanReadsNoSet(t *testing.T) {
	h := settle(t, "", nil)
	h.await("the kernel to be read at the start, and again once it is watched", func() bool { return h.filter.Dumps() == 2 })
	h.ban("203.0.113.0/24")
	h.ban("203.0.113.7")
	h.ban("2001:db8:7::/48")
	before := h.filter.Dumps()
	for _, req := range []control.UnbanRequest{{Prefix: "203.0.113.7", Covering: true}, {Prefix: "2001:db8:7::/48"}} {
		if _, err := h.Unban(t.Context(), req); err != nil {
			t.Error(err)
		}
	}
	if n := h.filter.Dumps() - before; n > 0 {
		t.Errorf("all bans were read %d times", n)
	}
	if got := h.banned(); got != "" {
		t.Errorf("%s is still banned", got)
	}
}
