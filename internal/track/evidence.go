package track

// evidenceRing keeps the last lines of all sources together, so that its size is known whoever floods it. A source's lines
// are chained; a chain ends where the ring has been overwritten.
type evidenceRing struct {
	slots []evidenceSlot
	next  uint64 // number of the next line, from 1
}

type evidenceSlot struct {
	line string
	prev uint64
}

func (r *evidenceRing) add(prev uint64, line string) uint64 {
	r.next++
	slot := evidenceSlot{line, prev}
	if len(r.slots) < maxEvidence {
		r.slots = append(r.slots, slot)
	} else {
		r.slots[(r.next-1)%maxEvidence] = slot
	}
	return r.next
}

// lines appends the lines of the chain that begins at n to buf, oldest first, at most so many.
func (r *evidenceRing) lines(buf []string, n uint64, most int) []string {
	start := len(buf)
	for n != 0 && n+maxEvidence > r.next && len(buf)-start < most {
		slot := r.slots[(n-1)%maxEvidence]
		buf = append(buf, slot.line)
		n = slot.prev
	}
	for i, j := start, len(buf)-1; i < j; i, j = i+1, j-1 {
		buf[i], buf[j] = buf[j], buf[i]
	}
	return buf
}
