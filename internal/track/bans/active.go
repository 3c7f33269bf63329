// Package bans has the bans in force, those of the past, and those that an operator lifted: what decisions about new bans rest on.
package bans

import (
	"hash/maphash"
	"iter"
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/track/bounded"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// forever stands for the end of a permanent ban.
const forever = int64(math.MaxInt64)

// An active is a ban in force, in 56 bytes without a pointer: there may be very many. Two bans with the same prefix, ports and class are
// one.
type active struct {
	key          netkey.Key
	first        bool   // of its prefix: the index has it
	kind         uint32 // number in Active.kinds
	next         uint32 // of the same prefix; 0: none
	start, until int64
	id           uint64
}

// A kind is what very many bans have in common.
type kind struct {
	ports ban.Ports
	class ban.Class
}

// Active are the bans in force, at most as many as the kernel's sets have room for. The end of a ban is not reported: bans
// that are over are passed over wherever met, and cleared away when the table has doubled since the last time. Make one with NewActive.
type Active struct {
	index   bounded.Index // the first of each prefix, in bans
	seed    maphash.Seed  // of its hashes
	bans    bounded.Slab[active]
	kinds   []kind
	numbers map[kind]uint32         // of kinds
	except  map[uint32][]netip.Addr // by number of the ban: addresses inside that stay reachable
	lengths netkey.Lengths          // of the prefixes in first
	members map[netkey.Key][]member // by wider network: networks inside with verified bans
	sweepAt int                     // clear away at this many prefixes
}

// NewActive returns an empty table.
func NewActive() Active {
	return Active{seed: maphash.MakeSeed(), numbers: map[kind]uint32{}, except: map[uint32][]netip.Addr{}, members: map[netkey.Key][]member{}, sweepAt: 1024}
}

func endOf(b *ban.Ban) int64 {
	if b.Permanent() {
		return forever
	}
	return b.Until.UnixNano()
}

// Len returns for how many prefixes there are bans, those that are over and not yet cleared away included.
func (h *Active) Len() int { return h.index.Len() }

// numberOf returns the number of a kind. Kinds are few: the kernel has a set for each.
func (h *Active) numberOf(ports ban.Ports, class ban.Class) uint32 {
	of := kind{ports, class}
	n, ok := h.numbers[of]
	if !ok {
		n = uint32(len(h.kinds))
		h.kinds = append(h.kinds, of)
		h.numbers[of] = n
	}
	return n
}

// first returns the number of the first ban of exactly k, 0 if there is none.
func (h *Active) first(k netkey.Key) uint32 {
	return h.index.Find(k.Hash(h.seed), func(i uint32) bool { return h.bans.At(i).key == k })
}

// all yields the prefixes with bans, and the number of the first ban of each. The ban may be deleted meanwhile.
func (h *Active) all() iter.Seq2[netkey.Key, uint32] {
	return func(yield func(netkey.Key, uint32) bool) {
		for i := uint32(1); i <= h.bans.Last(); i++ {
			if b := h.bans.At(i); b.first && !yield(b.key, i) {
				return
			}
		}
	}
}

// setFirst makes another ban the first of k; 0: there is none any more.
func (h *Active) setFirst(k netkey.Key, before, now uint32) {
	if before != 0 {
		h.index.Remove(k.Hash(h.seed), before)
		h.bans.At(before).first = false
	}
	if now != 0 {
		h.index.Put(k.Hash(h.seed), now)
		h.bans.At(now).first = true
	}
}

// of yields the bans of exactly k, with their numbers.
func (h *Active) of(k netkey.Key) iter.Seq2[uint32, *active] { return h.from(h.first(k)) }

// from yields a ban and those behind it of the same prefix.
func (h *Active) from(i uint32) iter.Seq2[uint32, *active] {
	return func(yield func(uint32, *active) bool) {
		for i != 0 {
			b := h.bans.At(i)
			if !yield(i, b) {
				return
			}
			i = b.next
		}
	}
}

// Add enters a ban. id is the hash of its ID. alone reports whether the prefix counts by itself, whatever the networks around it.
func (h *Active) Add(b *ban.Ban, id uint64, alone bool, now int64) {
	if h.Len() >= h.sweepAt {
		h.clear(now)
		h.sweepAt = max(1024, 2*h.Len())
	}
	k := netkey.OfPrefix(b.Prefix)
	n := active{key: k, start: b.Start.UnixNano(), until: endOf(b), id: id, kind: h.numberOf(b.Ports, b.Class)}
	h.enter(k, n, b.Except)
	if b.Class == ban.Verified && !alone {
		h.join(k, n.until, now)
	}
}

// enter puts a ban in the place of one of its kind, or before the others of its prefix.
func (h *Active) enter(k netkey.Key, n active, except []netip.Addr) {
	place := uint32(0)
	for i, o := range h.of(k) {
		if o.kind == n.kind {
			place, n.next, n.first = i, o.next, o.first
		}
	}
	if place == 0 {
		if n.next = h.first(k); n.next == 0 {
			h.lengths.Add(k)
		}
		place = h.bans.Get()
		h.setFirst(k, n.next, place)
		n.first = true
	}
	*h.bans.At(place) = n
	delete(h.except, place)
	if len(except) > 0 {
		h.except[place] = slices.Clone(except)
	}
}

// Verified reports whether a verified ban of exactly k is in force.
func (h *Active) Verified(k netkey.Key, now int64) bool {
	for _, b := range h.of(k) {
		if h.kinds[b.kind].class == ban.Verified && b.until > now {
			return true
		}
	}
	return false
}

// Remove takes a ban out.
func (h *Active) Remove(bk ban.Key) {
	k := netkey.OfPrefix(bk.Prefix)
	h.delete(k, h.first(k), func(b *active) bool { return h.kinds[b.kind] == kind{bk.Ports, bk.Class} })
	if bk.Class == ban.Verified && !k.Is4() {
		h.leave(k)
	}
}

// delete deletes bans of k, the first of which is known.
func (h *Active) delete(k netkey.Key, first uint32, gone func(b *active) bool) {
	left, last := uint32(0), uint32(0)
	for i := first; i != 0; {
		b := h.bans.At(i)
		next := b.next
		switch {
		case gone(b):
			delete(h.except, i)
			if i != first { // which the index still has
				h.bans.Put(i)
			}
		case last == 0:
			left, last = i, i
		default:
			h.bans.At(last).next, last = i, i
		}
		i = next
	}
	if last != 0 {
		h.bans.At(last).next = 0
	}
	if left == first {
		return
	}
	if h.setFirst(k, first, left); left == 0 {
		h.lengths.Remove(k)
	}
	h.bans.Put(first)
}

// clear removes what is over.
func (h *Active) clear(now int64) {
	for k, first := range h.all() {
		h.delete(k, first, func(b *active) bool { return b.until <= now })
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
		for i, b := range h.of(k) {
			if b.until > now && !slices.Contains(h.except[i], addr) {
				of := h.kinds[b.kind]
				buf = append(buf, ban.Active{
					Key:   ban.Key{Prefix: k.Prefix(), Ports: of.ports, Class: of.class},
					Start: record.Moment(b.start), Until: ending(b.until), ID: b.id,
				})
			}
		}
	}
	return buf
}

// Keeps reports whether a ban in force, of verified ones only if so asked, keeps addr from ports.
func (h *Active) Keeps(addr netip.Addr, ports ban.Ports, verified bool, now int64) bool {
	own := netkey.Exact(addr)
	for _, bits := range h.lengths.Of(own) {
		for i := h.first(own.Widen(int(bits))); i != 0; {
			b := h.bans.At(i)
			of := &h.kinds[b.kind]
			if b.until > now && (!verified || of.class == ban.Verified) && of.ports.Covers(ports) && (len(h.except) == 0 || !slices.Contains(h.except[i], addr)) {
				return true
			}
			i = b.next
		}
	}
	return false
}

// Blocked returns until when a verified ban of all ports on the whole of k is in force, 0 if there is none.
func (h *Active) Blocked(k netkey.Key, now int64) (until int64) {
	for _, bits := range h.lengths.Of(k) {
		if bits > k.Bits {
			continue
		}
		for _, b := range h.of(k.Widen(int(bits))) {
			if h.whole(b) && b.until > now {
				until = max(until, b.until)
			}
		}
	}
	return until
}

// whole reports whether a ban is a verified one of all ports.
func (h *Active) whole(b *active) bool { return h.kinds[b.kind] == kind{class: ban.Verified} }

// SetBack lets bans that began later than now begin now, and last as long.
func (h *Active) SetBack(now int64) {
	for _, first := range h.all() {
		for _, b := range h.from(first) {
			beginBy(now, &b.start, &b.until)
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
