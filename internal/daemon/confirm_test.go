package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/prefixset"
)

func (h *house) ban(addr string) {
	h.Helper()
	if _, err := h.Ban(h.Context(), control.BanRequest{Prefix: addr, For: time.Hour}); err != nil {
		h.Fatal(err)
	}
}

// banned returns the prefixes that the packet filter bans.
func (h *house) banned() string {
	h.Helper()
	bans, err := h.Bans(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	var all []string
	for _, b := range bans {
		all = append(all, b.Prefix)
	}
	return strings.Join(all, " ")
}

// listed returns the networks of the blacklist that the packet filter drops.
func (h *house) listed() string {
	h.Helper()
	list := h.filter.List(lists.BlockList)
	var ranges []prefixset.Range
	for _, v6 := range []bool{false, true} {
		for a := range list.Hosts(v6) {
			ranges = append(ranges, prefixset.Range{First: a, Last: a})
		}
		ranges = slices.AppendSeq(ranges, list.Nets(v6))
	}
	var all []string
	for _, p := range prefixset.FromRanges(ranges).Prefixes() {
		all = append(all, ban.Key{Prefix: p}.String())
	}
	return strings.Join(all, " ")
}

func (h *house) arm(d time.Duration) {
	h.Helper()
	if _, err := h.Arm(h.Context(), control.ArmRequest{For: d, Author: "alice"}); err != nil {
		h.Fatal(err)
	}
}

// lapse ends the trial now, as its end would.
func (h *house) lapse() {
	h.Helper()
	err := owner.Act(h.Context(), h.config, func(ctx context.Context, c *configurator) error {
		c.expire(ctx)
		return nil
	})
	if err != nil {
		h.Fatal(err)
	}
}

// runFor makes the daemon, which is not armed, one that has been running for a while.
func (h *house) runFor(d time.Duration) {
	h.Helper()
	err := owner.Do(h.Context(), h.config, func(c *configurator) {
		c.window = confirm.NewKeeper(filepath.Join(h.dir, "state", windowFile), h.since.Add(-d))
	})
	if err != nil {
		h.Fatal(err)
	}
}

func TestArmedAndConfirmed(t *testing.T) {
	h := settle(t, "", nil)
	h.arm(time.Hour)
	s := h.status()
	if s.Mode != "enforce" || s.Armed == nil || s.Armed.Lapsed || len(s.Warnings) != 1 || !strings.HasPrefix(s.Warnings[0], "on trial: run mefctl confirm in a new SSH session within 1h0m0s") {
		t.Errorf("armed, status says mode %s, armed %+v, warnings %q", s.Mode, s.Armed, s.Warnings)
	}
	h.ban("192.0.2.7")
	if err := h.Confirm(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if s := h.status(); s.Armed != nil || s.Mode != "enforce" || len(s.Warnings) > 0 {
		t.Errorf("confirmed, status says mode %s, armed %+v, warnings %q", s.Mode, s.Armed, s.Warnings)
	}
	if got := h.banned(); got != "192.0.2.7" {
		t.Errorf("banned after confirmation: %q", got)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "state", windowFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a restart would be armed again: %v", err)
	}
	refused := new(control.Error)
	if err := h.Confirm(t.Context(), "alice"); !errors.As(err, &refused) {
		t.Errorf("confirming again: %v, want a refusal", err)
	}
}

// Bans that began while nobody had confirmed are lifted, and those from before stay. The blacklist is not in force either, for the operator may
// have listed himself; it comes back when somebody confirms late.
func TestArmedAndForgotten(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n"})
	h.ban("192.0.2.1")
	h.runFor(2 * confirm.Late)
	h.arm(time.Hour)
	h.ban("192.0.2.7")
	h.ban("2001:db8::7")
	h.lapse()
	h.await("the trial to lapse", func() bool { return h.status().Mode == "observe" && h.banned() == "192.0.2.1" && h.listed() == "" })
	s := h.status()
	if s.Protected || s.Armed == nil || !s.Armed.Lapsed || !strings.Contains(strings.Join(s.Missing, "\n"), "not confirmed within 1h") {
		t.Errorf("status says protected %v, armed %+v, missing %q", s.Protected, s.Armed, s.Missing)
	}
	if strings.Contains(strings.Join(s.Missing, "\n"), "set mode=enforce") {
		t.Errorf("mef.conf is blamed: %q", s.Missing)
	}
	if _, err := h.Ban(t.Context(), control.BanRequest{Prefix: "192.0.2.9"}); err == nil || !strings.Contains(err.Error(), "mefctl confirm") {
		t.Errorf("a ban by hand: %v, want to be told of mefctl confirm", err)
	}
	if _, err := h.Reload(t.Context(), "alice"); err != nil || h.status().Mode != "observe" {
		t.Errorf("after a reload (%v) the mode is %s", err, h.status().Mode)
	}
	if err := h.Confirm(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	h.ban("192.0.2.9")
	if got := h.banned() + ", " + h.listed(); h.status().Mode != "enforce" || got != "192.0.2.1 192.0.2.9, 198.51.100.0/24" {
		t.Errorf("confirmed late: mode %s, banned %q", h.status().Mode, got)
	}
}

// Within its first minute the daemon is armed as if it had started so: what it banned at once is lifted too, the blacklist
// included, for the operator may have listed himself.
func TestArmedRightAfterTheStart(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n"})
	h.ban("192.0.2.1")
	h.arm(time.Hour)
	h.lapse()
	h.await("the trial to lapse", func() bool { return h.status().Mode == "observe" && h.banned() == "" && h.listed() == "" })
	if err := h.Confirm(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	h.await("the blacklist to be back", func() bool { return h.listed() == "198.51.100.0/24" })
}

func TestTrialOutlivesTheDaemon(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		file   string
		mode   string
		banned string
	}{
		"still running":    {windowText(t, confirm.Window{Since: now, Until: now.Add(time.Hour), For: time.Hour}), "enforce", "198.51.100.0/24"},
		"lapsed meanwhile": {windowText(t, confirm.Window{Since: now.Add(-time.Hour), Until: now.Add(-time.Minute), For: time.Hour}), "observe", ""},
		"lapsed before":    {windowText(t, confirm.Window{Since: now, Until: now.Add(time.Hour), For: time.Hour, Lapsed: true}), "observe", ""},
		"cannot be read":   {"{", "observe", ""},
		"of another time":  {`{"since":"2126-01-01T00:00:00Z","until":"2126-01-01T00:10:00Z","for_ns":1000000000}`, "observe", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n", "state/" + windowFile: tt.file})
			h.await("mode "+tt.mode, func() bool { return h.status().Mode == tt.mode })
			h.await("the list "+tt.banned, func() bool { return h.listed() == tt.banned })
			if err := h.Confirm(t.Context(), "alice"); err != nil {
				t.Fatal(err)
			}
			h.await("the blacklist to be in force", func() bool { return h.listed() == "198.51.100.0/24" })
		})
	}
}

// A daemon that is killed, or whose disk is full, leaves bans behind of which no record tells. They are lifted with the others.
func TestTrialLiftsBansWithoutARecord(t *testing.T) {
	for name, left := range map[string]time.Duration{"lapses later": time.Second, "lapsed meanwhile": -time.Minute} {
		t.Run(name, func(t *testing.T) {
			h := settle(t, "", nil)
			h.arm(time.Hour)
			h.ban("192.0.2.7")
			h.end()
			if err := os.Remove(filepath.Join(h.dir, "state", "mef.db")); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			h.write("state/"+windowFile, windowText(t, confirm.Window{Since: now.Add(-time.Hour), Until: now.Add(left), For: time.Hour}))
			h.start()
			h.await("the trial to lapse", func() bool { return h.status().Mode == "observe" })
			h.await("the ban to be lifted", func() bool { return h.banned() == "" })
		})
	}
}

func windowText(t *testing.T, tr confirm.Window) string {
	t.Helper()
	text, err := json.Marshal(tr)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestArmRefused(t *testing.T) {
	h := settle(t, "mode=observe\n", nil)
	for name, req := range map[string]control.ArmRequest{
		"only watching": {}, "too short": {For: time.Millisecond}, "negative": {For: -1}, "too long": {For: 25 * time.Hour},
	} {
		if _, err := h.Arm(t.Context(), req); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	if _, err := os.Stat(filepath.Join(h.dir, "state", windowFile)); err == nil {
		t.Error("a refused trial was noted down")
	}
}

func TestWhyOfForcedBanOfCDN(t *testing.T) {
	h := settle(t, "proxies=192.0.2.80\n", map[string]string{"allow/a.conf": "; ours\n203.0.113.0/24 # the office\n"})
	why := func(addr string) control.Why {
		t.Helper()
		w, err := h.Why(t.Context(), netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	for addr, kind := range map[string]string{"104.16.0.1": "Cloudflare", "192.0.2.80": "a proxy"} {
		if w := why(addr); w.Banned || !strings.Contains(strings.Join(w.Arithmetic, "\n"), "it is "+kind) {
			t.Errorf("%s: banned %v, %q; want that its web ports stay open, for it is %s", addr, w.Banned, w.Arithmetic, kind)
		}
	}
	if w := why("203.0.113.9"); !strings.Contains(w.Allowed, "an entry of the allow list (203.0.113.0/24, ") || !strings.Contains(w.Allowed, "a.conf:2") {
		t.Errorf("an allowed address: %q, want the entry and its place", w.Allowed)
	}
	if _, err := h.Ban(t.Context(), control.BanRequest{Prefix: "104.16.0.1", Force: true}); err != nil {
		t.Fatal(err)
	}
	if w := why("104.16.0.1"); !w.Banned || !strings.HasPrefix(w.Verdict, "BANNED by") {
		t.Errorf("an operator insisted, and why says banned %v: %q", w.Banned, w.Verdict)
	}
}

// Since when bans are only said is remembered, whatever makes them so, and forgotten when they are made.
func TestWatchingSince(t *testing.T) {
	h := settle(t, "mode=observe\n", nil)
	since := func() (at time.Time) {
		if s := h.status(); s.WatchingSince != nil {
			at = *s.WatchingSince
		}
		return at
	}
	h.await("the time to be noted", func() bool { return !since().IsZero() })
	first := since()
	h.end()
	h.start()
	if again := since(); !again.Equal(first) {
		t.Errorf("started again, bans are only said since %v, before since %v", again, first)
	}
	reload := func() {
		t.Helper()
		if _, err := h.Reload(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
	}
	h.configure("")
	if reload(); !since().IsZero() {
		t.Errorf("mode=enforce, and bans are only said since %v", since())
	}
	h.arm(time.Hour)
	h.lapse()
	h.await("the trial to lapse", func() bool { return !since().IsZero() })
	lapsed := since()
	if !lapsed.After(first) {
		t.Errorf("nobody confirmed, and bans are only said since %v", lapsed)
	}
	h.configure("mode=observe\n")
	if reload(); !since().Equal(lapsed) {
		t.Errorf("for one reason after the other, bans are only said since %v, not %v", since(), lapsed)
	}
	h.end()
	h.configure("")
	h.start()
	if err := h.Confirm(t.Context(), "alice"); err != nil || !since().IsZero() {
		t.Errorf("confirmed (%v), and bans are only said since %v", err, since())
	}
}

// What mefctl off lifted does not come back when the daemon is started again; lists do.
func TestOffIsForGood(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.7\n"})
	h.ban("192.0.2.7")
	h.Flush(t.Context())
	h.end()
	if err := confirm.SetOff(h.stateIn); err != nil {
		t.Fatal(err)
	}
	h.filter.Lose("mefctl")
	h.start()
	h.await("the list", func() bool { return h.listed() == "198.51.100.7" && h.banned() == "" })
	h.await("off to be forgotten", func() bool {
		at, err := confirm.Off(h.stateIn)
		return err == nil && at.IsZero()
	})
	h.ban("192.0.2.8")
	h.Flush(t.Context())
	h.end()
	h.start()
	h.await("what was banned since", func() bool { return h.banned() == "192.0.2.8" && h.listed() == "198.51.100.7" })
}
