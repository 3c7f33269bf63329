package tdfa

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// A register is a place for a position in the text, an index of Machine.regs.
type register uint16

const (
	here    register = iota // the position before the rune that a transition consumes
	scratch                 // for copies that go round in a circle
	firstRegister

	// maxRegisters bounds what a state may use. Only counted wildcards with groups come near it.
	maxRegisters = 1 << 10

	unset register = 1<<16 - 1 // of a slot: the group has not taken part
)

// A frontier is an ordered list of threads, the most preferred first. In a state it is final; a builder's has
// registers of the state it came from, and here for a slot that is set by the transition.
type frontier struct {
	prev  rune       // the summary of the rune before, -1 at the beginning of the text
	pcs   []uint32   // the threads' nodes; each thread has as many slots as its pattern
	match int        // the pattern of which a match was found, less preferred than all threads; or none
	slots []register // of all threads, then those of the match
}

const none = -1

// reset makes f empty, keeping its memory.
func (f *frontier) reset() {
	f.pcs, f.slots, f.match = f.pcs[:0], f.slots[:0], none
}

// A state is a frontier that has a row in the table.
type state struct {
	frontier
	order []register // the different registers in slots, in the order of their first use there
}

// An edge is a transition that does more than change the state and set one register: operations, then a comparison
// of literal text. The position is taken before the rune, and so before the text.
type edge struct {
	ops   []op
	text  string // what must follow the rune; if it does not, the text ends here as far as the target knows
	final int    // the target, whose match is the result if the text ends here; nothing if it has none
	row   uint32 // of the target; halted if that has no threads, so that the text ends here
}

// An op is "register to := register from".
type op struct{ to, from register }

// A builder makes a transition: it computes the frontier that follows on another.
type builder struct {
	p     *Program
	next  frontier
	slots []register // of the thread being followed
	flags syntax.EmptyOp
	class class
	done  bool      // a match was found, so that no later thread can count
	seen  sparseSet // nodes followed
	ahead sparseSet // nodes in next

	key   []byte     // of next, as names a state
	order []register // the different registers in next.slots, in the order of their first use
	rank  []uint16   // by register: its index in order plus 1; zero if it is not in order
	from  []register // by register: what is to be copied there
	read  []bool     // by register: whether it is to be copied from
}

func newBuilder(p *Program) *builder {
	b := &builder{
		p:     p,
		slots: make([]register, p.slots),
		seen:  newSparseSet(len(p.insts)),
		ahead: newSparseSet(len(p.insts)),
		rank:  make([]uint16, maxRegisters),
		from:  make([]register, maxRegisters),
		read:  make([]bool, maxRegisters),
	}
	for r := range b.from {
		b.from[r] = unset
	}
	return b
}

// begin makes b.next the frontier at the beginning of a text.
func (b *builder) begin() {
	b.next.reset()
	b.next.pcs = append(b.next.pcs, 0)
	b.look(-1)
}

// step makes b.next the frontier that follows f on a rune of class c, and returns the literal that must come
// after that rune for any thread to live on. It was already stepped over.
func (b *builder) step(f *frontier, c class) (literal string) {
	b.next.reset()
	b.seen.clear()
	b.ahead.clear()
	b.class, b.done = c, false
	b.flags = syntax.EmptyOpContext(f.prev, b.p.runes.sample[c])
	slots := f.slots
	for _, pc := range f.pcs {
		n := b.p.slotsAt(pc)
		copy(b.slots, slots[:n])
		slots = slots[n:]
		b.follow(pc)
	}
	if !b.done && f.match != none {
		b.next.match = f.match
		b.next.slots = append(b.next.slots, slots...)
	}
	return b.stepLiteral(b.p.runes.sample[c])
}

// follow adds to b.next what can be reached from pc by empty branches and then the rune, the preferred branch first.
func (b *builder) follow(pc uint32) {
	if b.done || !b.seen.add(pc) {
		return
	}
	in := &b.p.insts[pc]
	switch in.op {
	case syntax.InstAlt, syntax.InstAltMatch:
		b.follow(in.out)
		b.follow(in.arg)
	case syntax.InstNop:
		b.follow(in.out)
	case syntax.InstEmptyWidth:
		if syntax.EmptyOp(in.arg)&^b.flags == 0 {
			b.follow(in.out)
		}
	case syntax.InstCapture:
		saved := b.slots[in.arg]
		b.slots[in.arg] = here
		b.follow(in.out)
		b.slots[in.arg] = saved
	case syntax.InstMatch:
		b.found(int(in.pattern))
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		if b.p.runes.contains(in.set, b.class) {
			b.arrive(in.out, in.pattern)
		}
	case opSearch:
		b.search(pc)
	}
}

// search starts a thread for each pattern, and keeps searching if any may begin later.
func (b *builder) search(pc uint32) {
	for i := range b.p.patterns {
		for slot := range b.p.patterns[i].slots {
			b.slots[slot] = unset
		}
		b.slots[0] = here
		b.follow(b.p.patterns[i].start)
	}
	if !b.done && b.p.floating && b.class != classEnd {
		b.next.pcs = append(b.next.pcs, pc)
	}
}

// arrive adds the thread that is at pc after the rune, unless a more preferred one is there.
func (b *builder) arrive(pc uint32, pattern int32) {
	if b.ahead.add(pc) {
		b.next.pcs = append(b.next.pcs, pc)
		b.next.slots = append(b.next.slots, b.slots[:b.p.patterns[pattern].slots]...)
	}
}

// found makes the thread being followed the match.
func (b *builder) found(pattern int) {
	b.done = true
	b.slots[1] = here
	b.next.match = pattern
	b.next.slots = append(b.next.slots, b.slots[:b.p.patterns[pattern].slots]...)
}

// stepLiteral moves b.next over the runes that all its threads must see next and at which none of them branches
// or notes a position, and returns them. Failing that, none of the threads gets any further. The rune before is prev.
func (b *builder) stepLiteral(prev rune) string {
	var literal []byte
	for r := b.commonRune(); r >= 0; r = b.commonRune() {
		literal = utf8.AppendRune(literal, r)
		prev = r
		for i, pc := range b.next.pcs {
			b.next.pcs[i] = b.p.insts[pc].out
		}
	}
	b.look(prev)
	return string(literal)
}

// commonRune returns the only rune that any of b.next's threads can consume, -1 if there is more than one. It is
// never U+FFFD, which many invalid bytes stand for.
func (b *builder) commonRune() rune {
	if len(b.next.pcs) == 0 {
		return -1
	}
	r := b.p.insts[b.next.pcs[0]].lone
	for _, pc := range b.next.pcs {
		if b.p.insts[pc].lone != r {
			return -1
		}
	}
	if !utf8.ValidRune(r) || r == utf8.RuneError {
		return -1
	}
	return r
}

// look notes what b.next needs to know of prev, the rune before it.
func (b *builder) look(prev rune) {
	var asks syntax.EmptyOp
	for _, pc := range b.next.pcs {
		asks |= b.p.insts[pc].asks
	}
	b.next.prev = summary(prev, asks&^(syntax.EmptyEndText|syntax.EmptyEndLine))
}

// slotsAt returns how many slots a thread at pc has.
func (p *Program) slotsAt(pc uint32) int {
	if pattern := p.insts[pc].pattern; pattern >= 0 {
		return p.patterns[pattern].slots
	}
	return 0
}

// name computes b.key, equal for frontiers that differ only in the numbers of their registers, and b.order. It
// reports false if b.next has more registers than a state may.
func (b *builder) name() bool {
	for _, r := range b.order {
		b.rank[r] = 0
	}
	b.order = b.order[:0]
	b.key = binary.AppendVarint(b.key[:0], int64(b.next.prev))
	b.key = binary.AppendVarint(b.key, int64(b.next.match))
	b.key = binary.AppendUvarint(b.key, uint64(len(b.next.pcs)))
	for _, pc := range b.next.pcs {
		b.key = binary.AppendUvarint(b.key, uint64(pc))
	}
	for _, r := range b.next.slots {
		if r == unset {
			b.key = append(b.key, 0)
			continue
		}
		if b.rank[r] == 0 {
			b.order = append(b.order, r)
			b.rank[r] = uint16(len(b.order))
		}
		b.key = binary.AppendUvarint(b.key, uint64(b.rank[r]))
	}
	return len(b.order) < maxRegisters-int(firstRegister)
}

// newState returns the state for b.next. Registers keep their numbers, so that coming from the same state again
// copies nothing; a position that is new gets the lowest free one.
func (b *builder) newState() state {
	order := slices.Clone(b.order)
	if i := slices.Index(order, here); i >= 0 {
		order[i] = firstRegister
		for b.rank[order[i]] != 0 {
			order[i]++
		}
	}
	slots := slices.Clone(b.next.slots)
	for i, r := range slots {
		if r != unset {
			slots[i] = order[b.rank[r]-1]
		}
	}
	f := frontier{prev: b.next.prev, pcs: slices.Clone(b.next.pcs), match: b.next.match, slots: slots}
	return state{f, order}
}

// ops returns the operations that bring the registers of b.next where to has them. They happen one after the
// other, so a register is written only when it was read: a chain of copies is done from its end, and a circle is
// opened with scratch.
func (b *builder) ops(to []register) []op {
	var ops []op
	for i, from := range b.order {
		if from != to[i] {
			b.from[to[i]] = from
			b.read[from] = true
		}
	}
	for _, r := range to {
		if !b.read[r] {
			ops = b.copyChain(ops, r)
		}
	}
	for _, r := range to {
		if b.from[r] != unset { // not copied yet, so part of a circle
			ops = append(ops, op{scratch, r})
			ops = b.copyChain(ops, r)
			ops[len(ops)-1].from = scratch
		}
	}
	return ops
}

// copyChain appends the copy into r, then that into the register that was read, and so on.
func (b *builder) copyChain(ops []op, r register) []op {
	for b.from[r] != unset {
		from := b.from[r]
		ops = append(ops, op{r, from})
		b.from[r], b.read[from] = unset, false
		r = from
	}
	return ops
}

// A sparseSet is a set of node numbers that is cleared at no cost.
type sparseSet struct {
	round uint32
	added []uint32 // by node: the round in which it was added
}

func newSparseSet(n int) sparseSet { return sparseSet{1, make([]uint32, n)} }

// clear makes s empty.
func (s *sparseSet) clear() {
	s.round++
	if s.round == 0 { // rounds begin anew, and old marks would count
		clear(s.added)
		s.round = 1
	}
}

// add reports whether pc was not in s.
func (s *sparseSet) add(pc uint32) bool {
	if s.added[pc] == s.round {
		return false
	}
	s.added[pc] = s.round
	return true
}
