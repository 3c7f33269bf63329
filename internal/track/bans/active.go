// Package bans has the bans in force, those of the past, and those that an operator lifted: what decisions about new bans rest on.
package bans

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// forever stands for the end of a permanent ban.
const forever = int64(math.MaxInt64)

// An active is a ban in force. Two bans with the same prefix, ports and class are one.
type active struct {
	ports ban.Ports
	class ban.Class
	start int64
	until int64
	id    uint64

	except []netip.Addr // addresses inside that stay reachable
}

// Active are the bans in force, at most as many as the kernel's sets have room for. The end of a ban is not reported: bans
// that are over are passed over wherever met, and cleared away when the table has doubled since the last time. Make one with NewActive.
type Active struct {
	bans    map[netkey.Key][]active
	lengths netkey.Lengths          // of the prefixes in bans
	members map[netkey.Key][]member // by wider network: networks inside with verified bans
	sweepAt int                     // clear away at this many prefixes
}

// NewActive returns an empty table.
func NewActive() Active {
	return Active{bans: map[netkey.Key][]active{}, members: map[netkey.Key][]member{}, sweepAt: 1024}
}

func endOf(b *ban.Ban) int64 {
	if b.Permanent() {
		return forever
	}
	return b.Until.UnixNano()
}

// Len returns for how many prefixes there are bans, those that are over and not yet cleared away included.
func (h *Active) Len() int { return len(h.bans) }

// Add enters a ban. id is the hash of its ID. alone reports whether the prefix counts by itself, whatever the networks around it.
func (h *Active) Add(b *ban.Ban, id uint64, alone bool, now int64) {
	if len(h.bans) >= h.sweepAt {
		h.clear(now)
		h.sweepAt = max(1024, 2*len(h.bans))
	}
	k := netkey.OfPrefix(b.Prefix)
	if h.bans[k] == nil {
		h.lengths.Add(k)
	}
	n := active{b.Ports, b.Class, b.Start.UnixNano(), endOf(b), id, slices.Clone(b.Except)}
	if i := slices.IndexFunc(h.bans[k], func(o active) bool { return o.ports == n.ports && o.class == n.class }); i >= 0 {
		h.bans[k][i] = n
	} else {
		h.bans[k] = append(h.bans[k], n)
	}
	if b.Class == ban.Verified && !alone {
		h.join(k, n.until, now)
	}
}

// Verified reports whether a verified ban of exactly k is in force.
func (h *Active) Verified(k netkey.Key, now int64) bool {
	return slices.ContainsFunc(h.bans[k], func(b active) bool { return b.class == ban.Verified && b.until > now })
}

// Remove takes a ban out.
func (h *Active) Remove(bk ban.Key) {
	k := netkey.OfPrefix(bk.Prefix)
	had := len(h.bans[k])
	h.keep(k, slices.DeleteFunc(h.bans[k], func(o active) bool { return o.ports == bk.Ports && o.class == bk.Class }), had)
	if bk.Class == ban.Verified && !k.Is4() {
		h.leave(k)
	}
}

func (h *Active) keep(k netkey.Key, left []active, had int) {
	if len(left) > 0 {
		h.bans[k] = left
		return
	}
	delete(h.bans, k)
	if had > 0 {
		h.lengths.Remove(k)
	}
}

// clear removes what is over.
func (h *Active) clear(now int64) {
	for k, bans := range h.bans {
		had := len(bans)
		h.keep(k, slices.DeleteFunc(bans, func(b active) bool { return b.until <= now }), had)
	}
	for wide, in := range h.members {
		if in = slices.DeleteFunc(in, func(m member) bool { return m.until <= now }); len(in) == 0 {
			delete(h.members, wide)
		} else {
			h.members[wide] = in
		}
	}
}

// Covering appends the bans in force on addr to buf, narrowest first.
func (h *Active) Covering(buf []ban.Active, addr netip.Addr, now int64) []ban.Active {
	own := netkey.Exact(addr)
	for _, bits := range h.lengths.Of(own) {
		k := own.Widen(int(bits))
		for _, b := range h.bans[k] {
			if b.until > now && !slices.Contains(b.except, addr) {
				buf = append(buf, ban.Active{
					Key:   ban.Key{Prefix: k.Prefix(), Ports: b.ports, Class: b.class},
					Start: record.Moment(b.start), Until: ending(b.until), ID: b.id,
				})
			}
		}
	}
	return buf
}

// Blocked returns until when a verified ban of all ports on the whole of k is in force, 0 if there is none.
func (h *Active) Blocked(k netkey.Key, now int64) (until int64) {
	for _, bits := range h.lengths.Of(k) {
		if bits > k.Bits {
			continue
		}
		for _, b := range h.bans[k.Widen(int(bits))] {
			if b.class == ban.Verified && b.ports == "" && b.until > now {
				until = max(until, b.until)
			}
		}
	}
	return until
}

// SetBack lets bans that began later than now begin now, and last as long.
func (h *Active) SetBack(now int64) {
	for _, bans := range h.bans {
		for i := range bans {
			beginBy(now, &bans[i].start, &bans[i].until)
		}
	}
}

func beginBy(now int64, start, until *int64) {
	early := *start - now
	if early <= 0 {
		return
	}
	*start = now
	if *until != forever {
		*until -= early
	}
}

func ending(until int64) time.Time {
	if until == forever {
		return time.Time{}
	}
	return record.Moment(until)
}
