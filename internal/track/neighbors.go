package track

import (
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
	for i := uint32(1); i <= t.sources.used; i++ {
		s := t.sources.at(i)
		if !s.live() || s.key == own || !s.key.in(around) {
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

// A network of an attacker gives itself away by its addresses: each of them tries a little, and nobody logs in from there. The
// sources of an IPv4 /24 or an IPv6 /48 are in one chain, so that those under suspicion can be counted.
type networks struct {
	chains [1 << 16]uint32 // first source of each chain, by hash of the network
}

const (
	// suspectsAt is how many sources of a network must have failed for it to be an attacker's, and as many more for each user who
	// logs in from there. Twice as many leave no doubt.
	suspectsAt = 4
	// suspectFor is how long a source is under suspicion after its latest event.
	suspectFor = fortnight
)

// around returns the network that a source is in: what one customer is given at most, usually. Of single IPv6 addresses it is a /120:
// behind a translator, that stands for an IPv4 /24.
func (k key) around() key {
	switch {
	case k.bits == 128:
		k.addr[15], k.bits = 0, 120
	case k.bits > neighbors6:
		k = k.widen(neighbors6)
	}
	return k
}

func (t *Tracker) chainOf(net key) *uint32 {
	return &t.networks.chains[hash(t.seed, net.addr[:])%uint32(len(t.networks.chains))]
}

// linkNetwork puts a source into the chain of its network.
func (t *Tracker) linkNetwork(i uint32) {
	s := t.sources.at(i)
	first := t.chainOf(s.key.around())
	s.sibling, *first = *first, i
}

func (t *Tracker) unlinkNetwork(i uint32) {
	s := t.sources.at(i)
	at := t.chainOf(s.key.around())
	for *at != i {
		at = &t.sources.at(*at).sibling
	}
	*at = s.sibling
}

// suspectsIn returns how many sources of a network have failed lately, never succeeded and reached no limit of their own, and how many
// attempts then ban an unknown source of it; 0 if they are too few to be an attack.
func (t *Tracker) suspectsIn(net key, now int64) (n, limit int) {
	for i := *t.chainOf(net); i != 0; {
		s := t.sources.at(i)
		if s.flags&suspect != 0 && now-s.seen <= suspectFor && s.key.in(net) {
			n++
		}
		i = s.sibling
	}
	switch least := suspectsAt * (1 + t.logins.within[net]); {
	case n < least:
		return 0, 0
	case n < 2*least:
		return n, networkLimit
	}
	return n, strictLimit
}

// attackingNetworks appends the networks of which sources have failed within a day to all, those that are an attacker's.
func (t *Tracker) attackingNetworks(all []Attack, now int64) []Attack {
	seen := map[key]int{}
	for i := uint32(1); i <= t.sources.used; i++ {
		s := t.sources.at(i)
		if s.live() && s.flags&suspect != 0 && now-s.seen <= day {
			seen[s.key.around()]++
		}
	}
	for net := range seen {
		if n, limit := t.suspectsIn(net, now); n > 0 {
			all = append(all, Attack{Net: net.prefix(), Sources: n, Limit: limit})
		}
	}
	return all
}
