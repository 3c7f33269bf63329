package kernel

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
)

// A packet filter that cannot be used when the daemon starts is used as soon as it can, with the bans, the lists and the settings that were
// asked for meanwhile. Opening it is not tried for every ban.
func TestPacketFilterComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var usable atomic.Bool
		var tried atomic.Int32
		denied := func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "nftables is not available: permission denied")
		}
		var opened atomic.Pointer[Settings]
		kinds := []backend{{name: "nftables", open: func(_ int, _ *slog.Logger, s enforce.Settings) (enforce.Backend, error) {
			tried.Add(1)
			if !usable.Load() {
				return nil, fs.ErrPermission
			}
			opened.Store(&s)
			return new(enforcetest.Fake), nil
		}}, {name: "iptables", open: func(int, *slog.Logger, enforce.Settings) (enforce.Backend, error) {
			t.Error("another packet filter was tried although the first one lacks a capability")
			return nil, errors.New("not asked for")
		}}}
		log := slog.New(slog.DiscardHandler)
		host := newLate(kinds, conf.Automatic, log, Settings{})
		k := Over(host, log, enforce.Options{})
		k.host = host
		go k.Run(t.Context())
		for range 100 {
			results, err := k.BanNow(t.Context(), false, enforcetest.For("192.0.2.7", 100*time.Hour))
			if err != nil || !denied(results[0].Err) {
				t.Fatalf("ban: %v, %v; want an error of permission", results, err)
			}
		}
		if n := tried.Load(); n > 1 {
			t.Errorf("opened %d times for 100 bans", n)
		}
		listed := make(chan error)
		go func() {
			listed <- k.SetLists(t.Context(), []enforce.List{{Name: "feed-x", Addrs: enforcetest.Packed("203.0.113.0/24"), Both: true}})
		}()
		if err := <-listed; !denied(err) {
			t.Errorf("set lists: %v, want an error of permission", err)
		}
		if err := k.Configure(t.Context(), Settings{Scan: conf.Scan{Enabled: true}}); !denied(err) {
			t.Errorf("configure: %v, want an error of permission", err)
		}
		r, err := k.Report(t.Context())
		if err != nil || r.Present || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "nftables is not available") || k.Reason() != "" {
			t.Errorf("report %+v, %v; want why there is no packet filter", r, err)
		}
		if _, err := k.HeldOver(t.Context(), netip.MustParseAddr("192.0.2.7")); !denied(err) {
			t.Errorf("bans of an address: %v, want an error of permission", err)
		}
		usable.Store(true)
		time.Sleep(time.Minute)
		state, err := k.Held(t.Context())
		if err != nil || len(state.Bans) != 1 || state.Bans[0].Prefix.String() != "192.0.2.7/32" {
			t.Errorf("the kernel holds %v (%v), want the ban", state.Bans, err)
		}
		if lists, err := k.Lists(t.Context()); err != nil || len(lists) != 1 || lists[0].Name != "feed-x" {
			t.Errorf("the kernel holds the lists %v (%v), want the list", lists, err)
		}
		if s := opened.Load(); s == nil || !s.Scan.Enabled || k.Reason() != "nftables is available" || !k.Status().Ready {
			t.Errorf("opened with %+v because %q, ready %v; want the latest settings", s, k.Reason(), k.Status().Ready)
		}
	})
}
