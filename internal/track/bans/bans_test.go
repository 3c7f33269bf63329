package bans

import (
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Bans that are over are cleared away, however many there were.
func TestActiveIsBounded(t *testing.T) {
	h := NewActive()
	for i := range 100_000 {
		at := start.Add(time.Duration(i) * time.Second)
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)}), 64)
		h.Add(&ban.Ban{Key: ban.Key{Prefix: p}, Rule: "sshd", Start: at, Until: at.Add(time.Minute)}, uint64(i), false, at.UnixNano())
	}
	if n := h.Len(); n > 2048 {
		t.Errorf("%d prefixes are held, 60 are banned", n)
	}
	if n := len(h.members); n > 8192 {
		t.Errorf("%d networks have members", n)
	}
}
