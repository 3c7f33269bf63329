// Package bounded has containers whose size does not depend on who fills them.
package bounded

// A Slab hands out values by index, from 1, and never returns memory: its size is bounded by what its user takes. The zero value is
// ready.
type Slab[T any] struct {
	chunks [][]T
	free   []uint32
	used   uint32 // indexes ever handed out
}

const chunk = 256

// At returns the value of an index that Get has returned.
func (s *Slab[T]) At(i uint32) *T { return &s.chunks[i/chunk][i%chunk] }

// Get returns the index of a zero value.
func (s *Slab[T]) Get() uint32 {
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

// Put takes a value back and zeroes it.
func (s *Slab[T]) Put(i uint32) {
	var zero T
	*s.At(i) = zero
	s.free = append(s.free, i)
}

// Len returns how many values are in use.
func (s *Slab[T]) Len() int { return int(s.used) - len(s.free) }

// Last returns the highest index that has ever been handed out. Those that are free have zero values.
func (s *Slab[T]) Last() uint32 { return s.used }
