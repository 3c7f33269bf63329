package track

import (
	"cmp"
	"net/netip"
	"slices"

	"mef/internal/ban"
	"mef/internal/event"
)

// A past is a ban of the history. The history is a ring: the oldest of all goes when it is full.
type past struct {
	key          key
	joined       bool
	lifted       bool
	flags        uint8
	start, until int64
	id           uint64
	prev         uint64 // number of the key's next older ban
	rule         string
}

type history struct {
	ring   []past
	size   int
	next   uint64         // number of the latest, from 1
	latest map[key]uint64 // number of a key's latest

	changed uint64   // number of the oldest dirty ban; 0: none
	gone    []uint64 // stored bans that were overwritten
}

func newHistory(size int) history { return history{size: size, latest: map[key]uint64{}} }

// at returns ban number n, nil if it has been overwritten.
func (h *history) at(n uint64) *past {
	if n == 0 || n+uint64(h.size) <= h.next {
		return nil
	}
	return &h.ring[(n-1)%uint64(h.size)]
}

// oldest returns the number of the oldest ban that is kept.
func (h *history) oldest() uint64 {
	if h.next > uint64(h.size) {
		return h.next - uint64(h.size) + 1
	}
	return 1
}

func (h *history) add(p past) {
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
func (h *history) touch(n uint64, p *past) {
	p.flags |= dirty
	if h.changed == 0 || n < h.changed {
		h.changed = n
	}
}

// each calls f for the bans of exactly k, latest first.
func (h *history) each(k key, f func(n uint64, p *past)) {
	for n := h.latest[k]; n != 0; {
		p := h.at(n)
		if p == nil || p.key != k {
			return
		}
		f(n, p)
		n = p.prev
	}
}

// record enters a ban that was decided. A ban that begins while one of its prefix holds is joined to that one, which then
// ends with it: it is the same visit, no repeat.
func (h *history) record(b *ban.Ban, k key) {
	n := past{key: k, start: b.Start.UnixNano(), until: endOf(b), id: event.Hash(b.ID), rule: b.Rule}
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

func (h *history) has(k key, id uint64) (found bool) {
	h.each(k, func(_ uint64, p *past) { found = found || p.id == id })
	return found
}

// lift marks the bans of k that are in force as taken back.
func (h *history) lift(k key, now int64) {
	h.each(k, func(n uint64, p *past) {
		if p.until > now && !p.lifted {
			p.lifted = true
			h.touch(n, p)
		}
	})
}

// past appends the history of source k to buf, bans of networks around it included, oldest first.
func (t *Tracker) past(buf []event.PastBan, k key, now int64) []event.PastBan {
	start := len(buf)
	collect := func(_ uint64, p *past) {
		if p.until == forever || now-p.until <= int64(t.cfg.History) {
			buf = append(buf, event.PastBan{
				Prefix: p.key.prefix(), Rule: p.rule, Start: moment(p.start), Until: ending(p.until),
				ID: p.id, Joined: p.joined, Lifted: p.lifted,
			})
		}
	}
	t.history.each(k, collect)
	if !k.is4() {
		for _, bits := range widths {
			if bits < int(k.bits) {
				t.history.each(k.widen(bits), collect)
			}
		}
	}
	slices.SortStableFunc(buf[start:], func(a, b event.PastBan) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return buf
}

// historyKey returns where a ban stands in the history: under the source it was decided for, also if it was narrowed to
// one address of that source's network. Otherwise hopping to the next address would be a fresh start.
func (t *Tracker) historyKey(p netip.Prefix) key {
	k, source := keyOfPrefix(p), t.key(p.Addr())
	if source.bits < k.bits {
		return source
	}
	return k
}
