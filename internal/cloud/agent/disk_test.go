package agent

import (
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
	"mef/internal/control"
	"mef/internal/report"
)

// TestReportsSurviveAKill checks that what waits while the server is away is on the disk soon, without a stop of the host.
func TestReportsSurviveAKill(t *testing.T) {
	c := newCloud(t)
	dir := t.TempDir()
	h := start(t, config(dir))
	if err := h.Join(t.Context(), c.invite("")); err != nil {
		t.Fatal(err)
	}
	c.stop()
	_ = h.Write([]control.Record{banned(attacker), banned("203.0.113.9")})
	killed := t.TempDir()
	h.await("on the disk", func() bool {
		text, err := os.ReadFile(h.path())
		return err == nil && strings.Contains(string(text), attacker) && os.WriteFile(filepath.Join(killed, file), text, 0o600) == nil
	})
	if next := New(config(killed), report.Category, slog.New(slog.DiscardHandler)); len(next.queue) != 2 || next.Status().Waiting != 2 {
		t.Errorf("after a kill %v waits", next.queue)
	}
	c.start()
	h.await("sent", func() bool { return h.Status().Waiting == 0 })
	h.await("removed from the disk", func() bool {
		text, err := os.ReadFile(h.path())
		return err == nil && !strings.Contains(string(text), attacker)
	})
}

// TestEventsSurviveAKill checks that bans for the operator's other hosts reach them although this one is killed while the server is away.
func TestEventsSurviveAKill(t *testing.T) {
	c := newCloud(t)
	two := joinMember(t, c, t.TempDir())
	one := joinMember(t, c, t.TempDir())
	c.stop()
	_ = one.Write([]control.Record{bannedFor(attacker, time.Hour)})
	one.Unbanned(netip.MustParsePrefix("203.0.113.9/32"))
	killed := t.TempDir()
	one.await("on the disk", func() bool {
		text, err := os.ReadFile(one.path())
		return err == nil && strings.Contains(string(text), attacker) && strings.Contains(string(text), "203.0.113.9") &&
			os.WriteFile(filepath.Join(killed, file), text, 0o600) == nil
	})
	if alone := New(config(killed), report.Category, slog.New(slog.DiscardHandler)); len(alone.fleet.queue) != 0 {
		t.Error("a host that no longer shares has kept events")
	}
	// What the first process has in memory is of no use: it leaves.
	if err := one.Leave(); err != nil {
		t.Fatal(err)
	}
	one.stop()
	next := startMember(t, killed)
	c.start()
	two.gets(wire.FleetBan, attacker+"/32")
	two.includes(wire.FleetUnban, "203.0.113.9/32") // it may be carried out twice: see carryOut
	next.await("removed from the disk", func() bool {
		text, err := os.ReadFile(next.path())
		return err == nil && !strings.Contains(string(text), attacker) && !strings.Contains(string(text), "203.0.113.9")
	})
}

// TestListsSurviveARestart checks which lists on the disk are used while the server is away, and that they are written and removed.
func TestListsSurviveARestart(t *testing.T) {
	now := time.Now()
	feedKey := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	other := ed25519.NewKeyFromSeed([]byte("another key of thirty-two bytes."))
	inv := wire.Invitation{Server: "127.0.0.1:1", Feed: feedKey.Public().(ed25519.PublicKey)}
	m, err := json.Marshal(membership{Invitation: inv.String(), Key: other, ID: "x", Lists: []string{"public"}})
	if err != nil {
		t.Fatal(err)
	}
	feed := wire.Feed{List: "public", Seq: 7, At: now.Add(-47 * time.Hour), Add: []netip.Prefix{netip.MustParsePrefix(attacker + "/32"), netip.MustParsePrefix("192.0.2.7/32")},
		Never: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	changed := func(f func(*wire.Feed)) []byte {
		next := feed
		f(&next)
		return next.Encode(feedKey)
	}
	flipped := feed.Encode(feedKey)
	flipped[len(flipped)/2] ^= 4
	for name, tt := range map[string]struct {
		data []byte
		used bool
	}{
		"good":          {feed.Encode(feedKey), true},
		"flipped":       {flipped, false},
		"cut":           {flipped[:20], false},
		"empty":         {[]byte{}, false},
		"of another":    {feed.Encode(other), false},
		"too old":       {changed(func(f *wire.Feed) { f.At = now.Add(-49 * time.Hour) }), false},
		"of the future": {changed(func(f *wire.Feed) { f.At = now.Add(time.Hour) }), false},
		"another list":  {changed(func(f *wire.Feed) { f.List = "own" }), false},
		"changes only":  {changed(func(f *wire.Feed) { f.Since = 6 }), false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), m, 0o600); err != nil {
			t.Fatal(err)
		}
		h := &host{Agent: New(config(dir), report.Category, slog.New(slog.DiscardHandler)), t: t}
		if has(h, attacker) {
			t.Errorf("%s: a list is used that is not there", name)
		}
		if err := os.WriteFile(h.listPath("public"), tt.data, 0o600); err != nil {
			t.Fatal(err)
		}
		var warnings strings.Builder
		h.Agent = New(config(dir), report.Category, slog.New(slog.NewTextHandler(&warnings, nil)))
		if has(h, attacker) != tt.used || has(h, "192.0.2.7") {
			t.Errorf("%s: used: %v", name, has(h, attacker))
		}
		if warned := strings.Contains(warnings.String(), "is not used"); warned == tt.used {
			t.Errorf("%s: the log has %q", name, warnings.String())
		}
		if !tt.used {
			continue
		}
		_ = h.Write([]control.Record{banned("192.0.2.7"), banned("203.0.113.8")})
		if s := h.Status(); s.Waiting != 1 {
			t.Errorf("%d reports wait, want that of the address that can be listed", s.Waiting)
		}
		if err := h.Leave(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(h.listPath("public")); err == nil {
			t.Error("a list stays after the host has left")
		}
	}

	c := newCloud(t)
	h := start(t, config(t.TempDir()))
	if err := h.Join(t.Context(), c.invite(reputation.Own)); err != nil {
		t.Fatal(err)
	}
	h.await("on the disk", func() bool { _, err := os.Stat(h.listPath("public")); return err == nil })
	data, err := os.ReadFile(h.listPath("public"))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := wire.DecodeFeed(data, h.member.server.Feed, nil); err != nil || f.Since != 0 {
		t.Errorf("the list on the disk: %+v, %v", f, err)
	}
	l := list{kept: now, changed: 5, keptSeq: 5}
	if l.stale(now.Add(2 * time.Hour)) {
		t.Error("a list that has not changed is written each hour")
	}
	if !l.stale(now.Add(13 * time.Hour)) {
		t.Error("a list gets too old on the disk")
	}
	if l.changed = 6; !l.stale(now.Add(2*time.Hour)) || l.stale(now.Add(time.Minute)) {
		t.Error("a list that has changed is not written after an hour, or at once")
	}
}

func has(h *host, addr string) bool {
	l, _ := h.List()
	return l.Contains(netip.MustParseAddr(addr))
}
