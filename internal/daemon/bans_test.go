package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
)

// Thousands of addresses are one request: what cannot be is refused by itself, the rest is done, and all of it can be undone.
func TestBatches(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n"})
	h.await("the list", func() bool { return h.listed() == "198.51.100.0/24" })
	var many []string
	for i := range 2000 {
		many = append(many, fmt.Sprintf("203.0.%d.%d", 113+i/250, i%250+1))
	}
	began := time.Now()
	done, err := h.BanAll(t.Context(), control.Batch{Entries: append([]string{"127.0.0.1", "nonsense"}, many...), For: time.Hour, Author: "alice"})
	t.Logf("2,000 bans in %v", time.Since(began))
	if err != nil || done.Done != len(many) || len(done.Refused) != 2 || done.Refused[0].Entry != "nonsense" || !strings.Contains(done.Refused[1].Reason, "127.0.0.1") {
		t.Fatalf("banned %d, refused %+v, %v", done.Done, done.Refused, err)
	}
	if bans, err := h.Bans(t.Context()); err != nil || len(bans) != len(many) {
		t.Errorf("%d bans in force, %v", len(bans), err)
	}
	if done, err := h.BanAll(t.Context(), control.Batch{Entries: []string{"192.0.2.7"}, For: -1}); err == nil || done.Done != 0 {
		t.Errorf("bans that end before they begin: %+v, %v", done, err)
	}
	began = time.Now()
	done, err = h.UnbanAll(t.Context(), control.Batch{Entries: append([]string{"192.0.2.99", "198.51.100.0/24"}, many...)})
	t.Logf("2,000 bans lifted in %v", time.Since(began))
	if err != nil || done.Done != len(many) || len(done.Refused) != 2 || done.Refused[0].Reason != "not banned" || !strings.HasPrefix(done.Refused[1].Reason, "on the blacklist: remove it there") {
		t.Errorf("lifted %d, refused %+v, %v", done.Done, done.Refused, err)
	}
	if h.banned() != "" || h.listed() != "198.51.100.0/24" {
		t.Errorf("banned are %s, listed %s", h.banned(), h.listed())
	}
}

// A network that covers an IPv6 address is lifted with it, as by bans delete of the address alone.
func TestUnbanAllLiftsCoveringNetworks(t *testing.T) {
	h := settle(t, "", nil)
	h.ban("2001:db8:7:1::/64")
	done, err := h.UnbanAll(t.Context(), control.Batch{Entries: []string{"2001:db8:7:1::7"}})
	if err != nil || done.Done != 1 || h.banned() != "" {
		t.Errorf("%+v, %v; banned are %s", done, err, h.banned())
	}
}

func TestAllowBatches(t *testing.T) {
	h := settle(t, "", nil)
	h.ban("203.0.113.7")
	done, err := h.AllowAll(t.Context(), control.Batch{Entries: []string{"203.0.113.7", "203.0.0.0/8", "203.0.113.16-203.0.113.31"}, Note: "audit", Author: "alice"})
	if err != nil || done.Done != 2 || len(done.Refused) != 1 || !strings.Contains(done.Refused[0].Reason, "use --force") {
		t.Fatalf("%+v, %v", done, err)
	}
	lists, err := h.Lists(t.Context(), "whitelist")
	if err != nil || len(lists.Entries) != 2 || lists.Entries[0].Author != "alice" || lists.Entries[0].Note != "audit" {
		t.Errorf("%+v, %v", lists.Entries, err)
	}
	if h.banned() != "" {
		t.Errorf("allowed, and still banned: %s", h.banned())
	}
	done, err = h.DisallowAll(t.Context(), control.Batch{Entries: []string{"203.0.113.7", "192.0.2.1"}})
	if err != nil || done.Done != 1 || len(done.Refused) != 1 || done.Refused[0].Entry != "192.0.2.1" {
		t.Errorf("%+v, %v", done, err)
	}
}
