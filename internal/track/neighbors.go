package track

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"time"

	"mef/internal/event"
)

// A Neighbor is another source of the same network.
type Neighbor struct {
	Prefix netip.Prefix
	Score  int
	Banned bool // by a verified ban, of a network around it too
}

// The networks in which Neighbors looks: what one customer is given at most, usually.
const (
	neighbors4 = 24
	neighbors6 = 48
)

// Neighbors returns what else is known of the IPv4 /24 or IPv6 /48 around addr, the highest score first, at most limit sources,
// without changing any of it.
func (t *Tracker) Neighbors(addr netip.Addr, at time.Time, limit int) (out []Neighbor) {
	now := max(t.now, at.UnixNano())
	bits := neighbors6
	if addr.Is4() {
		bits = neighbors4
	}
	around, own := keyOf(addr, bits), t.key(addr)
	whole := int(around.bits) / 8 // of the address in a key, which for both lengths is whole bytes
	for i := uint32(1); i <= t.sources.used; i++ {
		s := t.sources.at(i)
		if !s.live() || s.key == own || s.key.bits < around.bits || !bytes.Equal(s.key.addr[:whole], around.addr[:whole]) {
			continue
		}
		aside := *s // looking must not change what later decisions add up
		t.decay(&aside, now)
		banned := t.holds.verified(s.key, now) || t.holds.blocked(s.key, now) > now
		out = append(out, Neighbor{s.key.prefix(), event.Points(float64(aside.score)), banned})
	}
	slices.SortFunc(out, func(a, b Neighbor) int { return cmp.Or(cmp.Compare(b.Score, a.Score), a.Prefix.Compare(b.Prefix)) })
	return out[:min(len(out), limit)]
}
