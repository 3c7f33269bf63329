package bounded

import "math"

// MaxLines is how many lines are kept of all sources together.
const MaxLines = 16_384

// Lines is a ring of the latest lines of all sources together. The lines of one source are chained; a chain ends where the ring has been
// overwritten. They are nearly equal, so only the latest of a chain is kept whole, and of each other how it differs from the next one. The zero
// value is ready.
type Lines struct {
	slots []slot
	texts Arrays[byte]
	next  uint64 // number of the next line, from 1

	read [][]byte // what Read returns
	text []byte   // and its text
}

type slot struct {
	text       Array  // without what the line shares with the next one of its chain
	start, end uint8  // how many of that one's first and last bytes it shares
	back       uint32 // how much lower the number of the line before is; 0: there is none
}

// Add adds a line to the chain whose latest line has the number prev, 0 for a new chain, and returns the number of the line.
func (l *Lines) Add(prev uint64, line []byte) uint64 {
	l.next++
	if len(l.slots) < MaxLines {
		l.slots = append(l.slots, slot{})
	}
	s := l.at(l.next)
	l.texts.Cut(&s.text, 0)
	*s = slot{text: l.texts.Put(line)}
	if l.has(prev) {
		s.back = uint32(l.next - prev)
		l.shorten(l.at(prev), line)
	}
	return l.next
}

func (l *Lines) at(n uint64) *slot { return &l.slots[(n-1)%MaxLines] }

// has reports whether the ring still has a line.
func (l *Lines) has(n uint64) bool { return n != 0 && n+MaxLines > l.next }

// shorten leaves out of a line what it shares with the next one.
func (l *Lines) shorten(s *slot, next []byte) {
	text := l.texts.Of(s.text)
	most := min(len(text), len(next))
	start, end := 0, 0
	for start < min(most, math.MaxUint8) && text[start] == next[start] {
		start++
	}
	for end < min(most-start, math.MaxUint8) && text[len(text)-1-end] == next[len(next)-1-end] {
		end++
	}
	s.start, s.end = uint8(start), uint8(end)
	l.texts.Cut(&s.text, copy(text, text[start:len(text)-end]))
}

// Read returns the lines of the chain whose latest line has the number n, oldest first, at most so many, until the next call.
func (l *Lines) Read(n uint64, most int) [][]byte {
	l.read, l.text = l.read[:0], l.text[:0]
	var next []byte
	for l.has(n) && len(l.read) < most {
		s := l.at(n)
		begin := len(l.text)
		l.text = append(l.text, next[:s.start]...)
		l.text = append(l.text, l.texts.Of(s.text)...)
		l.text = append(l.text, next[len(next)-int(s.end):]...)
		next = l.text[begin:len(l.text):len(l.text)]
		l.read = append(l.read, next)
		if s.back == 0 {
			break
		}
		n -= uint64(s.back)
	}
	for i, j := 0, len(l.read)-1; i < j; i, j = i+1, j-1 {
		l.read[i], l.read[j] = l.read[j], l.read[i]
	}
	return l.read
}

// Chain appends what Read returns to buf.
func (l *Lines) Chain(buf []string, n uint64, most int) []string {
	for _, line := range l.Read(n, most) {
		buf = append(buf, string(line))
	}
	return buf
}

// Len returns how many lines are kept.
func (l *Lines) Len() int { return len(l.slots) }
