package daemon

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
)

// After a crash between kernel and store the same line is read again and decides the same ban, which the kernel has already:
// that is no new ban, but now the reason is known again.
func TestBookTellsWhyAgain(t *testing.T) {
	k := newBook(newRecords(slog.New(slog.DiscardHandler), nil))
	b := ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, Rule: "sshd", Reason: "5 failures", Until: time.Now().Add(time.Hour)}
	inKernel := enforce.State{Bans: []enforce.Held{{Key: b.Key, Until: b.Until}}}
	if got := k.show(inKernel); len(got) != 1 || got[0].Rule != "unknown" {
		t.Fatalf("a ban that only the kernel knows: %+v, want one of unknown origin", got)
	}
	k.settle([]enforce.Result{{Ban: b, Until: b.Until}})
	if got := k.show(inKernel); len(got) != 1 || got[0].Rule != "sshd" || got[0].Reason != b.Reason {
		t.Errorf("after its line was read again: %+v, want the rule and its reason", got)
	}
	if n := k.total(); n != 0 {
		t.Errorf("%d bans since the start, want none that is new", n)
	}
}
