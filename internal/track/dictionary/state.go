package dictionary

import (
	"cmp"
	"slices"

	"mef/internal/track/record"
	"mef/internal/track/surge"
)

// Kind is the first byte of a key; the rest is the name.
const Kind = 'n'

func key(p *record.Pack, text string) {
	p.Begin(Kind)
	p.Writer = append(p.Writer, text...)
}

// Changes adds to p what has changed since the last call.
func (d *Dictionary) Changes(p *record.Pack) {
	for _, text := range d.gone {
		if d.index[text] == nil || d.index[text].flags&dirty == 0 {
			key(p, text)
			p.Remove()
		}
	}
	d.gone = nil
	for _, e := range d.dirty {
		if e.flags&dirty == 0 || d.index[e.Text] != e {
			continue
		}
		e.flags = stored
		key(p, e.Text)
		p.Value(record.Version)
		p.Uint(e.networks[0])
		p.Uint(e.networks[1])
		p.Int(int64(e.period))
		p.Uint(uint64(e.Tries))
		p.Int(e.first)
		p.Int(e.last)
		p.Int(e.Success)
		p.Bool(e.Absent)
		p.Writer = e.surge.AppendTo(p.Writer)
		p.End(false)
	}
	d.dirty = nil
}

// Read returns the entry of a name whose value r reads.
func Read(r *record.Reader, text string) *Entry {
	e := &Entry{Text: text, networks: [2]uint64{r.Uint(), r.Uint()}, period: int32(r.Int()), Tries: uint32(r.Uint()), first: r.Int(), last: r.Int(),
		Success: r.Int(), Absent: r.Bool(), flags: stored}
	var n int
	e.surge, n = surge.Parse(r.Rest, pace().Least)
	r.Skip(n)
	return e
}

// Restore enters names that were read into an empty dictionary, at most so many that have logged in.
func (d *Dictionary) Restore(entries []*Entry, most int) {
	slices.SortFunc(entries, func(a, b *Entry) int { // the oldest first
		return cmp.Or(cmp.Compare(a.Success, b.Success), cmp.Compare(a.last, b.last), cmp.Compare(a.Text, b.Text))
	})
	for _, e := range entries {
		d.index[e.Text] = e
		if e.Success > 0 {
			e.enter(&d.succeeded)
		} else {
			e.enter(&d.demanded)
		}
	}
	for d.succeeded.Len() > most {
		d.remove(d.succeeded.Oldest())
	}
	for d.demanded.Len() > maxDemanded {
		d.remove(d.demanded.Oldest())
	}
	d.stale = true
}
