package webscan

import (
	"net/netip"
	"time"

	"mef/internal/event"
)

// maxRing bounds the times that a ring keeps. A threshold that requires more keeps every second, third, ... request, so that it
// is reached by at most that many requests late.
const maxRing = 256

// A ring keeps when the last requests came, in a part of a source's words: the place of the oldest, how many came since the last that was
// kept, and the times. The zero ring keeps nothing.
type ring struct {
	at, n int // first word, times kept
	every int // each how manieth request is kept
}

func newRing(n, at int) (ring, int) {
	if n == 0 {
		return ring{}, at
	}
	every := (n + maxRing - 1) / maxRing
	r := ring{at, (n + every - 1) / every, every}
	return r, at + 2 + r.n
}

// add keeps a request, and reports whether there are as many within the window as the threshold requires.
func (r ring) add(words []uint32, now, window uint32) bool {
	if r.n == 0 {
		return true
	}
	part := words[r.at : r.at+2+r.n]
	if part[1]++; int(part[1]) >= r.every {
		part[1] = 0
		part[2+part[0]] = now
		part[0] = (part[0] + 1) % uint32(r.n)
	}
	return r.full(words, now, window)
}

// full reports whether there are as many as the threshold requires: the oldest of them is within the window.
func (r ring) full(words []uint32, now, window uint32) bool {
	if r.n == 0 {
		return true
	}
	oldest := words[r.at+2+int(words[r.at])]
	return oldest != 0 && now-oldest <= window
}

// count returns how many there are within the window, as far as they are kept.
func (r ring) count(words []uint32, now, window uint32) (n int) {
	if r.n == 0 {
		return 0
	}
	for _, at := range words[r.at+2 : r.at+2+r.n] {
		if at != 0 && now-at <= window {
			n += r.every
		}
	}
	return n
}

func (r ring) clear(words []uint32) {
	if r.n > 0 {
		clear(words[r.at : r.at+2+r.n])
	}
}

// A set keeps the hashes that were seen last, each with the time: pairs in a part of a source's words. The zero set keeps nothing.
type set struct{ at, n int }

func newSet(n, at int) (set, int) {
	if n == 0 {
		return set{}, at
	}
	return set{at, n}, at + 2*n
}

// add keeps a hash in place of the one that was seen longest ago, and reports whether there are as many within the window as the threshold
// asks for.
func (s set) add(words []uint32, hash, now, window uint32) bool {
	if s.n == 0 {
		return true
	}
	pairs := words[s.at : s.at+2*s.n]
	place := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == hash && pairs[i+1] != 0 {
			place = i
			break
		}
		if pairs[i+1] < pairs[place+1] {
			place = i
		}
	}
	pairs[place], pairs[place+1] = hash, now
	return s.count(words, now, window) == s.n
}

// count returns how many there are within the window.
func (s set) count(words []uint32, now, window uint32) (n int) {
	if s.n == 0 {
		return 0
	}
	pairs := words[s.at : s.at+2*s.n]
	for i := 1; i < len(pairs); i += 2 {
		if pairs[i] != 0 && now-pairs[i] <= window {
			n++
		}
	}
	return n
}

func (s set) clear(words []uint32) { clear(words[s.at : s.at+2*s.n]) }

// A table has the sources. What is counted for them stands in chunks, which are made when they are needed and kept.
type table struct {
	limit int // sources
	size  int // words of a source
	idle  uint32
	index map[netip.Prefix]uint32
	heads []head
	words [][]uint32 // of chunkSources each
	hand  uint32

	base    int64  // the second in which time began
	now     uint32 // never goes back
	evicted uint64

	lines []sampled // of all sources
	next  uint32    // number of the next line, from 1
}

// A head is a source.
type head struct {
	source netip.Prefix
	seen   uint32
	last   uint32 // number of its last sampled line; 0: none
}

// An entry is a source that was found.
type entry struct {
	number uint32
	words  []uint32
}

const (
	chunkSources = 64
	lookedAt     = 8 // sources that are compared when one has to go
)

func newTable(limit, size int, idle uint32) table {
	return table{limit: limit, size: size, idle: idle, index: make(map[netip.Prefix]uint32)}
}

// clock takes note of a time and returns it in seconds; a time before the latest is the latest.
func (t *table) clock(at time.Time) uint32 {
	t.now = max(t.now, t.seconds(at))
	return t.now
}

// seconds counts from a day before the first time, so that a time is never 0.
func (t *table) seconds(at time.Time) uint32 {
	const day = 24 * 3600
	if t.base == 0 {
		t.base = at.Unix() - day
	}
	return uint32(max(1, at.Unix()-t.base))
}

func (t *table) find(source netip.Prefix) (entry, bool) {
	n, ok := t.index[source]
	if !ok {
		return entry{}, false
	}
	return t.entry(n), true
}

func (t *table) entry(n uint32) entry {
	at := int(n%chunkSources) * t.size
	return entry{n, t.words[n/chunkSources][at : at+t.size : at+t.size]}
}

// open returns the entry of a source, a new one if there is none.
func (t *table) open(source netip.Prefix, now uint32, danger func(words []uint32, now uint32) int) entry {
	e, ok := t.find(source)
	if ok && now-t.heads[e.number].seen > t.idle {
		clear(e.words)
		t.heads[e.number].last = 0
	}
	if !ok {
		e = t.entry(t.place(now, danger))
		clear(e.words)
		t.heads[e.number] = head{source: source}
		t.index[source] = e.number
	}
	t.heads[e.number].seen = now
	return e
}

// place returns the number of a place for a new source.
func (t *table) place(now uint32, danger func(words []uint32, now uint32) int) uint32 {
	if len(t.heads) < t.limit {
		n := uint32(len(t.heads))
		if n%chunkSources == 0 {
			t.words = append(t.words, make([]uint32, chunkSources*t.size))
		}
		t.heads = append(t.heads, head{})
		return n
	}
	return t.evict(now, danger)
}

// evict drops a source of those at the hand of a clock, and returns its place. Others that are idle are dropped on the way.
func (t *table) evict(now uint32, danger func(words []uint32, now uint32) int) uint32 {
	victim, least := uint32(0), 1<<30
	for range lookedAt {
		n := t.hand
		t.hand = (t.hand + 1) % uint32(len(t.heads))
		h := &t.heads[n]
		d := -1
		if now-h.seen <= t.idle {
			d = danger(t.entry(n).words, now)
		}
		if d < least || d == least && h.seen < t.heads[victim].seen {
			victim, least = n, d
		}
	}
	delete(t.index, t.heads[victim].source)
	if least >= 0 {
		t.evicted++
	}
	return victim
}

// A sampled is a line that is kept as evidence.
type sampled struct {
	text   [event.MaxEvidence]byte
	length int
	prev   uint32 // the line of the same source before it
	number uint32
}

const (
	maxLines  = 2048 // lines of all sources together, 512 KiB
	lineChunk = 64
	mostLines = 4 // of an episode
)

// sample keeps a line of a source.
func (t *table) sample(e *entry, line []byte) {
	if len(line) == 0 {
		return
	}
	h := &t.heads[e.number]
	t.next++
	at := int(t.next-1) % maxLines
	if at >= len(t.lines) {
		t.lines = append(t.lines, make([]sampled, lineChunk)...)
	}
	s := &t.lines[at]
	s.length = copy(s.text[:], line)
	s.prev, s.number = h.last, t.next
	h.last = t.next
}

// samples returns the last lines of a source that are still there, oldest first.
func (t *table) samples(e *entry) (lines []string) {
	for n := t.heads[e.number].last; n != 0 && len(lines) < mostLines; {
		s := &t.lines[int(n-1)%maxLines]
		if s.number != n {
			break
		}
		lines = append([]string{string(s.text[:s.length])}, lines...)
		n = s.prev
	}
	return lines
}
