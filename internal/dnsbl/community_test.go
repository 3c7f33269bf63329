package dnsbl

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/cloud/reputation"
	cloudzone "mef/internal/cloud/zone"
	"mef/internal/conf"
	"mef/internal/control"
)

// TestCommunityZone asks the zone of a community server: its test entries are as they must be, and listings and changes of them are found.
func TestCommunityZone(t *testing.T) {
	x := cloudzone.NewIndex()
	info := cloudzone.NewInfo(1<<1, 90, 3, reputation.HourOf(time.Now())+24)
	x.Set(netip.MustParseAddr("203.0.113.7"), info)
	x.Set(netip.MustParseAddr("2001:db8:1:2::"), info)
	var s *cloudzone.Zone
	var err error
	for range 20 { // the port may be taken over TCP
		if s, err = cloudzone.Open(cloudzone.Options{Zone: "bl.example", Listen: "127.0.0.1:0", Server: "cloud.example.org:8443", Index: x}); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	z := zoneConf()
	z.Name, z.Match, z.Action = conf.CommunityName, []string{"127.0.0.2-99"}, conf.RBLBan
	c, got := start(t, z, s.Addr().String())
	for addr, want := range map[string]string{
		"203.0.113.7":     "127.0.0.2, 127.0.0.4",
		"2001:db8:1:2::7": "127.0.0.2, 127.0.0.4",
		"203.0.113.8":     "",
		"2001:db8:1:3::7": "",
	} {
		if found := look(t, c, got, addr); (want == "") != (found == "") || !strings.Contains(found, want) {
			t.Errorf("%s: %q, want %q", addr, found, want)
		}
	}
	a, ok := c.CheckList(t.Context(), conf.CommunityName, netip.MustParseAddr("203.0.113.7"))
	if !ok || !a.Listed || a.Action != "ban" || a.Server != s.Addr().String() || !strings.Contains(a.Reason, "cat=ssh") {
		t.Errorf("%+v", a)
	}
	x.Set(netip.MustParseAddr("203.0.113.7"), 0)
	if a, _ := c.CheckList(t.Context(), conf.CommunityName, netip.MustParseAddr("203.0.113.7")); a.Listed || a.Problem != "" {
		t.Errorf("after its removal: %+v", a)
	}
	if _, ok := c.CheckList(t.Context(), "other", netip.MustParseAddr("203.0.113.7")); ok {
		t.Error("an unknown list answers")
	}
}

// TestCommunityPrefix checks that a list that is no zone is asked once about each address, and that a server that is away bans nobody.
func TestCommunityPrefix(t *testing.T) {
	z := zoneConf()
	z.Name, z.Zone, z.Prefix = conf.CommunityName, "community server", true
	c := New(conf.RBL{Zones: []conf.RBLZone{z}}, slog.New(slog.DiscardHandler))
	var asked atomic.Int64
	c.Community = func(_ context.Context, addr netip.Addr) (bool, error) {
		asked.Add(1)
		switch addr.String() {
		case "203.0.113.7":
			return true, nil
		case "203.0.113.9":
			return true, errors.New("the server is away")
		}
		return false, nil
	}
	got := new(reports)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, got.add) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for _, addr := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.9"} {
		for range 3 {
			c.Ask(netip.MustParseAddr(addr), true)
		}
	}
	s := wait(t, c, "asked", func(s control.DNSBLList) bool { return s.Queries == 3 && s.Listed == 1 && s.Failed == 1 })
	if !s.Usable || s.Problem != "" || len(s.Servers) > 0 {
		t.Errorf("%+v", s)
	}
	for end := time.Now().Add(patience); len(got.all()) == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if all := got.all(); len(all) != 1 || all[0].Addr.String() != "203.0.113.7" || !(*all[0].Listings)[0].Ban || asked.Load() != 3 {
		t.Errorf("%d reports, asked %d times", len(all), asked.Load())
	}
}
