package track

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
)

// crowdBits is the length of the IPv4 networks that may be crowded. IPv6 networks are banned whole long before: see widths.
const crowdBits = 24

// A Crowd is a network in which many addresses are banned one by one.
type Crowd struct {
	event.WiderNet
	Until time.Time // when half of these bans are over
}

// Crowds returns the IPv4 networks in which least or more addresses are banned on all ports, for a time, and which are not
// themselves, the most crowded first, at most limit of them. It looks at every ban.
func (t *Tracker) Crowds(at time.Time, least, limit int) []Crowd {
	now := t.advance(at)
	// Most networks have one banned address. Counting by hash first spares us a table of them all.
	var counts [1 << 14]uint16
	bucket := func(k key) *uint16 {
		return &counts[(uint(k.addr[12])<<16|uint(k.addr[13])<<8|uint(k.addr[14]))*2654435761>>8%(1<<14)]
	}
	for k, bans := range t.holds.bans {
		if _, ok := crowdEnd(k, bans, now); ok {
			*bucket(k) = min(*bucket(k), 1<<16-2) + 1
		}
	}
	ends := map[netip.Prefix][]int64{}
	for k, bans := range t.holds.bans {
		if until, ok := crowdEnd(k, bans, now); ok && int(*bucket(k)) >= least {
			wide := netip.PrefixFrom(k.prefix().Addr(), crowdBits).Masked()
			ends[wide] = append(ends[wide], until)
		}
	}
	var crowds []Crowd
	for wide, until := range ends {
		if len(until) < least || t.holds.blocked(keyOfPrefix(wide), now) != 0 {
			continue
		}
		slices.Sort(until)
		crowds = append(crowds, Crowd{event.WiderNet{Prefix: wide, Banned: len(until), Limit: least}, moment(until[len(until)/2])})
	}
	slices.SortFunc(crowds, func(a, b Crowd) int { return cmp.Or(cmp.Compare(b.Banned, a.Banned), a.Prefix.Compare(b.Prefix)) })
	crowds = crowds[:min(len(crowds), limit)]
	for i := range crowds {
		crowds[i].Known = t.KnownWithin(crowds[i].Prefix)
	}
	return crowds
}

// crowdEnd returns when the ban of an IPv4 address is over that counts for its network.
func crowdEnd(k key, bans []activeBan, now int64) (until int64, ok bool) {
	if !k.is4() || k.bits != 128 {
		return 0, false
	}
	for _, b := range bans {
		if b.class == ban.Verified && b.ports == "" && b.until > now && b.until != forever {
			until = max(until, b.until)
		}
	}
	return until, until > 0
}
