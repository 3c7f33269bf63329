package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/eventlog"
)

// After a crash between kernel and store the same line is read again and decides the same ban, which the kernel has already:
// that is no new ban, but now the reason is known again.
func TestReasonsTellWhyAgain(t *testing.T) {
	k := newReasons(eventlog.New(slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	b := ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, Rule: "sshd", Reason: "5 failures", Until: time.Now().Add(time.Hour)}
	inKernel := enforce.State{Bans: []enforce.Held{{Key: b.Key, Until: b.Until}}}
	if got := k.Show(t.Context(), inKernel); len(got) != 1 || got[0].Rule != "unknown" {
		t.Fatalf("a ban that only the kernel knows: %+v, want one of unknown origin", got)
	}
	k.settle([]enforce.Result{{Ban: b, Until: b.Until}})
	if got := k.Show(t.Context(), inKernel); len(got) != 1 || got[0].Rule != "sshd" || got[0].Reason != b.Reason {
		t.Errorf("after its line was read again: %+v, want the rule and its reason", got)
	}
	if n := k.Total(); n != 0 {
		t.Errorf("%d bans since the start, want none that is new", n)
	}
}

// Of many bans only the latest are in memory; the others are read from the saved state when somebody asks.
func TestReasonsReadOldBansBack(t *testing.T) {
	k := newReasons(eventlog.New(slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	saved := make(map[ban.Key]ban.Ban)
	k.saved = func(_ context.Context, keys []ban.Key) (map[ban.Key]ban.Ban, error) {
		if len(keys) != 1 {
			t.Errorf("asked for %d bans, want the one that is not in memory", len(keys))
		}
		return map[ban.Key]ban.Ban{keys[0]: saved[keys[0]]}, nil
	}
	var inKernel enforce.State
	for i := range keptBans + 1 {
		b := ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)}, Rule: "sshd"}
		saved[b.Key] = b
		k.settle([]enforce.Result{{Ban: b, Changed: true}})
		inKernel.Bans = append(inKernel.Bans, enforce.Held{Key: b.Key})
	}
	k.trim()
	if len(k.latest) != keptBans {
		t.Errorf("%d bans in memory, want %d", len(k.latest), keptBans)
	}
	for _, b := range k.Show(t.Context(), inKernel) {
		if b.Rule != "sshd" {
			t.Errorf("%s: rule %q, want sshd", b.Prefix, b.Rule)
		}
	}
}

// Every ban is in memory until it is handed to the saver, which happens at once when there are many.
func TestReasonsKeepBansUntilTheyAreSaved(t *testing.T) {
	k := newReasons(eventlog.New(slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	k.saved = func(context.Context, []ban.Key) (map[ban.Key]ban.Ban, error) { return nil, nil }
	var inKernel enforce.State
	for i := range 10 * manyBans {
		b := ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)}, Rule: "sshd"}
		k.settle([]enforce.Result{{Ban: b, Changed: true}})
		inKernel.Bans = append(inKernel.Bans, enforce.Held{Key: b.Key})
	}
	inKernel.Bans = inKernel.Bans[len(inKernel.Bans)-manyBans:]
	for _, b := range k.Show(t.Context(), inKernel) {
		if b.Rule != "sshd" {
			t.Fatalf("%s: rule %q, want sshd", b.Prefix, b.Rule)
		}
	}
	if most := keptBans + manyBans; len(k.latest) > most || len(k.order) > most {
		t.Errorf("%d bans in memory, want %d at most", len(k.latest), most)
	}
}

// A ban that must not be made is refused, and is no error: whoever is connected is spared an unverified ban.
func TestRefusedBanIsNoError(t *testing.T) {
	b := ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Class: ban.Unverified}, Rule: "dnsbl/own", Until: time.Now().Add(time.Hour), Reason: "listed"}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"refused": {&enforce.RefusedError{Key: b.Key, Reason: "it has an established connection"}, "refused 192.0.2.7 \"\" it has an established connection"},
		"failed":  {errors.New("no such device"), "error \"\" 192.0.2.7/32 no such device"},
	} {
		rec := notMade(enforce.Result{Ban: b, Err: tt.err})
		got := fmt.Sprintf("%s %s %s %s", rec.Event, cmp.Or(rec.Addr, `""`), cmp.Or(rec.Prefix, `""`), rec.Reason)
		if got != tt.want || rec.Rule != "dnsbl/own" || rec.Class != "unverified" || (rec.Until == nil) != (name == "refused") {
			t.Errorf("%s: %s, %+v; want %s", name, got, rec, tt.want)
		}
	}
}
