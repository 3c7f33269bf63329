package lists

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/prefixset"
)

// Status names a few mistakes of each kind and counts the others.
func TestReportWarn(t *testing.T) {
	r := report{mistakes: []string{"1", "2", "3", "4", "5", "6", "7"}, leftOut: 8, held: 9, leftOutNames: 10}
	var s control.Status
	r.warn(&s, []string{"a.example.org has no address"})
	want := []string{
		"1", "2", "3", "4", "5", "2 more mistakes in lists; mefctl lists shows them",
		"8 entries of blacklist files are ignored; mefctl lists blacklist shows why",
		"9 addresses of blacklist files are left out, because an administrator logged in from there; mefctl lists blacklist shows them",
		"10 DNS names of the allow list are ignored: there are more than 256",
		"a.example.org has no address",
	}
	if !slices.Equal(s.Warnings, want) {
		t.Errorf("warnings\n%s\nwant\n%s", strings.Join(s.Warnings, "\n"), strings.Join(want, "\n"))
	}
	s.Warnings = nil
	new(report).warn(&s, nil)
	if len(s.Warnings) > 0 {
		t.Errorf("nothing is wrong: %q", s.Warnings)
	}
}

// Why an address is never banned names the entry by which the operator allowed it.
func TestReportExplain(t *testing.T) {
	r := &report{allowed: []Item{{Text: "192.0.2.0/24", Source: "a.conf:1:1", Set: prefixset.New(netip.MustParsePrefix("192.0.2.0/24"))}}}
	for _, tt := range []struct {
		report      *report
		addr, never string
		want        string
	}{
		{r, "192.0.2.7", "it is on the allow list", "it is on the allow list (192.0.2.0/24, a.conf:1:1)"},
		{r, "198.51.100.7", "it is this host's own", "it is this host's own"},
		{r, "192.0.2.7", "", ""},
		{nil, "192.0.2.7", "it is on the allow list", "it is on the allow list"},
	} {
		if got := tt.report.explain(netip.MustParseAddr(tt.addr), tt.never); got != tt.want {
			t.Errorf("%s, %q: %q, want %q", tt.addr, tt.never, got, tt.want)
		}
	}
}
