package track

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
)

// Networks that bans are widened to, widest last: when enough networks of the next narrower width in them are banned.
//
// An attacker who owns a /48 has 65,536 networks of 64 bits to hop through; banning them one by one is a race we lose.
var widths = [...]int{64, 56, 48}

const (
	widenAt    = 3  // banned networks of the next narrower width, the new one included
	scatterAt  = 12 // banned networks of the width that sources have, in a /48 at large
	maxMembers = 32 // banned networks remembered per wider network: enough for both limits
)

// forever stands for the end of a permanent ban.
const forever = int64(math.MaxInt64)

// A held is a ban in force. Two bans with the same prefix, ports and class are one.
type held struct {
	ports ban.Ports
	class ban.Class
	start int64
	until int64
	id    uint64
}

// holds are the bans in force, at most as many as the kernel's sets have room for. Bans that are over are not told: they are passed over wherever met, and cleared away when
// the table has doubled since the last time.
type holds struct {
	bans    map[key][]held
	lengths [2][129]int   // prefixes in bans by family (0: IPv4) and length of key
	members map[key][]key // by wider network: networks inside with verified bans
	sweepAt int           // clear away at this many prefixes
}

func newHolds() holds {
	return holds{bans: map[key][]held{}, members: map[key][]key{}, sweepAt: 1024}
}

func family(k key) int {
	if k.is4() {
		return 0
	}
	return 1
}

func endOf(b *ban.Ban) int64 {
	if b.Permanent() {
		return forever
	}
	return b.Until.UnixNano()
}

func (h *holds) add(b *ban.Ban, now int64) {
	if len(h.bans) >= h.sweepAt {
		h.clear(now)
		h.sweepAt = max(1024, 2*len(h.bans))
	}
	k := keyOfPrefix(b.Prefix)
	if h.bans[k] == nil {
		h.lengths[family(k)][k.bits]++
	}
	n := held{b.Ports, b.Class, b.Start.UnixNano(), endOf(b), event.Hash(b.ID)}
	if i := slices.IndexFunc(h.bans[k], func(o held) bool { return o.ports == n.ports && o.class == n.class }); i >= 0 {
		h.bans[k][i] = n
	} else {
		h.bans[k] = append(h.bans[k], n)
	}
	if b.Class == ban.Verified && !k.is4() {
		h.join(k, now)
	}
}

// join enters a banned network into the wider ones around it.
func (h *holds) join(k key, now int64) {
	for _, bits := range widths {
		if bits >= int(k.bits) {
			continue
		}
		wide := k.widen(bits)
		in := slices.DeleteFunc(h.members[wide], func(m key) bool { return m == k || !h.verified(m, now) })
		if len(in) < maxMembers {
			in = append(in, k)
		}
		h.members[wide] = in
	}
}

// verified reports whether a verified ban of exactly k is in force.
func (h *holds) verified(k key, now int64) bool {
	return slices.ContainsFunc(h.bans[k], func(b held) bool { return b.class == ban.Verified && b.until > now })
}

func (h *holds) remove(bk ban.Key) {
	k := keyOfPrefix(bk.Prefix)
	had := len(h.bans[k])
	h.keep(k, slices.DeleteFunc(h.bans[k], func(o held) bool { return o.ports == bk.Ports && o.class == bk.Class }), had)
}

func (h *holds) keep(k key, left []held, had int) {
	if len(left) > 0 {
		h.bans[k] = left
		return
	}
	delete(h.bans, k)
	if had > 0 {
		h.lengths[family(k)][k.bits]--
	}
}

// clear removes what is over.
func (h *holds) clear(now int64) {
	for k, bans := range h.bans {
		had := len(bans)
		h.keep(k, slices.DeleteFunc(bans, func(b held) bool { return b.until <= now }), had)
	}
	for wide, in := range h.members {
		if in = slices.DeleteFunc(in, func(m key) bool { return !h.verified(m, now) }); len(in) == 0 {
			delete(h.members, wide)
		} else {
			h.members[wide] = in
		}
	}
}

// covering appends the bans in force on addr to buf, narrowest first.
func (h *holds) covering(buf []event.ActiveBan, addr netip.Addr, now int64) []event.ActiveBan {
	f, least := 1, 0
	if addr.Is4() {
		f, least = 0, mappedBits
	}
	for bits := 128; bits >= least; bits-- {
		if h.lengths[f][bits] == 0 {
			continue
		}
		k := keyOf(addr, bits-least)
		for _, b := range h.bans[k] {
			if b.until > now {
				buf = append(buf, event.ActiveBan{
					Key:   ban.Key{Prefix: k.prefix(), Ports: b.ports, Class: b.class},
					Start: moment(b.start), Until: ending(b.until), ID: b.id,
				})
			}
		}
	}
	return buf
}

// shut returns until when a verified ban of all ports on the whole of k is in force, 0 if there is none.
func (h *holds) shut(k key, now int64) (until int64) {
	least := 1
	if k.is4() {
		least = mappedBits
	}
	for bits := int(k.bits); bits >= least; bits-- {
		if h.lengths[family(k)][bits] == 0 {
			continue
		}
		for _, b := range h.bans[k.widen(bits)] {
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

// wider appends the networks around k that bans could be widened to. self is 1 if k is to be counted as banned, which it is when a ban
// of it is about to be decided, else 0.
func (t *Tracker) wider(buf []event.WiderNet, k key, self int, now int64) []event.WiderNet {
	if k.is4() {
		return buf
	}
	narrower, banned := k, self // banned: whether narrower is, or will be
	for _, bits := range widths {
		if bits >= int(k.bits) {
			continue
		}
		wide := k.widen(bits)
		w := event.WiderNet{Prefix: wide.prefix(), Banned: banned, Limit: widenAt, Known: t.logins.within[wide]}
		scattered := self
		for _, m := range t.holds.members[wide] {
			switch {
			case m == narrower || m == k || !t.holds.verified(m, now):
			case m.bits == narrower.bits:
				w.Banned++
			case m.bits == k.bits:
				scattered++
			}
		}
		if w.Banned < widenAt && scattered >= scatterAt {
			w.Banned, w.Limit = scattered, scatterAt
		}
		if narrower, banned = wide, 0; w.Reached() {
			banned = 1
		}
		buf = append(buf, w)
	}
	return buf
}

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
// one address of that source's network. Else hopping to the next address would be a fresh start.
func (t *Tracker) historyKey(p netip.Prefix) key {
	k, source := keyOfPrefix(p), t.key(p.Addr())
	if source.bits < k.bits {
		return source
	}
	return k
}

// Banned tells that a ban was decided and is in force. What decided it counts no more: attempts at its rule, for a ban by
// score everything. A repeated ID changes nothing but what is in force, and so does a ban by hand.
func (t *Tracker) Banned(b ban.Ban) {
	now := t.advance(b.Start)
	t.holds.add(&b, now)
	if b.Rule == ban.ByHand {
		t.shut(b.Key, now)
		return
	}
	if b.Class == ban.Verified {
		k := t.historyKey(b.Prefix)
		if t.history.has(k, event.Hash(b.ID)) {
			return
		}
		t.history.record(&b, k)
	}
	t.settled(&b)
	t.shut(b.Key, now)
}

// shut notes of the sources in a prefix whether they are shut out now, and moves them to where they then belong.
func (t *Tracker) shut(k ban.Key, now int64) {
	if k.Class != ban.Verified || k.Ports != "" {
		return
	}
	t.eachSource(k.Prefix, func(i uint32) {
		s := t.sources.at(i)
		s.shut = t.holds.shut(s.key, now)
		if s.shut > now || s.level != newcomers {
			t.settleIn(i, now)
		}
	})
}

// Detected tells that a ban was only reported. What decided it counts no more, or every further line would report it again.
func (t *Tracker) Detected(b ban.Ban) {
	t.advance(b.Start)
	t.settled(&b)
}

// Restore tells of a ban in force from before the start, which has nothing to do with what was counted since.
func (t *Tracker) Restore(b ban.Ban) {
	t.holds.add(&b, t.now)
	t.shutSource(b.Key, t.now)
}

// shutSource is shut for one of very many bans: looking for the sources in a wide network would take too long.
func (t *Tracker) shutSource(k ban.Key, now int64) {
	if _, source := t.find(k.Prefix.Addr()); source.bits <= keyOfPrefix(k.Prefix).bits {
		t.shut(k, now)
	}
}

// Ended tells that a ban does not hold although its time is not over and nobody lifted it: there was no room for it in the kernel.
// Whoever goes on is banned again, and that is the same visit.
func (t *Tracker) Ended(k ban.Key, at time.Time) {
	now := t.advance(at)
	t.holds.remove(k)
	t.shutSource(k, now)
}

// Unbanned tells that an operator lifted a ban: it was a mistake, so it is no repeat the next time, and what was counted
// against the source is forgotten.
func (t *Tracker) Unbanned(k ban.Key, at time.Time) {
	now := t.advance(at)
	t.holds.remove(k)
	t.history.lift(t.historyKey(k.Prefix), now)
	t.eachSource(k.Prefix, func(i uint32) {
		t.reset(t.sources.at(i))
		t.touch(i)
	})
	t.shut(k, now)
}

// settled clears what a ban was decided on. A ban for what can be forged clears no more than that, or forging would be a
// way to be forgiven.
func (t *Tracker) settled(b *ban.Ban) {
	r, isRule := t.ruleIndex[b.Rule]
	byScore := b.Rule == ban.ByScore
	if !isRule && !byScore {
		return
	}
	t.eachSource(b.Prefix, func(i uint32) {
		s := t.sources.at(i)
		t.touch(i)
		switch {
		case b.Class == ban.Unverified:
			t.drop(s, func(a *attempt) bool { return a.flags&unverified != 0 && (byScore || a.rule == r) })
			if byScore {
				s.unverified = 0
			}
		case byScore:
			t.reset(s)
		default:
			t.drop(s, func(a *attempt) bool { return a.rule == r && !t.answered(a) })
		}
	})
}

func (t *Tracker) reset(s *source) {
	t.drop(s, func(a *attempt) bool { return !t.answered(a) })
	s.score, s.unverified, s.users = 0, 0, [len(s.users)]contribution{}
}

// answered keeps an attempt that has been answered with a ban for a while, and for nothing more than that further lines of its
// session are known when they come: it must not count towards the next.
func (t *Tracker) answered(a *attempt) bool {
	a.quarters = 0
	return t.now-a.at <= int64(sessionIdle)
}

// eachSource calls f for the source that p is or lies in, and for all sources inside p.
func (t *Tracker) eachSource(p netip.Prefix, f func(i uint32)) {
	k := keyOfPrefix(p)
	i, source := t.find(p.Addr())
	if source.bits <= k.bits {
		if i != 0 {
			f(i)
		}
		return
	}
	for i := uint32(1); i <= t.sources.used; i++ {
		if s := t.sources.at(i); s.live() && p.Contains(s.key.prefix().Addr()) {
			f(i)
		}
	}
}
