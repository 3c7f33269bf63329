package bans

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/ordered"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// crowdBits is the length of the IPv4 networks that may be crowded. IPv6 networks are banned whole long before: see widths.
const crowdBits = 24

// A Crowd is a network in which many addresses are banned one by one.
type Crowd struct {
	ban.Wider
	Until time.Time // when half of these bans are over
}

// Crowds returns the IPv4 networks in which least or more addresses are banned on all ports, for a time, and which are not
// themselves, the most crowded first, at most limit of them. Known is 0. It looks at every ban.
func (h *Active) Crowds(now int64, least, limit int) []Crowd {
	// Most networks have one banned address. Counting by hash first spares us a table of them all.
	var counts [1 << 14]uint16
	bucket := func(k netkey.Key) *uint16 {
		return &counts[(uint(k.Addr[12])<<16|uint(k.Addr[13])<<8|uint(k.Addr[14]))*2654435761>>8%(1<<14)]
	}
	for k, first := range h.all() {
		if _, ok := h.crowdEnd(k, first, now); ok {
			*bucket(k) = min(*bucket(k), 1<<16-2) + 1
		}
	}
	ends := map[netip.Prefix][]int64{}
	for k, first := range h.all() {
		if until, ok := h.crowdEnd(k, first, now); ok && int(*bucket(k)) >= least {
			wide := netip.PrefixFrom(k.Prefix().Addr(), crowdBits).Masked()
			ends[wide] = append(ends[wide], until)
		}
	}
	var crowds []Crowd
	for wide, until := range ends {
		if len(until) < least || h.Blocked(netkey.OfPrefix(wide), now) != 0 {
			continue
		}
		slices.Sort(until)
		crowds = append(crowds, Crowd{ban.Wider{Prefix: wide, Banned: len(until), Limit: least}, record.Moment(until[len(until)/2])})
	}
	ordered.Sort(crowds, func(a, b Crowd) int { return cmp.Or(cmp.Compare(b.Banned, a.Banned), a.Prefix.Compare(b.Prefix)) })
	return crowds[:min(len(crowds), limit)]
}

// crowdEnd returns when the ban of an IPv4 address is over that counts for its network.
func (h *Active) crowdEnd(k netkey.Key, first uint32, now int64) (until int64, ok bool) {
	if !k.Is4() || k.Bits != 128 {
		return 0, false
	}
	for _, b := range h.from(first) {
		if h.whole(b) && b.until > now && b.until != forever {
			until = max(until, b.until)
		}
	}
	return until, until > 0
}
