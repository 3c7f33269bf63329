package bounded

import "unsafe"

// An Array is a short array of an Arrays. The zero value is an empty one.
type Array struct {
	where uint32 // its size class in the upper bits, and the number of its place there
	n     uint32
}

// Len returns how many values an array has.
func (a Array) Len() int { return int(a.n) }

// Arrays holds very many short arrays of values without a pointer to each, the values of an array beside each other. Arrays of about one size
// are kept together, and memory in which no array is left is returned. The zero value is ready.
type Arrays[T any] struct {
	classes []class[T]
	n       int
}

const (
	placeBits = 26
	piece     = 4096 // bytes that are taken at a time, unless an array needs more
)

// widthOf returns how many values an array of a class has room for: 1, 2, 3, 5, 8, 12, 16, 24, 32 and so on.
func widthOf(class int) int {
	if class < 4 {
		return [...]int{1, 2, 3, 5}[class]
	}
	return (8 + class%2*4) << (class/2 - 2)
}

// A class has the arrays of one width.
type class[T any] struct {
	width, each uint32 // values of an array, and arrays of a piece
	pieces      []pieceOf[T]
	open        []uint32 // pieces with room
	bare        []uint32 // pieces whose memory was returned
	empty       int      // open pieces without an array: at most one
}

type pieceOf[T any] struct {
	values []T
	free   []uint16 // places that were given back
	used   uint16   // places ever taken
	at     uint32   // its place in class.open, if it is there
}

func (c *class[T]) at(place uint32) []T {
	i := place % c.each * c.width
	return c.pieces[place/c.each].values[i : i+c.width]
}

func (c *class[T]) full(p *pieceOf[T]) bool { return len(p.free) == 0 && uint32(p.used) == c.each }

func (p *pieceOf[T]) empty() bool { return len(p.free) == int(p.used) }

// take returns a free place.
func (c *class[T]) take() (place uint32) {
	if len(c.open) == 0 {
		c.grow()
	}
	number := c.open[len(c.open)-1]
	p := &c.pieces[number]
	if p.empty() {
		c.empty--
	}
	i := p.used
	if n := len(p.free); n > 0 {
		i, p.free = p.free[n-1], p.free[:n-1]
	} else {
		p.used++
	}
	if c.full(p) {
		c.open = c.open[:len(c.open)-1]
	}
	return number*c.each + uint32(i)
}

// grow opens a piece.
func (c *class[T]) grow() {
	number := uint32(len(c.pieces))
	if n := len(c.bare); n > 0 {
		number, c.bare = c.bare[n-1], c.bare[:n-1]
	} else {
		c.pieces = append(c.pieces, pieceOf[T]{})
	}
	c.pieces[number] = pieceOf[T]{values: make([]T, c.each*c.width), at: uint32(len(c.open))}
	c.open = append(c.open, number)
	c.empty++
}

// put takes a place back.
func (c *class[T]) put(place uint32) {
	number := place / c.each
	p := &c.pieces[number]
	if c.full(p) {
		p.at = uint32(len(c.open))
		c.open = append(c.open, number)
	}
	p.free = append(p.free, uint16(place%c.each))
	switch {
	case !p.empty():
	case c.empty == 0:
		c.empty++
	default:
		last := len(c.open) - 1
		c.open[p.at] = c.open[last]
		c.pieces[c.open[last]].at = p.at
		c.open = c.open[:last]
		*p = pieceOf[T]{}
		c.bare = append(c.bare, number)
	}
}

// Of returns the values of an array, for as long as it is neither appended to nor cut.
func (s *Arrays[T]) Of(a Array) []T {
	if a.n == 0 {
		return nil
	}
	return s.classes[a.where>>placeBits].at(a.where & (1<<placeBits - 1))[:a.n]
}

// Append appends a value to an array.
func (s *Arrays[T]) Append(a *Array, value T) {
	s.n++
	if a.n == 0 || a.n == s.classes[a.where>>placeBits].width {
		s.move(a, s.Of(*a), a.n+1)
	}
	a.n++
	s.Of(*a)[a.n-1] = value
}

// Cut keeps the first n values of an array.
func (s *Arrays[T]) Cut(a *Array, n int) {
	s.n -= int(a.n) - n
	switch {
	case n == int(a.n):
	case n == 0:
		s.release(a)
		*a = Array{}
	case 2*n <= int(s.classes[a.where>>placeBits].width):
		s.move(a, s.Of(*a)[:n], uint32(n))
	default:
		a.n = uint32(n)
	}
}

// Put returns a new array of values.
func (s *Arrays[T]) Put(values []T) (a Array) {
	if len(values) > 0 {
		s.n += len(values)
		s.move(&a, values, uint32(len(values)))
	}
	return a
}

// move puts values at another place, with room for so many.
func (s *Arrays[T]) move(a *Array, values []T, room uint32) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	k := 0
	for uint32(widthOf(k)) < room {
		k++
	}
	for len(s.classes) <= k {
		width := widthOf(len(s.classes))
		s.classes = append(s.classes, class[T]{width: uint32(width), each: uint32(max(1, piece/size/width))})
	}
	c := &s.classes[k]
	place := c.take()
	copy(c.at(place), values)
	if a.n > 0 {
		s.release(a)
	}
	*a = Array{uint32(k)<<placeBits | place, uint32(len(values))}
}

func (s *Arrays[T]) release(a *Array) {
	s.classes[a.where>>placeBits].put(a.where & (1<<placeBits - 1))
}

// Len returns how many values all arrays have.
func (s *Arrays[T]) Len() int { return s.n }
