// Package surge counts the unknown sources that fail within a window, at one rule or with one user name, and compares them with what is
// usual. Many addresses that try little each are one attack, though none of them reaches a limit by itself.
package surge

import (
	"encoding/binary"
	"math"
	"time"
)

// A Surge counts sources in windows. The zero value has not begun.
type Surge struct {
	start     int64  // of the current window
	cur, prev uint32 // sources in the current and the previous window
	usual     float64
}

// unusual is how many times the usual number of sources is an attack.
const unusual = 3

// A Scale defines how a Surge counts.
type Scale struct {
	Window time.Duration
	Least  float64       // sources per window that are usual at the least, so that a new server does not take its everyday life for an attack
	Pace   time.Duration // time in which what is usual doubles at most
}

// Add counts one more source.
func (s *Surge) Add(now int64, by Scale) {
	s.roll(now, by)
	s.cur++
}

// roll begins a new window if the current one is over, and learns from the old one what is usual: slowly, so that a day of
// attack no more than doubles it.
func (s *Surge) roll(now int64, by Scale) {
	if s.start == 0 {
		s.start, s.usual = now, by.Least
	}
	window, passed := int64(by.Window), now-s.start
	if passed < window {
		return
	}
	s.learn(float64(s.cur), window, by)
	if s.prev = s.cur; passed >= 2*window {
		s.learn(0, passed-window, by)
		s.prev = 0
	}
	s.cur = 0
	s.start += passed - passed%window
}

func (s *Surge) learn(seen float64, passed int64, by Scale) {
	paces := float64(passed) / float64(by.Pace)
	next := seen + (s.usual-seen)*math.Exp(-paces)
	s.usual = max(by.Least, min(next, s.usual*math.Exp2(paces)))
}

// Sources estimates how many sources failed within the window that ends now.
func (s *Surge) Sources(now int64, by Scale) int {
	s.roll(now, by)
	left := 1 - float64(now-s.start)/float64(by.Window)
	return int(s.cur) + int(left*float64(s.prev))
}

// Attack returns the sources that failed within the window if they are an attack of at least so many, otherwise 0.
func (s *Surge) Attack(now int64, by Scale, least int) int {
	if n := s.Sources(now, by); n >= least && float64(n) >= unusual*s.usual {
		return n
	}
	return 0
}

// Begun reports whether a source was ever counted.
func (s *Surge) Begun() bool { return s.start != 0 }

// Current returns how many sources have been counted in the current window.
func (s *Surge) Current() int { return int(s.cur) }

// Usual returns how many sources per window are usual.
func (s *Surge) Usual() int { return int(math.Round(s.usual)) }

// SetBack notes that the clock has been set back to now.
func (s *Surge) SetBack(now int64) { s.start = min(s.start, now) }

// AppendTo appends the binary form of the surge to b.
func (s *Surge) AppendTo(b []byte) []byte {
	b = binary.AppendVarint(b, s.start)
	b = binary.AppendUvarint(b, uint64(s.cur))
	b = binary.AppendUvarint(b, uint64(s.prev))
	return binary.AppendUvarint(b, math.Float64bits(s.usual))
}

// Parse reads what AppendTo wrote at the beginning of b, and returns how many bytes that is, 0 if it is anything else. At least so many
// sources are usual.
func Parse(b []byte, least float64) (s Surge, size int) {
	start, n := binary.Varint(b)
	size = n
	var rest [3]uint64
	for i := range rest {
		if n <= 0 {
			return Surge{}, 0
		}
		rest[i], n = binary.Uvarint(b[size:])
		size += n
	}
	if n <= 0 {
		return Surge{}, 0
	}
	s = Surge{start, uint32(rest[0]), uint32(rest[1]), math.Float64frombits(rest[2])}
	if !(s.usual >= least && s.usual < math.MaxUint32) {
		s.usual = least
	}
	return s, size
}
