package track

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
)

// forever stands for the end of a permanent ban.
const forever = int64(math.MaxInt64)

// An activeBan is a ban in force. Two bans with the same prefix, ports and class are one.
type activeBan struct {
	ports ban.Ports
	class ban.Class
	start int64
	until int64
	id    uint64

	except []netip.Addr // addresses inside that stay reachable
}

// activeBans are the bans in force, at most as many as the kernel's sets have room for. The end of a ban is not reported: bans
// that are over are passed over wherever met, and cleared away when the table has doubled since the last time.
type activeBans struct {
	bans    map[key][]activeBan
	lengths lengths          // of the prefixes in bans
	members map[key][]member // by wider network: networks inside with verified bans
	sweepAt int              // clear away at this many prefixes
}

func newActiveBans() activeBans {
	return activeBans{bans: map[key][]activeBan{}, members: map[key][]member{}, sweepAt: 1024}
}

func endOf(b *ban.Ban) int64 {
	if b.Permanent() {
		return forever
	}
	return b.Until.UnixNano()
}

func (h *activeBans) add(b *ban.Ban, now int64) {
	if len(h.bans) >= h.sweepAt {
		h.clear(now)
		h.sweepAt = max(1024, 2*len(h.bans))
	}
	k := keyOfPrefix(b.Prefix)
	if h.bans[k] == nil {
		h.lengths.add(k)
	}
	n := activeBan{b.Ports, b.Class, b.Start.UnixNano(), endOf(b), event.Hash(b.ID), slices.Clone(b.Except)}
	if i := slices.IndexFunc(h.bans[k], func(o activeBan) bool { return o.ports == n.ports && o.class == n.class }); i >= 0 {
		h.bans[k][i] = n
	} else {
		h.bans[k] = append(h.bans[k], n)
	}
	if b.Class == ban.Verified && !k.is4() && !embedsIPv4.Contains(b.Prefix.Addr()) {
		h.join(k, n.until, now)
	}
}

// verified reports whether a verified ban of exactly k is in force.
func (h *activeBans) verified(k key, now int64) bool {
	return slices.ContainsFunc(h.bans[k], func(b activeBan) bool { return b.class == ban.Verified && b.until > now })
}

func (h *activeBans) remove(bk ban.Key) {
	k := keyOfPrefix(bk.Prefix)
	had := len(h.bans[k])
	h.keep(k, slices.DeleteFunc(h.bans[k], func(o activeBan) bool { return o.ports == bk.Ports && o.class == bk.Class }), had)
	if bk.Class == ban.Verified && !k.is4() {
		h.leave(k)
	}
}

func (h *activeBans) keep(k key, left []activeBan, had int) {
	if len(left) > 0 {
		h.bans[k] = left
		return
	}
	delete(h.bans, k)
	if had > 0 {
		h.lengths.remove(k)
	}
}

// clear removes what is over.
func (h *activeBans) clear(now int64) {
	for k, bans := range h.bans {
		had := len(bans)
		h.keep(k, slices.DeleteFunc(bans, func(b activeBan) bool { return b.until <= now }), had)
	}
	for wide, in := range h.members {
		if in = slices.DeleteFunc(in, func(m member) bool { return m.until <= now }); len(in) == 0 {
			delete(h.members, wide)
		} else {
			h.members[wide] = in
		}
	}
}

// covering appends the bans in force on addr to buf, narrowest first.
func (h *activeBans) covering(buf []event.ActiveBan, addr netip.Addr, now int64) []event.ActiveBan {
	own := exact(addr)
	for _, bits := range h.lengths.of(own) {
		k := own.widen(int(bits))
		for _, b := range h.bans[k] {
			if b.until > now && !slices.Contains(b.except, addr) {
				buf = append(buf, event.ActiveBan{
					Key:   ban.Key{Prefix: k.prefix(), Ports: b.ports, Class: b.class},
					Start: moment(b.start), Until: ending(b.until), ID: b.id,
				})
			}
		}
	}
	return buf
}

// blocked returns until when a verified ban of all ports on the whole of k is in force, 0 if there is none.
func (h *activeBans) blocked(k key, now int64) (until int64) {
	for _, bits := range h.lengths.of(k) {
		if bits > k.bits {
			continue
		}
		for _, b := range h.bans[k.widen(int(bits))] {
			if b.class == ban.Verified && b.ports == "" && b.until > now {
				until = max(until, b.until)
			}
		}
	}
	return until
}

func ending(until int64) time.Time {
	if until == forever {
		return time.Time{}
	}
	return moment(until)
}

// Blocked reports whether a ban in force keeps packets of addr from ports, as of a time. Events from before a later one are judged by
// that one's.
func (t *Tracker) Blocked(addr netip.Addr, ports ban.Ports, at time.Time) bool {
	now := max(t.now, at.UnixNano())
	t.inForce = t.holds.covering(t.inForce[:0], addr, now)
	return slices.ContainsFunc(t.inForce, func(b event.ActiveBan) bool { return b.Ports.Covers(ports) })
}
