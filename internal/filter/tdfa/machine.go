package tdfa

import (
	"unicode/utf8"
)

const (
	// maxCache is about how many bytes of states a Machine keeps: several thousand.
	maxCache = 4 << 20

	// A cache that was filled by fewer bytes of text than this for each state does not pay.
	minBytesPerState = 10

	// plainTexts is how many texts then go to package regexp before states are tried again.
	plainTexts = 64
)

// A cell of the transition table is the row of the next state, or with edgeBit an index of Machine.edges.
const (
	edgeBit uint32 = 1 << 31
	unknown uint32 = 1<<32 - 1 // the transition was not needed yet
)

// halted is instead of a row when Machine.final is set.
const halted = unknown

// Values of Machine.final that are not states.
const gaveUp = -1

// A Machine runs a Program. It keeps the states that texts needed before, in bounded memory. It is for one
// goroutine at a time; each has its own.
type Machine struct {
	p     *Program
	build *builder
	regs  []int // by register: a position in the text
	final int   // the state in which the last text ended

	// The cache. A row of table has p.runes.size cells; that of states[i] is the i-th, and states[0] is the
	// beginning of a text.
	table  []uint32
	edges  []edge
	states []state
	index  map[string]int // state by builder.key
	size   int            // of all this, in bytes, roughly
	limit  int            // for size

	read  int // bytes of all texts before this one
	since int // what read was when the cache was last empty
	plain int // how many texts to leave to package regexp
}

// NewMachine returns a Machine for p.
func (p *Program) NewMachine() *Machine { return p.newMachine(maxCache) }

func (p *Program) newMachine(limit int) *Machine {
	m := &Machine{
		p:     p,
		build: newBuilder(p),
		regs:  make([]int, maxRegisters),
		index: make(map[string]int),
		limit: limit,
	}
	m.flush(0)
	return m
}

// Match finds the leftmost match in text and returns the index of its pattern. It sets loc[2*n] and loc[2*n+1] to
// where group n of that pattern begins and ends in text, -1 if the group took no part; group 0 is the whole
// match. What loc has no room for is left out, and what the pattern has no group for is left alone, as is all of loc
// if nothing matches. Text may hold any bytes. The time is linear in len(text), and a warm Machine allocates
// nothing.
func (m *Machine) Match(text []byte, loc []int) (pattern int, ok bool) {
	if m.plain > 0 {
		m.plain--
		return m.p.matchPlain(text, loc)
	}
	m.read += m.run(text)
	if m.final == gaveUp {
		m.plain = plainTexts
		return m.p.matchPlain(text, loc)
	}
	end := &m.states[m.final]
	if end.match == none {
		return 0, false
	}
	slots := end.slots[len(end.slots)-m.p.patterns[end.match].slots:]
	for i, r := range slots[:min(len(loc), len(slots))] {
		loc[i] = -1
		if r != unset {
			loc[i] = m.regs[r]
		}
	}
	return end.match, true
}

// run steps through text, sets m.final and returns how many bytes that took.
func (m *Machine) run(text []byte) int {
	table, ascii := m.table, &m.p.runes.ascii
	row, i := uint32(0), 0
	for {
		for i < len(text) {
			cell := table[row+uint32(ascii[text[i]])]
			if cell == row {
				// The processor guesses that this goes on and need not wait for the cell to know the next row.
				i++
				continue
			}
			if cell >= edgeBit {
				break
			}
			row = cell
			i++
		}
		if row, i = m.take(row, text, i); row == halted {
			return i
		}
		table = m.table
	}
}

// take does the transition from row at text[i:] that may be more than a look-up: one with an edge, one not known yet,
// a rune outside ASCII, the end. It returns the next row and position, or halted and how many bytes were read.
func (m *Machine) take(row uint32, text []byte, i int) (uint32, int) {
	c, width := classEnd, 0
	if i < len(text) {
		c, width = m.p.runes.decode(text[i:])
	}
	cell := m.table[row+uint32(c)]
	if cell == unknown {
		if cell = m.extend(row, c, i); cell == halted {
			return halted, i
		}
	}
	if cell < edgeBit {
		return cell, i + width
	}
	e := &m.edges[cell&^edgeBit]
	m.regs[here] = i
	i += width
	if e.loops {
		for ; i < len(text) && m.table[row+uint32(m.p.runes.ascii[text[i]])] == cell; i++ {
			m.regs[here] = i
		}
	}
	for _, op := range e.ops {
		m.regs[op.to] = m.regs[op.from]
	}
	if n := len(e.text); n > 0 {
		if len(text)-i < n || string(text[i:i+n]) != e.text {
			m.final = e.state
			return halted, i
		}
		i += n
	}
	if e.halts {
		m.final = e.state
		return halted, i
	}
	return m.row(e.state), i
}

// decode returns the class and the width of the first rune of text, which must not be empty.
func (a *alphabet) decode(text []byte) (class, int) {
	if c := class(a.ascii[text[0]]); c != classMulti {
		return c, 1
	}
	r, width := utf8.DecodeRune(text)
	return a.class(r), width
}

// row returns where the row of a state begins in the table.
func (m *Machine) row(state int) uint32 { return uint32(state * m.p.runes.size) }

// extend makes the transition from row on class c, which was needed at position i of the text, and returns its
// cell. It sets m.final to gaveUp and returns halted if the text is better left to package regexp.
func (m *Machine) extend(row uint32, c class, i int) uint32 {
	source := int(row) / m.p.runes.size
	from := m.states[source].frontier
	if m.size > m.limit {
		if read := m.read + i; read-m.since < minBytesPerState*len(m.states) {
			m.final = gaveUp
			m.flush(read)
			return halted
		}
		m.flush(m.read + i)
		source = none // it is no more, and no transition will lead to the new state; but the text goes on there
	}
	literal := m.build.step(&from, c)
	if !m.build.name() {
		m.final = gaveUp
		return halted
	}
	cell := m.cell(source, m.target(), literal)
	if source != none {
		m.table[row+uint32(c)] = cell
	}
	return cell
}

// target returns the state for m.build.next, new if need be.
func (m *Machine) target() int {
	if i, ok := m.index[string(m.build.key)]; ok {
		return i
	}
	i := len(m.states)
	s := m.build.newState()
	m.states = append(m.states, s)
	m.index[string(m.build.key)] = i
	for range m.p.runes.size {
		m.table = append(m.table, unknown)
	}
	m.size += 200 + 4*m.p.runes.size + len(m.build.key) + 4*len(s.pcs) + 2*len(s.slots) + 2*len(s.order)
	return i
}

// cell returns what leads from source, or none, to target by m.build's operations and literal.
func (m *Machine) cell(source, target int, literal string) uint32 {
	t := &m.states[target]
	e := edge{text: literal, state: target, halts: len(t.pcs) == 0, ops: m.build.ops(t.order)}
	if !e.halts && e.text == "" && len(e.ops) == 0 {
		return m.row(target)
	}
	e.loops = source == target && !e.halts && e.text == ""
	for _, op := range e.ops {
		e.loops = e.loops && op.from == here
	}
	m.edges = append(m.edges, e)
	m.size += 80 + 4*len(e.ops) + len(e.text)
	return edgeBit | uint32(len(m.edges)-1)
}

// flush empties the cache, but for the state in which a text begins. So far, read bytes were read.
func (m *Machine) flush(read int) {
	clear(m.edges)
	clear(m.states)
	clear(m.index)
	m.table, m.edges, m.states = m.table[:0], m.edges[:0], m.states[:0]
	m.size, m.since = 0, read
	m.build.begin()
	m.build.name() // has no registers yet, so cannot have too many
	m.target()
}
