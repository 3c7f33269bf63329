package daemon

import "testing"

func TestClearBans(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n"})
	h.await("the listed ban", func() bool { return h.banned() == "198.51.100.0/24" })
	h.ban("203.0.113.7")
	h.ban("2001:db8:7::/48")
	c, err := h.ClearBans(t.Context(), "alice")
	if err != nil || c.Lifted != 2 || c.Listed != 1 || h.banned() != "198.51.100.0/24" {
		t.Errorf("%+v, %v; %s is banned now", c, err, h.banned())
	}
	if c, err := h.ClearBans(t.Context(), "alice"); err != nil || c.Lifted != 0 {
		t.Errorf("again: %+v, %v", c, err)
	}
}
