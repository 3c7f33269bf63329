package bans

import (
	"slices"

	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// The kinds of record, the first byte of a key.
const (
	KindHistory = 'h' // a past ban; the rest is its number
	KindLift    = 'f' // a lifted ban; the rest is the prefix
)

// Changes adds to p what has changed since the last call.
func (h *History) Changes(p *record.Pack) {
	for _, n := range h.gone {
		p.BeginNumber(KindHistory, n)
		p.Remove()
	}
	h.gone = nil
	if h.changed == 0 {
		return
	}
	for n := max(h.changed, h.oldest()); n <= h.next; n++ {
		if e := h.at(n); e != nil && e.flags&dirty != 0 {
			e.flags = e.flags&^dirty | stored
			p.BeginNumber(KindHistory, n)
			p.Value(record.Version)
			p.Writer = e.key.AppendTo(p.Writer)
			p.Bool(e.joined())
			p.Bool(e.lifted())
			p.Int(e.start)
			p.Int(e.until)
			p.Uint(e.id)
			p.Text(h.rules[e.rule])
			p.End(false)
		}
	}
	h.changed = 0
}

// Saved are past bans that were read, by number.
type Saved map[uint64]saved

type saved struct {
	past
	rule string
}

// Read reads the past ban of a key, without its kind.
func (s Saved) Read(r *record.Reader, rest []byte) {
	k, ok := netkey.Parse(r.Take(netkey.Size))
	flags := stored | flagged(r.Bool(), joined) | flagged(r.Bool(), lifted)
	p := saved{past{key: k, flags: flags, start: r.Int(), until: r.Int(), id: r.Uint()}, r.Text()}
	n := r.Number(rest)
	if !ok {
		r.Fail()
	}
	if r.Err == nil {
		s[n] = p
	}
}

// Restore fills an empty history. Numbers stay what they are; those between that are missing hold nothing.
func (h *History) Restore(saved Saved) {
	numbers := make([]uint64, 0, len(saved))
	for n := range saved {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	if extra := len(numbers) - h.size; extra > 0 {
		h.gone = append(h.gone, numbers[:extra]...)
		numbers = numbers[extra:]
	}
	if len(numbers) == 0 {
		return
	}
	last := numbers[len(numbers)-1]
	h.next = last
	for _, n := range numbers {
		if n+uint64(h.size) <= last || n == 0 {
			h.gone = append(h.gone, n)
			continue
		}
		p := h.slot(n)
		*p = saved[n].past
		p.rule = h.rule(saved[n].rule)
		h.link(n, p)
	}
}

// Changes adds to p what has changed since the last call.
func (l *Lifts) Changes(p *record.Pack) {
	for k := range l.changed {
		p.Begin(KindLift)
		p.Writer = k.AppendTo(p.Writer)
		if at, ok := l.at[k]; ok {
			p.Value(record.Version)
			p.Int(at)
			p.End(false)
		} else {
			p.Remove()
		}
	}
	clear(l.changed)
}

// Read reads the lift of a key, without its kind.
func (l *Lifts) Read(r *record.Reader, rest []byte) {
	at := r.Int()
	k, ok := netkey.Parse(rest)
	if !ok {
		r.Fail()
	}
	if r.Err == nil {
		l.Add(k, at)
		delete(l.changed, k)
	}
}
