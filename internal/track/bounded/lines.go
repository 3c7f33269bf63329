package bounded

// MaxLines is how many lines are kept of all sources together.
const MaxLines = 16_384

// Lines is a ring of the latest lines of all sources together. The lines of one source are chained; a chain ends where the ring has been
// overwritten. The zero value is ready.
type Lines struct {
	slots []slot
	next  uint64 // number of the next line, from 1
}

type slot struct {
	line string
	prev uint64
}

// Add adds a line to the chain whose latest line has the number prev, 0 for a new chain, and returns the number of the line.
func (l *Lines) Add(prev uint64, line string) uint64 {
	l.next++
	s := slot{line, prev}
	if len(l.slots) < MaxLines {
		l.slots = append(l.slots, s)
	} else {
		l.slots[(l.next-1)%MaxLines] = s
	}
	return l.next
}

// Chain appends the lines of the chain that begins at n to buf, oldest first, at most so many.
func (l *Lines) Chain(buf []string, n uint64, most int) []string {
	start := len(buf)
	for n != 0 && n+MaxLines > l.next && len(buf)-start < most {
		s := l.slots[(n-1)%MaxLines]
		buf = append(buf, s.line)
		n = s.prev
	}
	for i, j := start, len(buf)-1; i < j; i, j = i+1, j-1 {
		buf[i], buf[j] = buf[j], buf[i]
	}
	return buf
}

// Len returns how many lines are kept.
func (l *Lines) Len() int { return len(l.slots) }
