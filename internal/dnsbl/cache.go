package dnsbl

import (
	"net/netip"
	"time"

	"mef/internal/event"
)

// maxCached is how many addresses are remembered for each list; the oldest goes first.
const maxCached = 16_384

// An answer is what is known of an address.
type answer struct {
	until    time.Time // when it is asked about again
	listing  *event.Listing
	reported time.Time // when a listing that bans was last reported
	verified bool      // it was reported of an address that was not forged
}

// A cache has the answers of one list. The zero value is empty.
type cache struct {
	by   map[netip.Addr]answer
	ring []netip.Addr // in the order in which they came, oldest at next once full
	next int
}

// get returns what is known of an address at a time.
func (c *cache) get(addr netip.Addr, now time.Time) (answer, bool) {
	a, ok := c.by[addr]
	return a, ok && now.Before(a.until)
}

// put keeps an answer.
func (c *cache) put(addr netip.Addr, a answer) {
	if _, known := c.by[addr]; !known {
		if c.by == nil {
			c.by = make(map[netip.Addr]answer)
		}
		if len(c.ring) < maxCached {
			c.ring = append(c.ring, addr)
		} else {
			delete(c.by, c.ring[c.next])
			c.ring[c.next] = addr
			c.next = (c.next + 1) % maxCached
		}
	}
	c.by[addr] = a
}
