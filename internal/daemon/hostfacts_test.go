package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/hostwatch"
)

// The administrator whose session is live is banned on the other ports only, of which status and why tell.
func TestLiveSessionKeepsSSHOpen(t *testing.T) {
	h := settle(t, "", map[string]string{"log/a.log": "",
		"rules/counter.conf": fmt.Sprintf(counterRule, "HERE/log/a.log", 3),
		"rules/door.conf":    strings.ReplaceAll(fmt.Sprintf(counterRule, "HERE/log/a.log", 3), "counter", "door") + "ports=2222\n"})
	h.await("the file is followed", func() bool { return h.active() == 1 })
	if err := h.applyAdmins(t.Context(), hostwatch.Admins{Live: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, SSHPorts: "22,2222"}); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i := range 3 {
		fmt.Fprintf(&text, "%s h counter[1]: refused user %d from 203.0.113.7\n", time.Now().Format(time.Stamp), i)
	}
	for i := range 3 {
		fmt.Fprintf(&text, "%s h door[1]: refused user %d from 203.0.113.7\n", time.Now().Format(time.Stamp), i)
	}
	h.write("log/a.log", text.String())
	h.await("both decisions are counted", func() bool { return h.status().Spared.Reasons["an administrator's SSH session"] == 2 })
	bans, err := h.Bans(t.Context())
	if err != nil || len(bans) != 1 || bans[0].Ports != "1-21,23-2221,2223-65535" {
		t.Errorf("bans are %+v, %v; want one of all ports but 22 and 2222", bans, err)
	}
	if n := h.status().Spared.AdminPeers; n != 1 {
		t.Errorf("status counts %d administrators, want 1", n)
	}
	why, err := h.Why(t.Context(), netip.MustParseAddr("203.0.113.7"))
	if err != nil || !strings.Contains(strings.Join(why.Arithmetic, "\n"), "new bans do not cover port 22,2222") {
		t.Errorf("why says %q, %v", why.Arithmetic, err)
	}
	if err := h.applyAdmins(t.Context(), hostwatch.Admins{}); err != nil {
		t.Fatal(err)
	}
	if n := h.status().Spared.AdminPeers; n != 0 {
		t.Errorf("after the session ended status counts %d administrators", n)
	}
}
