package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/cloud/reputation"
)

// TestNeverListed checks that a network that the operator never lists leaves all lists, that reports of it are dropped with a reason, that hosts get it
// with their lists, and that it survives a restart and a backup.
func TestNeverListed(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	h := join(t, s, "")
	other, six := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::5")
	h.mustReport(attacker, other, six)
	before := h.feed("own", "")
	change := func(text string, remove bool) error {
		t.Helper()
		p, err := parseNever(text)
		if err != nil {
			return err
		}
		out, err := s.do(t.Context(), entry{Never: &neverChange{Never{Prefix: p, Note: "a partner"}, remove}})
		if err != nil {
			t.Fatal(err)
		}
		return out.err
	}
	for _, p := range []string{"203.0.113.0/24", "2001:db8::7"} {
		if err := change(p, false); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		f := h.feed("own", "")
		if has(f, attacker) || has(f, six) || !has(f, other) || f.Seq < before.Seq {
			t.Errorf("%s, the list is %+v", when, f)
		}
		if want := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/64")}; !slices.Equal(f.Never, want) {
			t.Errorf("%s, hosts get %v as never listed, want %v", when, f.Never, want)
		}
		status, r := h.report(attacker, other)
		if status != http.StatusAccepted || r.Accepted != 1 || len(r.Dropped) != 1 || r.Dropped[0].Index != 0 || r.Dropped[0].Reason != reputation.ErrNever.Error() {
			t.Errorf("%s, a report is answered by %d %+v", when, status, r)
		}
	}
	check("at once")
	backup, err := s.Backup()
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	restored := t.TempDir()
	if err := Restore(restored, backup, false); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, restored} {
		s = start(t, dir)
		h.inv.Server = s.Addr().String()
		check("after a restart")
		if dir != restored {
			s.stop()
		}
	}
	if err := change("203.0.113.0/24", true); err != nil {
		t.Fatal(err)
	}
	h.mustReport(attacker)
	if f := h.feed("own", ""); !has(f, attacker) || len(f.Never) != 1 {
		t.Errorf("after the removal: %+v", f)
	}
	for text, says := range map[string]string{"203.0.113.0/24": "never list", "x": "write it like", "10.0.0.0/7": "too wide", "2000::/3": "too wide", "": "write it like"} {
		if err := change(text, true); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("removal of %q: %v", text, err)
		}
	}
}

// TestRootServersAreNeverListed checks that no neighbour of a root server has its /64 listed.
func TestRootServersAreNeverListed(t *testing.T) {
	for _, text := range []string{"2001:500:2f::f", "2001:500:2f::1", "198.41.0.4"} {
		if !never()(netip.MustParseAddr(text)) {
			t.Errorf("%s can be listed", text)
		}
	}
}
