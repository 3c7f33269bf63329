package daemon

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/enforce/enforcetest"
	"mef/internal/owner"
)

var errKernel = errors.New("no buffer space available")

// failWhile has the kernel fail while something is asked for that must not get lost, until status says that it is not done.
func (h *house) failWhile(what string, act func()) {
	h.Helper()
	h.filter.Fail(errKernel)
	act()
	h.await("status says that it is not done", func() bool {
		return strings.Contains(h.due.Text(), what)
	})
	h.filter.Fail(nil)
}

// What the kernel refuses at the moment at which it is due comes to hold once the kernel works again, and status says until then that
// it does not.
func TestWhatFailedIsDoneLater(t *testing.T) {
	t.Run("a ban lifted by hand that the blacklist asks for by then", func(t *testing.T) {
		h := settle(t, "", nil)
		h.ban("192.0.2.7")
		h.filter.FailWrites(errKernel)
		if _, err := h.Unban(t.Context(), control.UnbanRequest{Prefix: "192.0.2.7"}); !errors.Is(err, errKernel) {
			t.Errorf("lifting while the kernel fails: %v", err)
		}
		h.write("deny/a.conf", "192.0.2.7\n")
		if _, err := h.Reload(t.Context(), "alice"); err != nil {
			t.Error(err)
		}
		h.filter.FailWrites(nil)
		h.await("all that failed is done", func() bool { return h.due.Text() == "" })
		if banned, listed := h.banned(), h.listed(); banned != "" || listed != "192.0.2.7" {
			t.Errorf("banned are %q, listed %q", banned, listed)
		}
	})
	t.Run("the bans of a lapsed window", func(t *testing.T) {
		h := settle(t, "", nil)
		h.runFor(2 * confirm.Late)
		h.ban("192.0.2.1")
		h.arm(time.Hour)
		h.ban("192.0.2.7")
		h.failWhile(string(liftLapsed), h.lapse)
		h.await("the ban to be lifted", func() bool { return h.banned() == "192.0.2.1" })
		h.await("status to know", func() bool {
			s := h.status()
			return strings.Contains(strings.Join(s.Missing, "\n"), "its bans were lifted") && !strings.Contains(strings.Join(s.Missing, "\n"), "not done yet")
		})
		if w, err := confirm.Read(filepath.Join(h.dir, "state", windowFile), time.Now()); err != nil || !w.Lifted {
			t.Errorf("the file has %+v, %v; want that bans are lifted", w, err)
		}
	})
	t.Run("a blacklist entry that is gone", func(t *testing.T) {
		h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.7\n198.51.100.8\n"})
		h.await("the list", func() bool { return h.listed() == "198.51.100.7 198.51.100.8" })
		h.failWhile(string(applyLists), func() { h.write("deny/a.conf", "198.51.100.7\n") })
		h.await("the address to be let through", func() bool { return h.listed() == "198.51.100.7" })
	})
	t.Run("an allow entry over a ban", func(t *testing.T) {
		h := settle(t, "", nil)
		h.ban("192.0.2.7")
		h.failWhile(string(applyLists), func() {
			if _, err := h.Allow(t.Context(), control.AllowRequest{Entry: "192.0.2.7"}); err == nil {
				t.Error("allow add succeeded while the kernel failed")
			}
		})
		h.await("the ban to be lifted", func() bool { return h.banned() == "" && h.allows("192.0.2.7") })
	})
	for name, fail := range map[string]func(*enforcetest.Fake, error){"writes": (*enforcetest.Fake).FailWrites, "reads it back": (*enforcetest.Fake).FailReads} {
		for how, lift := range map[string]func(*house) error{
			"one": func(h *house) error {
				_, err := h.Unban(t.Context(), control.UnbanRequest{Prefix: "192.0.2.7"})
				return err
			},
			"many": func(h *house) error {
				_, err := h.UnbanAll(t.Context(), control.Batch{Entries: []string{"192.0.2.7"}})
				return err
			},
			"all": func(h *house) error { _, err := h.ClearBans(t.Context(), "alice"); return err },
		} {
			t.Run("a ban lifted by hand, "+how+", while the kernel "+name, func(t *testing.T) {
				h := settle(t, "", nil)
				h.ban("192.0.2.7")
				fail(h.filter, errKernel)
				if err := lift(h); !errors.Is(err, errKernel) || !strings.Contains(err.Error(), "mefdaemon tries again") {
					t.Errorf("lifting while the kernel fails: %v", err)
				}
				if !strings.Contains(h.due.Text(), liftAsked) {
					t.Error("status does not say that it is not done")
				}
				fail(h.filter, nil)
				h.await("the ban to be lifted", func() bool { return h.banned() == "" && h.due.Text() == "" })
				h.end()
				h.filter.Lose("")
				h.start()
				if got := h.banned(); got != "" {
					t.Errorf("after a restart %s is banned again", got)
				}
			})
		}
	}
	t.Run("a ban of an earlier run", func(t *testing.T) {
		h := settle(t, "", nil)
		h.ban("192.0.2.7")
		h.failWhile(string(liftEarlier), func() {
			err := owner.Act(t.Context(), h.config, func(ctx context.Context, c *configurator) error {
				c.gone = []ban.Key{{Prefix: netip.MustParsePrefix("192.0.2.7/32")}}
				return c.fulfil(ctx, liftEarlier)
			})
			if !errors.Is(err, errKernel) {
				t.Errorf("lifting while the kernel fails: %v", err)
			}
		})
		h.await("the ban to be lifted", func() bool { return h.banned() == "" })
	})
}
