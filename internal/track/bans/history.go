package bans

import (
	"cmp"
	"slices"

	"mef/internal/ban"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// A past is a ban of the history. The history is a ring: the oldest of all goes when it is full.
type past struct {
	key          netkey.Key
	joined       bool
	lifted       bool
	flags        uint8
	start, until int64
	id           uint64
	prev         uint64 // number of the key's next older ban
	rule         string
}

const (
	dirty  = 1 << iota // changed since the last Changes
	stored             // part of an earlier Changes, so its removal must be reported
)

// A History is the ring of past bans. Make one with NewHistory.
type History struct {
	ring   []past
	size   int
	next   uint64                // number of the latest, from 1
	latest map[netkey.Key]uint64 // number of a key's latest

	changed uint64   // number of the oldest dirty ban; 0: none
	gone    []uint64 // stored bans that were overwritten
}

// NewHistory returns an empty history of so many bans at most.
func NewHistory(size int) History { return History{size: size, latest: map[netkey.Key]uint64{}} }

// at returns ban number n, nil if it has been overwritten.
func (h *History) at(n uint64) *past {
	if n == 0 || n+uint64(h.size) <= h.next {
		return nil
	}
	return &h.ring[(n-1)%uint64(h.size)]
}

// oldest returns the number of the oldest ban that is kept.
func (h *History) oldest() uint64 {
	if h.next > uint64(h.size) {
		return h.next - uint64(h.size) + 1
	}
	return 1
}

func (h *History) add(p past) {
	p.prev = h.latest[p.key]
	h.next++
	if len(h.ring) < h.size {
		h.ring = append(h.ring, p)
	} else {
		slot := &h.ring[(h.next-1)%uint64(h.size)]
		lost := h.next - uint64(h.size)
		if h.latest[slot.key] == lost {
			delete(h.latest, slot.key)
		}
		if slot.flags&stored != 0 {
			h.gone = append(h.gone, lost)
		}
		*slot = p
	}
	h.latest[p.key] = h.next
	h.touch(h.next, h.at(h.next))
}

// touch marks ban number n as changed.
func (h *History) touch(n uint64, p *past) {
	p.flags |= dirty
	if h.changed == 0 || n < h.changed {
		h.changed = n
	}
}

// each calls f for the bans of exactly k, latest first.
func (h *History) each(k netkey.Key, f func(n uint64, p *past)) {
	for n := h.latest[k]; n != 0; {
		p := h.at(n)
		if p == nil || p.key != k {
			return
		}
		f(n, p)
		n = p.prev
	}
}

// Record enters a ban of a source that was decided; id is the hash of its ID. A ban that begins while one of its prefix holds is joined
// to that one, which then ends with it: it is the same visit, no repeat.
func (h *History) Record(b *ban.Ban, k netkey.Key, id uint64) {
	n := past{key: k, start: b.Start.UnixNano(), until: endOf(b), id: id, rule: b.Rule}
	h.each(k, func(number uint64, p *past) {
		if p.until > n.start && !p.lifted {
			n.joined = true
			if p.until < n.until {
				p.until = n.until
				h.touch(number, p)
			}
		}
	})
	h.add(n)
}

// Has reports whether the source has had the ban of that ID.
func (h *History) Has(k netkey.Key, id uint64) (found bool) {
	h.each(k, func(_ uint64, p *past) { found = found || p.id == id })
	return found
}

// Lift marks the bans of k that are in force as taken back.
func (h *History) Lift(k netkey.Key, now int64) {
	h.each(k, func(n uint64, p *past) {
		if p.until > now && !p.lifted {
			p.lifted = true
			h.touch(n, p)
		}
	})
}

// Past appends the history of a source to buf, bans of networks around it included, oldest first. Bans that ended longer ago than keep
// are left out.
func (h *History) Past(buf []ban.Past, k netkey.Key, keep, now int64) []ban.Past {
	start := len(buf)
	collect := func(_ uint64, p *past) {
		if p.until == forever || now-p.until <= keep {
			buf = append(buf, ban.Past{
				Prefix: p.key.Prefix(), Rule: p.rule, Start: record.Moment(p.start), Until: ending(p.until),
				ID: p.id, Joined: p.joined, Lifted: p.lifted,
			})
		}
	}
	h.each(k, collect)
	if !k.Is4() {
		for _, bits := range netkey.Widths {
			if bits < int(k.Bits) {
				h.each(k.Widen(bits), collect)
			}
		}
	}
	slices.SortStableFunc(buf[start:], func(a, b ban.Past) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return buf
}

// SetBack lets bans that began later than now begin now, and last as long.
func (h *History) SetBack(now int64) {
	for n := h.oldest(); n <= h.next; n++ {
		if p := h.at(n); p != nil && p.start > now {
			beginBy(now, &p.start, &p.until)
			h.touch(n, p)
		}
	}
}

// Len returns how many bans there are.
func (h *History) Len() int { return len(h.ring) }

// Size returns how many bans there can be.
func (h *History) Size() int { return h.size }
