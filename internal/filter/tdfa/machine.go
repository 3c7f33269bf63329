package tdfa

import "unicode/utf8"

const (
	// maxCache is about how many bytes of states a Machine keeps: several thousand.
	maxCache = 4 << 20

	// A cache that was filled by fewer bytes of text than this for each state does not pay.
	minBytesPerState = 10

	// plainTexts is how many texts then go to package regexp before states are tried again.
	plainTexts = 64
)

// A cell of the transition table has, from its low bits, the row of the next state and the register to set to the
// position before the rune; setting the register here changes nothing. Or it has edgeBit and an index of
// Machine.edges, for a transition that does more.
const (
	rowBits        = 21
	edgeBit uint32 = 1 << 31
	unknown uint32 = 1<<32 - 1 // the transition was not needed yet

	// Rows and registers must fit a cell.
	_ = uint(1<<rowBits - maxCache/4)
	_ = uint(1<<(31-rowBits) - maxRegisters)
)

// halted is instead of a row when Machine.final is set.
const halted = unknown

// What is instead of a state in Machine.final.
const (
	nothing = -1 // the text does not match
	gaveUp  = -2 // the text is to be given to package regexp
)

// A Machine runs a Program. It keeps the states that texts needed before, in bounded memory. It is for one
// goroutine at a time; each has its own.
type Machine struct {
	p     *Program
	build *builder
	regs  [maxRegisters]int // positions in the text
	final int               // the state in which the last text ended and whose match is the result

	// The cache. A row of table has p.runes.size cells; that of states[i] is the i-th, and states[0] is the
	// beginning of a text.
	table  []uint32
	edges  []edge
	states []state
	index  map[string]int // state by builder.key
	size   int            // of all this, in bytes, roughly
	limit  int            // for size

	vain [256]bool // the first bytes, as far as they were met, with which no match begins

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
	if len(text) > 0 && m.vain[text[0]] {
		return 0, false
	}
	if m.plain > 0 {
		m.plain--
		return m.p.matchPlain(text, loc)
	}
	m.read += m.run(text)
	switch m.final {
	case nothing:
		return 0, false
	case gaveUp:
		m.plain = plainTexts
		return m.p.matchPlain(text, loc)
	}
	end := &m.states[m.final]
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
				for i++; i < len(text) && table[row+uint32(ascii[text[i]])] == row; i++ {
				}
				continue
			}
			if cell < edgeBit {
				m.regs[cell>>rowBits&(maxRegisters-1)] = i
				row = cell & (1<<rowBits - 1)
				i++
				continue
			}
			if cell == unknown {
				break
			}
			if row, i = m.follow(&m.edges[cell&^edgeBit], text, i, 1); row == halted {
				return i
			}
		}
		if row, i = m.take(row, text, i); row == halted {
			return i
		}
		table = m.table
	}
}

// take does the transition from row at text[i:] when that may be more than a look-up: it is not known yet, or on a rune outside
// ASCII or the end. It returns the next row and position, or halted and how many bytes were read.
func (m *Machine) take(row uint32, text []byte, i int) (uint32, int) {
	c, width := classEnd, 0
	if i < len(text) {
		c, width = class(m.p.runes.ascii[text[i]]), 1
		if c == classMulti {
			c, width = m.p.runes.decode(text[i:])
		}
	}
	cell := m.table[row+uint32(c)]
	if cell == unknown {
		if cell = m.extend(row, c, i); cell == halted {
			return halted, i
		}
	}
	if cell < edgeBit {
		m.regs[cell>>rowBits] = i
		return cell & (1<<rowBits - 1), i + width
	}
	return m.follow(&m.edges[cell&^edgeBit], text, i, width)
}

// follow does the transition of an edge on a rune of so many bytes at text[i:]. It returns what take does.
func (m *Machine) follow(e *edge, text []byte, i, width int) (uint32, int) {
	m.regs[here] = i
	i += width
	for _, op := range e.ops {
		m.regs[op.to] = m.regs[op.from]
	}
	m.final = e.final
	if n := len(e.text); n > 0 {
		if len(text)-i < n || string(text[i:i+n]) != e.text {
			return halted, i
		}
		i += n
	}
	return e.row, i
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
	cell := m.cell(m.target(), literal)
	if row == 0 && cell&edgeBit != 0 && literal == "" && m.edges[cell&^edgeBit].final == nothing && m.edges[cell&^edgeBit].row == halted {
		for b := range m.vain {
			m.vain[b] = m.vain[b] || class(m.p.runes.ascii[b]) == c && b < utf8.RuneSelf
		}
	}
	if source != none {
		m.table[row+uint32(c)] = cell
		if cell == row && c == m.p.runes.beyond {
			// Each byte outside ASCII leads back here whatever rune it is of, so none needs decoding.
			m.table[row+uint32(classMulti)] = cell
		}
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

// cell returns what leads to target by m.build's operations and literal.
func (m *Machine) cell(target int, literal string) uint32 {
	t := &m.states[target]
	e := edge{ops: m.build.ops(t.order), text: literal, final: target, row: m.row(target)}
	if t.match == none {
		e.final = nothing
	}
	if len(t.pcs) == 0 {
		e.row = halted
	} else if literal == "" && len(e.ops) == 0 {
		return e.row
	} else if literal == "" && len(e.ops) == 1 && e.ops[0].from == here {
		return uint32(e.ops[0].to)<<rowBits | e.row
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
