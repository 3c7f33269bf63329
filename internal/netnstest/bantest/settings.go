//go:build linux

package bantest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
)

// The settings for logging change while a banned address sends all the time.
func (f Filter) logSettingsChangeWithoutAGap(t *testing.T) {
	w := f.NewWorld(t)
	knocker := w.Knock(t, "192.0.2.7", "192.0.2.1:53")
	enforcetest.Bans(t, w.E, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("2001:db8:7::/64", 0))
	last := knocker.Silent(t)
	packets := uint64(0)
	for i := range 10 {
		drops := conf.DropLog{Enabled: i%2 == 0, Prefix: fmt.Sprintf("mef%d_", i), Level: "info", Rate: 1, Burst: 1}
		if err := w.E.Renew(t.Context(), func() error { return w.B.Configure(enforce.Settings{Log: drops}) }); err != nil {
			t.Fatal(err)
		}
		rules := run(t, w.Server, f.Rules)
		if got := strings.Contains(rules, `"`+drops.Prefix+`BAN "`); got != drops.Enabled {
			t.Errorf("with %+v the rules are\n%s", drops, rules)
		}
		if got := enforcetest.Lists(t, w.E); got != "192.0.2.7 for 1h0m0s\n2001:db8:7::/64\n" {
			t.Errorf("with %+v the bans are\n%s", drops, got)
		}
		s, err := w.E.Held(t.Context(), enforcetest.Key("192.0.2.7"))
		if err != nil || len(s.Bans) != 1 || s.Bans[0].Packets < packets {
			t.Fatalf("bans %v (%v), want one that had counted %d packets before", s.Bans, err, packets)
		}
		packets = s.Bans[0].Packets
	}
	if again := knocker.Silent(t); again != last || packets == 0 {
		t.Errorf("answered at %v, first silent at %v; %d packets were dropped", again, last, packets)
	}
	if s := w.E.Status(); s.Repairs != 0 || s.Problem != "" {
		t.Errorf("status %+v, want no repair of what we did ourselves", s)
	}
}

// Lost connections are opened again: bans hold, new bans are applied, and changes by others are noticed.
func (f Filter) vanishedConnectionsAreOpenedAgain(t *testing.T) {
	ns := netnstest.New(t)
	b := f.open(t, ns)
	e := enforcetest.Start(t, b, enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0))
	watched := func() {
		t.Helper()
		if err := netnstest.Poll(func() error { return f.Watched(t, ns) }); err != nil {
			t.Fatal(err)
		}
	}
	watched()
	holds := func(what, want string) {
		t.Helper()
		if err := netnstest.Poll(func() error {
			s, err := e.Held(t.Context())
			if err == nil && (len(s.Bans) != strings.Count(want, " ")+1 || e.Status().Problem != "") {
				err = fmt.Errorf("bans %v, status %+v; want %s", s.Bans, e.Status(), want)
			}
			return err
		}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.Sever(b)
	holds("after a look", "192.0.2.7")
	f.Sever(b)
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.8", 0))
	holds("after a ban", "192.0.2.7 192.0.2.8")
	f.Sever(b)
	if err := e.Unban(t.Context(), 0, enforcetest.Key("192.0.2.8")); err != nil {
		t.Error(err)
	}
	holds("after an unban", "192.0.2.7")
	watched()
	run(t, ns, f.Flush)
	holds("after a flush", "192.0.2.7")
}
