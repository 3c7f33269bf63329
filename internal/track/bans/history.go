package bans

import (
	"cmp"
	"hash/maphash"
	"math"

	"mef/internal/ban"
	"mef/internal/ordered"
	"mef/internal/track/bounded"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// A past is a ban of the history, in 48 bytes without a pointer. The history is a ring: the oldest of all goes when it is full.
type past struct {
	key          netkey.Key
	flags        uint8
	rule         uint16 // number in History.rules
	back         uint32 // how many bans ago the key's next older one was; 0: there is none
	start, until int64
	id           uint64
}

const (
	dirty  = 1 << iota // changed since the last Changes
	stored             // part of an earlier Changes, so its removal must be reported
	joined
	lifted
)

func (p *past) joined() bool { return p.flags&joined != 0 }
func (p *past) lifted() bool { return p.flags&lifted != 0 }

// flagged returns a flag if it is set.
func flagged(set bool, flag uint8) uint8 {
	if set {
		return flag
	}
	return 0
}

// chunk is how many bans the ring grows by.
const chunk = 512

// A History is the ring of past bans. Make one with NewHistory.
type History struct {
	chunks [][]past
	size   int
	next   uint64        // number of the latest, from 1
	latest bounded.Index // the place in the ring of each key's latest, from 1
	seed   maphash.Seed  // of its hashes

	rules   []string // names of rules, which are few
	numbers map[string]uint16

	changed uint64   // number of the oldest dirty ban; 0: none
	gone    []uint64 // stored bans that were overwritten
}

// NewHistory returns an empty history of so many bans at most.
func NewHistory(size int) History {
	return History{size: size, seed: maphash.MakeSeed(), rules: []string{""}, numbers: map[string]uint16{"": 0}}
}

// place returns which place of the ring is that of ban number n, from 1.
func (h *History) place(n uint64) uint32 { return uint32((n-1)%uint64(h.size)) + 1 }

// slot returns where ban number n is or will be, and makes room for it.
func (h *History) slot(n uint64) *past {
	i := int(h.place(n) - 1)
	for i/chunk >= len(h.chunks) {
		h.chunks = append(h.chunks, make([]past, chunk))
	}
	return &h.chunks[i/chunk][i%chunk]
}

// at returns ban number n, nil if it has been overwritten.
func (h *History) at(n uint64) *past {
	if n == 0 || n+uint64(h.size) <= h.next {
		return nil
	}
	return h.slot(n)
}

// latestOf returns the number of the latest ban of a key, 0 if there is none.
func (h *History) latestOf(k netkey.Key) uint64 {
	i := h.latest.Find(k.Hash(h.seed), func(i uint32) bool { return h.chunks[(i-1)/chunk][(i-1)%chunk].key == k })
	if i == 0 {
		return 0
	}
	return h.next - uint64((int(h.place(h.next))-int(i)+h.size)%h.size)
}

// rule returns the number of a rule's name, that of the empty one if there are too many.
func (h *History) rule(name string) uint16 {
	n, ok := h.numbers[name]
	if !ok && len(h.rules) <= math.MaxUint16 {
		n = uint16(len(h.rules))
		h.rules = append(h.rules, name)
		h.numbers[name] = n
	}
	return n
}

// oldest returns the number of the oldest ban that is kept.
func (h *History) oldest() uint64 {
	if h.next > uint64(h.size) {
		return h.next - uint64(h.size) + 1
	}
	return 1
}

func (h *History) add(p past) {
	h.next++
	slot := h.slot(h.next)
	if lost := h.next - uint64(h.size); h.next > uint64(h.size) {
		if h.latestOf(slot.key) == h.next { // at whose place it is
			h.latest.Remove(slot.key.Hash(h.seed), h.place(lost))
		}
		if slot.flags&stored != 0 {
			h.gone = append(h.gone, lost)
		}
	}
	*slot = p
	h.link(h.next, slot)
	h.touch(h.next, slot)
}

// link makes ban number n the latest of its key.
func (h *History) link(n uint64, p *past) {
	p.back = 0
	hash := p.key.Hash(h.seed)
	if before := h.latestOf(p.key); before != 0 {
		p.back = uint32(n - before)
		h.latest.Remove(hash, h.place(before))
	}
	h.latest.Put(hash, h.place(n))
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
	for n := h.latestOf(k); n != 0; {
		p := h.at(n)
		if p == nil || p.key != k {
			return
		}
		f(n, p)
		if p.back == 0 || uint64(p.back) >= n {
			return
		}
		n -= uint64(p.back)
	}
}

// Record enters a ban of a source that was decided; id is the hash of its ID. A ban that begins while one of its prefix holds is joined
// to that one, which then ends with it: it is the same visit, no repeat.
func (h *History) Record(b *ban.Ban, k netkey.Key, id uint64) {
	n := past{key: k, start: b.Start.UnixNano(), until: endOf(b), id: id, rule: h.rule(b.Rule)}
	h.each(k, func(number uint64, p *past) {
		if p.until > n.start && !p.lifted() {
			n.flags |= joined
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

// Lift marks the bans of k that are in force as lifted.
func (h *History) Lift(k netkey.Key, now int64) {
	h.each(k, func(n uint64, p *past) {
		if p.until > now && !p.lifted() {
			p.flags |= lifted
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
				Prefix: p.key.Prefix(), Rule: h.rules[p.rule], Start: record.Moment(p.start), Until: ending(p.until),
				ID: p.id, Joined: p.joined(), Lifted: p.lifted(),
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
	ordered.Sort(buf[start:], func(a, b ban.Past) int {
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
func (h *History) Len() int { return int(min(h.next, uint64(h.size))) }

// Size returns how many bans there can be.
func (h *History) Size() int { return h.size }
