package bounded

// An Index finds numbers, such as those of a Slab, by the hash of a key that is kept with what has the number. It takes 8 bytes a slot.
// Where strangers choose the keys, the hash must depend on a secret. The zero value is empty.
type Index struct {
	slots []indexSlot // a power of two of them, at most four fifths in use
	used  int
}

// An indexSlot has a number, 0 for none, and the hash of its key.
type indexSlot struct{ hash, number uint32 }

// Find returns the number with that hash for which is reports true, 0 if there is none.
func (x *Index) Find(hash uint32, is func(number uint32) bool) uint32 {
	if len(x.slots) == 0 {
		return 0
	}
	mask := uint32(len(x.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := x.slots[i]
		if s.number == 0 || s.hash == hash && is(s.number) {
			return s.number
		}
	}
}

// Put enters a number, not 0, whose key is not in the index.
func (x *Index) Put(hash, number uint32) {
	if x.used >= len(x.slots)*4/5 {
		old := x.slots
		x.slots = make([]indexSlot, max(64, 2*len(old)))
		for _, s := range old {
			if s.number != 0 {
				x.enter(s)
			}
		}
	}
	x.enter(indexSlot{hash, number})
	x.used++
}

func (x *Index) enter(s indexSlot) {
	mask := uint32(len(x.slots) - 1)
	i := s.hash & mask
	for x.slots[i].number != 0 {
		i = (i + 1) & mask
	}
	x.slots[i] = s
}

// Remove takes out a number that is in the index.
func (x *Index) Remove(hash, number uint32) {
	mask := uint32(len(x.slots) - 1)
	free := hash & mask
	for x.slots[free].number != number {
		free = (free + 1) & mask
	}
	for i := free; ; { // no gap may be before what follows, or Find would stop there
		i = (i + 1) & mask
		s := x.slots[i]
		if s.number == 0 {
			break
		}
		if home := s.hash & mask; (i-home)&mask >= (i-free)&mask {
			x.slots[free], free = s, i
		}
	}
	x.slots[free] = indexSlot{}
	x.used--
}

// Len returns how many numbers there are.
func (x *Index) Len() int { return x.used }
