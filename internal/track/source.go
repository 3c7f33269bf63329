package track

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/event"
)

// A key is a prefix in 17 bytes without pointers: IPv4 is stored as IPv4-mapped IPv6, its length plus 96.
type key struct {
	addr [16]byte
	bits uint8
}

const mappedBits = 96 // what an IPv4 prefix length grows by in a key

// keyOf returns the key of addr's network of so many bits, counted in addr's own family.
func keyOf(addr netip.Addr, bits int) key {
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return key{}
	}
	if addr.Is4() {
		bits += mappedBits
	}
	return key{p.Addr().As16(), uint8(bits)}
}

// keyOfPrefix is keyOf for a prefix that is masked already.
func keyOfPrefix(p netip.Prefix) key { return keyOf(p.Addr(), p.Bits()) }

func (k key) prefix() netip.Prefix {
	a := netip.AddrFrom16(k.addr)
	if a.Is4In6() {
		return netip.PrefixFrom(a.Unmap(), int(k.bits)-mappedBits)
	}
	return netip.PrefixFrom(a, int(k.bits))
}

func (k key) is4() bool { return netip.AddrFrom16(k.addr).Is4In6() }

// widen returns the IPv6 network of so many bits around k.
func (k key) widen(bits int) key { return keyOf(netip.AddrFrom16(k.addr), bits) }

// A source is what is remembered of one address or network. It holds no pointer, so 100,000 of them cost the garbage
// collector nothing; what grows (attempts, evidence) hangs on it by index.
type source struct {
	key   key
	level uint8 // the list it is in
	flags uint8

	attempts   uint32 // newest first
	prev, next uint32 // neighbours in the eviction list

	shut     int64  // until when a verified ban of all ports keeps it out, as far as known; 0: none does
	seen     int64  // when score and users were last decayed: the latest event
	evidence uint64 // newest line in the evidence ring

	score      float32 // verified points
	unverified float32 // points whose source may be forged
	users      [4]contribution
}

const (
	dirty  = 1 << iota // changed since the last Changes
	stored             // part of an earlier Changes, so its removal must be told
	listed             // its index is in Tracker.dirty, also if it has been removed since
)

func (s *source) live() bool { return s.key.bits != 0 }

// A contribution is what the failures of one user name added to a source's verified score. A success takes it back.
type contribution struct {
	user   uint32 // hash; 0: none
	points float32
}

// An attempt is one counted line, or as many quarters as it counted.
type attempt struct {
	at       int64
	user     uint32 // hash; 0: none
	session  uint32 // hash; 0: none
	next     uint32 // the next older one of the source
	rule     uint16
	quarters uint8
	flags    uint8
}

const (
	echoed     = 1 << iota // counted on the word of an echo; the line it echoes is still to come and counts no more
	unverified             // the source may be forged
)

// A slab hands out values by index, from 1, and never returns memory: its size is bounded by what its user takes.
type slab[T any] struct {
	chunks [][]T
	free   []uint32
	used   uint32 // indexes ever handed out
}

const chunk = 512

func (s *slab[T]) at(i uint32) *T { return &s.chunks[i/chunk][i%chunk] }

func (s *slab[T]) get() uint32 {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i
	}
	s.used++
	if int(s.used/chunk) == len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, chunk))
	}
	return s.used
}

func (s *slab[T]) put(i uint32) {
	var zero T
	*s.at(i) = zero
	s.free = append(s.free, i)
}

func (s *slab[T]) len() int { return int(s.used) - len(s.free) }

// A source is in one of these lists.
const (
	// By its danger, in eighths of the nearest of its limits. The lists from hotLevel on are those above half a limit.
	levels   = 8
	hotLevel = levels / 2

	// Newcomers are in a list of their own, first come first out, whatever their danger. Nobody in the other lists, however
	// many they are, can take their room, so that whoever comes has time to show what he is: an attacker would fill the table
	// with sources just below their limits and be free with all others.
	newcomers = levels

	// Sources that a verified ban keeps out on all ports go first when there is no room. The ban holds without them, the
	// history knows it when they come back, and their lines that are still under way cannot make more of it. What is lost is
	// the rest of a score that would mostly have faded by the end of the ban.
	shutOut = levels + 1

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
	s, l := t.sources.at(i), &t.lists[level]
	s.level, s.prev, s.next = level, l.last, 0
	if l.last != 0 {
		t.sources.at(l.last).next = i
	} else {
		l.first = i
	}
	l.last = i
	l.n++
}

func (t *Tracker) unlink(i uint32) {
	s := t.sources.at(i)
	l := &t.lists[s.level]
	l.n--
	if s.prev != 0 {
		t.sources.at(s.prev).next = s.next
	} else {
		l.first = s.next
	}
	if s.next != 0 {
		t.sources.at(s.next).prev = s.prev
	} else {
		l.last = s.prev
	}
}

// find returns the index of the entry that counts for addr, and its key. The index is 0 if there is none yet.
func (t *Tracker) find(addr netip.Addr) (uint32, key) {
	k := t.key(addr)
	if i := t.index[k]; i != 0 || k.is4() {
		return i, k
	}
	if k.bits > parentBits && t.children[k.widen(parentBits)] >= maxChildren {
		k = k.widen(parentBits)
	}
	return t.index[k], k
}

// key returns what addr counts as.
func (t *Tracker) key(addr netip.Addr) key {
	if addr.Is4() || t.cfg.OnLink.Contains(addr) {
		return keyOf(addr, addr.BitLen())
	}
	return keyOf(addr, t.cfg.IPv6Prefix)
}

// insert makes an entry for k, at the cost of another one if there is no room.
func (t *Tracker) insert(k key, now int64) uint32 {
	if t.sources.len() >= t.cfg.MaxSources {
		t.sweep(now)
		t.sweep(now)
	}
	for t.sources.len() >= t.cfg.MaxSources {
		t.evict()
	}
	i := t.sources.get()
	s := t.sources.at(i)
	s.key, s.seen, s.shut = k, now, t.holds.shut(k, now)
	t.index[k] = i
	if !k.is4() && k.bits > parentBits {
		t.children[k.widen(parentBits)]++
	}
	if s.shut > now {
		t.link(i, shutOut)
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
	t.decay(&aside, now)
	t.sumUp(s, now)
	empty = event.Points(float64(aside.score+aside.unverified)) == 0 && !t.counting()
	if s.shut > now {
		return shutOut, empty
	}
	return t.danger(&aside), empty
}

// settleIn moves a source to the list where it belongs by now.
func (t *Tracker) settleIn(i uint32, now int64) {
	s := t.sources.at(i)
	level, _ := t.belongs(s, now)
	if level != s.level {
		t.unlink(i)
		t.link(i, level)
	}
}

// place moves a source that was just settled to the end of the list where it belongs. A newcomer keeps its place.
func (t *Tracker) place(i uint32, now int64) {
	s := t.sources.at(i)
	level := uint8(shutOut)
	if s.shut <= now {
		if s.level == newcomers {
			return
		}
		level = t.danger(s)
	}
	t.unlink(i)
	t.link(i, level)
}

// evict drops one source: of those that are banned already the one touched longest ago, else of those in the least danger,
// and only if there are no others, the newcomer that came first.
func (t *Tracker) evict() {
	for i := t.lists[shutOut].first; i != 0; i = t.lists[shutOut].first {
		if t.sources.at(i).shut > t.now {
			t.evicted++
			t.remove(i)
			return
		}
		t.settleIn(i, t.now) // its ban is over
	}
	for level := range shutOut {
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

// sweep looks at the next source in turn and moves it to the list where it belongs by now, or drops it if nothing of it is
// left. Without it, sources that have cooled down would be kept for the danger they once were.
func (t *Tracker) sweep(now int64) {
	if t.sources.used == 0 {
		return
	}
	t.hand = t.hand%t.sources.used + 1
	s := t.sources.at(t.hand)
	if !s.live() {
		return
	}
	switch level, empty := t.belongs(s, now); {
	case empty:
		t.remove(t.hand)
	case s.level != newcomers && s.level != level:
		t.unlink(t.hand)
		t.link(t.hand, level)
	}
}

// counting reports whether the sums hold anything.
func (t *Tracker) counting() bool {
	return slices.ContainsFunc(t.sums, func(s sum) bool { return s != sum{} })
}

func (t *Tracker) remove(i uint32) {
	s := t.sources.at(i)
	for a := s.attempts; a != 0; {
		next := t.attempts.at(a).next
		t.attempts.put(a)
		a = next
	}
	if k := s.key; !k.is4() && k.bits > parentBits {
		parent := k.widen(parentBits)
		if t.children[parent]--; t.children[parent] == 0 {
			delete(t.children, parent)
		}
	}
	if s.flags&stored != 0 {
		t.gone = append(t.gone, s.key)
	}
	delete(t.index, s.key)
	t.unlink(i)
	left := s.flags & listed
	t.sources.put(i)
	s.flags = left
}

// touch marks a source as changed.
func (t *Tracker) touch(i uint32) {
	s := t.sources.at(i)
	if s.flags&listed == 0 {
		t.dirty = append(t.dirty, i)
	}
	s.flags |= dirty | listed
}

// settle brings a source to now: its points decay, and its attempts that are too old, or more than the rule's limit needs,
// are dropped. It leaves the sums of what remains in t.sums.
func (t *Tracker) settle(s *source, now int64) {
	t.decay(s, now)
	clear(t.sums)
	at := &s.attempts
	for *at != 0 {
		a := t.attempts.at(*at)
		if t.obsolete(a, now) {
			i := *at
			*at = a.next
			t.attempts.put(i)
			continue
		}
		t.sums[a.rule].add(a)
		at = &a.next
	}
}

func (t *Tracker) decay(s *source, now int64) {
	if now <= s.seen {
		return
	}
	f := float32(math.Exp2(-float64(now-s.seen) / float64(t.cfg.Score.HalfLife)))
	s.score *= f
	s.unverified *= f
	for i := range s.users {
		s.users[i].points *= f
	}
	s.seen = now
}

// sumUp leaves in t.sums what settle would, and changes nothing else.
func (t *Tracker) sumUp(s *source, now int64) {
	clear(t.sums)
	for i := s.attempts; i != 0; {
		a := t.attempts.at(i)
		if !t.obsolete(a, now) {
			t.sums[a.rule].add(a)
		}
		i = a.next
	}
}

// obsolete reports whether an attempt no longer matters, given the sums of all newer ones. Forgeable attempts never push
// out verified ones.
func (t *Tracker) obsolete(a *attempt, now int64) bool {
	r := &t.rules[a.rule]
	sum := t.sums[a.rule].verified
	if a.flags&unverified != 0 {
		sum = t.sums[a.rule].unverified
	}
	return now-a.at > int64(r.rule.FindTime) || sum >= event.WholeAttempts(r.rule.MaxRetry)
}

// A sum is what a source's attempts at one rule come to.
type sum struct {
	verified, unverified event.Attempts
	first                int64
}

func (s *sum) add(a *attempt) {
	if a.flags&unverified != 0 {
		s.unverified += event.Attempts(a.quarters)
	} else {
		s.verified += event.Attempts(a.quarters)
	}
	s.first = a.at // attempts come newest first
}

// danger returns the eviction list for a source that was just settled.
func (t *Tracker) danger(s *source) uint8 {
	d := float64(s.score+s.unverified) / float64(max(1, t.cfg.Score.Ban))
	for r, sum := range t.sums {
		if q := sum.verified + sum.unverified; q > 0 {
			d = max(d, float64(q)/float64(event.WholeAttempts(t.rules[r].rule.MaxRetry)))
		}
	}
	return uint8(min(levels-1, d*levels))
}

// credit adds points to the contribution of a user, in place of the smallest one if the user has none.
func (s *source) credit(user uint32, points float32) {
	if user == 0 {
		return
	}
	least := 0
	for i := range s.users {
		if s.users[i].user == user {
			s.users[i].points = max(0, s.users[i].points+points)
			return
		}
		if s.users[i].points < s.users[least].points {
			least = i
		}
	}
	if points > 0 {
		s.users[least] = contribution{user, points}
	}
}

// forgive takes back what the failures of a user added: in the score and in the windows of all rules.
func (t *Tracker) forgive(s *source, user uint32) {
	for i := range s.users {
		if c := &s.users[i]; c.user == user {
			s.score = max(0, s.score-c.points)
			*c = contribution{}
		}
	}
	t.drop(s, func(a *attempt) bool { return a.user == user })
}

// drop removes the attempts that fit.
func (t *Tracker) drop(s *source, fits func(*attempt) bool) {
	at := &s.attempts
	for *at != 0 {
		i := *at
		if a := t.attempts.at(i); fits(a) {
			*at = a.next
			t.attempts.put(i)
		} else {
			at = &a.next
		}
	}
}

// evidenceRing keeps the last lines of all sources together, so that its size is known whoever floods it. A source's lines
// are chained; a chain ends where the ring has been overwritten.
type evidenceRing struct {
	slots []evidenceSlot
	next  uint64 // number of the next line, from 1
}

type evidenceSlot struct {
	line string
	prev uint64
}

func (r *evidenceRing) add(prev uint64, line string) uint64 {
	r.next++
	slot := evidenceSlot{line, prev}
	if len(r.slots) < maxEvidence {
		r.slots = append(r.slots, slot)
	} else {
		r.slots[(r.next-1)%maxEvidence] = slot
	}
	return r.next
}

// lines appends the lines of the chain that begins at n to buf, oldest first, at most so many.
func (r *evidenceRing) lines(buf []string, n uint64, most int) []string {
	start := len(buf)
	for n != 0 && n+maxEvidence > r.next && len(buf)-start < most {
		slot := r.slots[(n-1)%maxEvidence]
		buf = append(buf, slot.line)
		n = slot.prev
	}
	for i, j := start, len(buf)-1; i < j; i, j = i+1, j-1 {
		buf[i], buf[j] = buf[j], buf[i]
	}
	return buf
}

// moment returns the time of nanoseconds since 1970; 0 is the zero time.
func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
