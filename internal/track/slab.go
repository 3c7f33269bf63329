package track

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
