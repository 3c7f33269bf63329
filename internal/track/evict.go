package track

import (
	"mef/internal/event"
	"mef/internal/track/netkey"
)

// A source is in one of these lists.
const (
	// By its risk, in eighths of the nearest of its limits. The lists from hotLevel on are those above half a limit.
	levels   = 8
	hotLevel = levels / 2

	// Newcomers are in a list of their own, in the order of their arrival, whatever their risk. Sources of other lists cannot take their
	// room. Otherwise an attacker could fill the table with sources just below their limits, and no other source would stay in it long
	// enough to be banned.
	newcomers = levels

	// Sources that a verified ban keeps out on all ports are dropped first. The ban holds without them and stays in the history, and lines
	// that are still under way do not extend it. What is lost is the rest of a score, which would mostly have decayed by the end of the ban.
	blocked = levels + 1

	lists = levels + 2

	// newcomersShare is what part of the table is the newcomers'.
	newcomersShare = 4
)

// A list is a doubly linked list of sources, the one touched longest ago first.
type list struct {
	first, last uint32
	n           int
}

func (t *Tracker) link(i uint32, level uint8) {
	s, l := t.sources.At(i), &t.lists[level]
	s.level, s.prev, s.next = level, l.last, 0
	if l.last != 0 {
		t.sources.At(l.last).next = i
	} else {
		l.first = i
	}
	l.last = i
	l.n++
}

func (t *Tracker) unlink(i uint32) {
	s := t.sources.At(i)
	l := &t.lists[s.level]
	l.n--
	if s.prev != 0 {
		t.sources.At(s.prev).next = s.next
	} else {
		l.first = s.next
	}
	if s.next != 0 {
		t.sources.At(s.next).prev = s.prev
	} else {
		l.last = s.prev
	}
}

// insert makes an entry for k, at the cost of another one if there is no room.
func (t *Tracker) insert(k netkey.Key, now int64) uint32 {
	if t.sources.Len() >= t.cfg.MaxSources {
		t.sweep(now)
		t.sweep(now)
	}
	for t.sources.Len() >= t.cfg.MaxSources {
		t.evict()
	}
	i := t.sources.Get()
	s := t.sources.At(i)
	s.key, s.seen, s.blockedUntil = k, now, t.holds.Blocked(k, now)
	if t.logins.Guests(k) > 0 {
		s.flags |= host
	}
	t.index.Put(k.Hash(t.indexing), i)
	t.linkNetwork(i)
	if !k.Is4() && k.Bits > parentBits {
		t.children[k.Widen(parentBits)]++
	}
	if s.blockedUntil > now {
		t.link(i, blocked)
		return i
	}
	t.link(i, newcomers)
	if most := max(1, t.cfg.MaxSources/newcomersShare); t.lists[newcomers].n > most {
		t.settleIn(t.lists[newcomers].first, now)
	}
	return i
}

// belongs returns the list of a source that may not have been touched for long, and reports whether nothing of it is left.
func (t *Tracker) belongs(s *source, now int64) (level uint8, empty bool) {
	aside := *s // what is not an event changes no sum, not even by rounding
	t.fade(&aside, now)
	t.sumUp(s, now)
	empty = event.Points(float64(aside.score+aside.unverified)) == 0 && len(t.sums.rules) == 0
	if s.blockedUntil > now {
		return blocked, empty
	}
	return t.risk(&aside), empty
}

// settleIn moves a source to the list where it belongs by now.
func (t *Tracker) settleIn(i uint32, now int64) {
	s := t.sources.At(i)
	level, _ := t.belongs(s, now)
	if level != s.level {
		t.unlink(i)
		t.link(i, level)
	}
}

// place moves a source that was just settled to the end of the list where it belongs. A newcomer keeps its place.
func (t *Tracker) place(i uint32, now int64) {
	s := t.sources.At(i)
	level := uint8(blocked)
	if s.blockedUntil <= now {
		if s.level == newcomers {
			return
		}
		level = t.risk(s)
	}
	t.unlink(i)
	t.link(i, level)
}

// evict drops one source: the one touched longest ago among those that are banned already, otherwise among those of the least risk, and
// the oldest newcomer only if there are no others.
func (t *Tracker) evict() {
	for i := t.lists[blocked].first; i != 0; i = t.lists[blocked].first {
		if t.sources.At(i).blockedUntil > t.now {
			t.evicted++
			t.remove(i)
			return
		}
		t.settleIn(i, t.now) // its ban is over
	}
	for level := range blocked {
		i := t.lists[level].first
		if i == 0 {
			continue
		}
		if t.evicted++; level >= hotLevel && level < newcomers {
			t.evictedHot++
		}
		t.remove(i)
		return
	}
}

// sweep moves the next source in turn to the list where it belongs by now, or drops it if nothing of it is left. Otherwise sources would be
// kept for a score that has decayed long ago.
func (t *Tracker) sweep(now int64) {
	if t.sources.Last() == 0 {
		return
	}
	t.sweepPos = t.sweepPos%t.sources.Last() + 1
	s := t.sources.At(t.sweepPos)
	if !s.live() {
		return
	}
	switch level, empty := t.belongs(s, now); {
	case empty:
		t.remove(t.sweepPos)
	case s.level != newcomers && s.level != level:
		t.unlink(t.sweepPos)
		t.link(t.sweepPos, level)
	}
}

func (t *Tracker) remove(i uint32) {
	s := t.sources.At(i)
	t.attempts.Cut(&s.attempts, 0)
	t.users.Cut(&s.users, 0)
	if k := s.key; !k.Is4() && k.Bits > parentBits {
		parent := k.Widen(parentBits)
		if t.children[parent]--; t.children[parent] == 0 {
			delete(t.children, parent)
		}
	}
	if s.flags&stored != 0 {
		t.gone = append(t.gone, s.key)
	}
	t.index.Remove(s.key.Hash(t.indexing), i)
	t.unlink(i)
	t.unlinkNetwork(i)
	left := s.flags & listed
	t.sources.Put(i)
	s.flags = left
}

// risk returns the eviction list for a source that was just settled.
func (t *Tracker) risk(s *source) uint8 {
	d := 0.0
	if limit := t.scoreLimit(s); limit > 0 {
		d = float64(s.score+s.unverified) / float64(limit)
	}
	for _, r := range t.sums.rules {
		sum := &t.sums.byRule[r]
		d = max(d, float64(sum.verified+sum.unverified)/float64(t.limit(s, r)))
	}
	return uint8(min(levels-1, d*levels))
}
