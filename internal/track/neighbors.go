package track

import (
	"cmp"
	"net/netip"
	"time"

	"mef/internal/event"
	"mef/internal/ordered"
	"mef/internal/track/netkey"
)

// A Neighbor is another source of the same network.
type Neighbor struct {
	Prefix netip.Prefix
	Score  int
	Banned bool // by a verified ban, of a network around it too
}

// Neighbors returns what else is known of the IPv4 /24 or IPv6 /48 around addr, the highest score first, at most limit sources,
// without changing any of it.
func (t *Tracker) Neighbors(addr netip.Addr, at time.Time, limit int) (out []Neighbor) {
	now := max(t.now, at.UnixNano())
	bits := netkey.Around6
	if addr.Is4() {
		bits = netkey.Around4
	}
	around, own := netkey.Of(addr, bits), t.key(addr)
	for i := uint32(1); i <= t.sources.Last(); i++ {
		s := t.sources.At(i)
		if !s.live() || s.key == own || !s.key.In(around) {
			continue
		}
		aside := *s // looking must not change what later decisions add up
		t.fade(&aside, now)
		banned := t.holds.Verified(s.key, now) || t.holds.Blocked(s.key, now) > now
		out = append(out, Neighbor{s.key.Prefix(), event.Points(float64(aside.score)), banned})
	}
	ordered.Sort(out, func(a, b Neighbor) int { return cmp.Or(cmp.Compare(b.Score, a.Score), a.Prefix.Compare(b.Prefix)) })
	return out[:min(len(out), limit)]
}

// A network of an attacker shows by its addresses: each of them tries a little, and no user logs in from there. The
// sources of an IPv4 /24 or an IPv6 /48 are in one chain, so that those under suspicion can be counted.
type networks struct {
	chains []uint32 // first source of each chain, by hash of the network
}

const (
	// mostChains is how many chains there are at most. There are as many as sources before.
	mostChains = 1 << 16

	// suspectsAt is how many sources of a network must have failed for it to be an attacker's, and as many more for each user who
	// logs in from there. Twice as many leave no doubt.
	suspectsAt = 4
	// suspectFor is how long a source is under suspicion after its latest event.
	suspectFor = 14 * day
)

func (t *Tracker) chainOf(net netkey.Key) *uint32 {
	return &t.networks.chains[hash(t.seed, net.Addr[:])%uint32(len(t.networks.chains))]
}

// linkNetwork puts a source into the chain of its network.
func (t *Tracker) linkNetwork(i uint32) {
	if n := len(t.networks.chains); n < min(t.sources.Len(), mostChains) {
		t.networks.chains = make([]uint32, max(1024, 2*n))
		for j := uint32(1); j <= t.sources.Last(); j++ {
			if j != i && t.sources.At(j).live() {
				t.chain(j)
			}
		}
	}
	t.chain(i)
}

func (t *Tracker) chain(i uint32) {
	s := t.sources.At(i)
	first := t.chainOf(s.key.Around())
	s.sibling, *first = *first, i
}

func (t *Tracker) unlinkNetwork(i uint32) {
	s := t.sources.At(i)
	at := t.chainOf(s.key.Around())
	for *at != i {
		at = &t.sources.At(*at).sibling
	}
	*at = s.sibling
}

// suspectsIn returns how many sources of a network have failed lately, never succeeded and reached no limit of their own, and how many
// attempts then ban an unknown source of it; 0 if they are too few to be an attack. It looks at 256 sources at most, beside those whose
// network has the same hash, and is called for a failure that no ban answers: see BenchmarkSuspects.
func (t *Tracker) suspectsIn(net netkey.Key, now int64) (n, limit int) {
	if len(t.networks.chains) == 0 {
		return 0, 0
	}
	for i := *t.chainOf(net); i != 0; {
		s := t.sources.At(i)
		if s.flags&suspect != 0 && now-s.seen <= suspectFor && s.key.In(net) {
			n++
		}
		i = s.sibling
	}
	switch least := suspectsAt * (1 + t.logins.Within(net)); {
	case n < least:
		return 0, 0
	case n < 2*least:
		return n, networkLimit
	}
	return n, strictLimit
}

// attackingNetworks appends the networks of which sources have failed within a day to all, those that are an attacker's.
func (t *Tracker) attackingNetworks(all []Attack, now int64) []Attack {
	seen := map[netkey.Key]int{}
	for i := uint32(1); i <= t.sources.Last(); i++ {
		s := t.sources.At(i)
		if s.live() && s.flags&suspect != 0 && now-s.seen <= day {
			seen[s.key.Around()]++
		}
	}
	for net := range seen {
		if n, limit := t.suspectsIn(net, now); n > 0 {
			all = append(all, Attack{Net: net.Prefix(), Sources: n, Limit: limit})
		}
	}
	return all
}
