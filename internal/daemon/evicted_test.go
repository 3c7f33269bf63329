package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce/enforcetest"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// guess writes n refusals of an address to a.log.
func (h *house) guess(addr string, n int) {
	h.Helper()
	f, err := os.OpenFile(h.dir+"/log/a.log", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.Fatal(err)
	}
	for i := range n {
		_, writeErr := fmt.Fprintf(f, "%s h counter[1]: refused user %d from %s\n", time.Now().Format(time.Stamp), i, addr)
		err = errors.Join(err, writeErr)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		h.Fatal(err)
	}
}

// A ban that the kernel refuses, or that gives way to another, covers nothing: whoever goes on is banned for it.
func TestWhoeverEscapedABanIsBannedWhenHeGoesOn(t *testing.T) {
	const from = "203.0.113.7"
	for name, escape := range map[string]func(*house){
		"refused by the kernel": func(h *house) {
			h.filter.Refuse(func(k ban.Key, _ int) error {
				if k.Prefix.Addr().String() == from {
					return syscall.EINVAL
				}
				return nil
			})
			h.guess(from, 3)
		},
		"no room in the kernel": func(h *house) {
			h.guess(from, 3)
			h.await("the first ban", func() bool { return h.banned() == from })
			h.filter.Refuse(func(_ ban.Key, held int) error {
				if held > 0 {
					return syscall.ENOMEM
				}
				return nil
			})
			h.ban("203.0.113.8") // without end
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := settle(t, "", map[string]string{"log/a.log": "", "rules/counter.conf": fmt.Sprintf(counterRule, "HERE/log/a.log", 3)})
			h.await("the file is followed", func() bool { return h.active() == 1 })
			records := h.everything()
			escape(h)
			for end := time.After(patience); ; {
				select {
				case rec := <-records:
					if rec.Event != "error" || !strings.HasPrefix(rec.Reason, "ban "+from+" is not in force") {
						continue
					}
				case <-end:
					t.Fatal("no record that the ban is not in force")
				}
				break
			}
			h.filter.Refuse(nil)
			h.await("the escaped ban is gone", func() bool { return !strings.Contains(h.banned(), from) })
			h.guess(from, 3)
			h.await("another ban", func() bool { return strings.Contains(h.banned(), from) })
			why, err := h.Why(t.Context(), netip.MustParseAddr(from))
			if err != nil || len(why.Bans) != 1 || why.Bans[0].Count != 1 {
				t.Errorf("why: %+v, %v; want one ban, the first", why.Bans, err)
			}
			if n := h.status().Kernel.Evicted; name == "no room in the kernel" && n != 1 {
				t.Errorf("status tells of %d bans that ended early, want 1", n)
			}
			if err := errors.Join(owner.Do(t.Context(), h.Engine, (*pipeline.State).Save), h.Saver.Flush(t.Context())); err != nil {
				t.Fatal(err)
			}
			h.end()
			h.filter = new(enforcetest.Fake)
			h.start()
			if got := h.banned(); !strings.Contains(got, from) {
				t.Errorf("after a reboot %q is banned, want %s", got, from)
			}
		})
	}
}

// Seventy addresses of one network attack, and there is no room for the bans of others: the network is banned whole, and its
// addresses are the first to give way.
func TestACrowdedNetworkIsBannedWholeWhenThereIsNoRoom(t *testing.T) {
	const max = 100
	h := &house{T: t, maxBans: max}
	h.settle("", map[string]string{"log/a.log": "", "rules/counter.conf": fmt.Sprintf(counterRule, "HERE/log/a.log", 3)})
	h.await("the file is followed", func() bool { return h.active() == 1 })
	total := func(n int) func() bool { return func() bool { return h.status().Bans.Total == n } }
	for i := range 70 {
		h.guess(fmt.Sprintf("203.0.113.%d", i), 3)
	}
	h.await("seventy bans", total(70))
	for i := range 30 {
		h.guess(fmt.Sprintf("198.51.%d.7", i), 3)
	}
	h.await("as many bans as there may be", total(max))
	if strings.Contains(h.banned(), "203.0.113.0/24") {
		t.Error("a network is banned whole while there is room")
	}
	h.guess("192.0.2.7", 3)
	h.await("the ban of the network", func() bool { return strings.Contains(h.banned(), "203.0.113.0/24") })
	for i := range 20 {
		h.guess(fmt.Sprintf("198.51.%d.9", i), 3)
	}
	h.await("twenty more bans", func() bool {
		banned := h.banned()
		for i := range 20 {
			if !strings.Contains(banned, fmt.Sprintf("198.51.%d.9", i)) {
				return false
			}
		}
		return true
	})
	for i := range 30 {
		if from := fmt.Sprintf("198.51.%d.7", i); !strings.Contains(h.banned(), from) {
			t.Errorf("the ban of %s, which is all alone, gave way", from)
		}
	}
	why, err := h.Why(t.Context(), netip.MustParseAddr("203.0.113.200"))
	if err != nil || !why.Banned || why.Bans[0].Rule != ban.ByCrowd || !strings.Contains(why.Bans[0].Reason, " of its addresses are banned, and there is no room") {
		t.Errorf("why of an address that did nothing: %+v, %v", why.Bans, err)
	}
	if s := h.status(); s.Kernel.Evicted == 0 || !strings.Contains(strings.Join(s.Warnings, "; "), "too many bans") {
		t.Errorf("status tells of %d bans that ended early, warnings %q", s.Kernel.Evicted, s.Warnings)
	}
}
