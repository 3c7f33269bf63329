package store

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"mef/internal/ban"
)

// A pending is updates merged by key, in the form in which the file gets them: a ban as a value takes a third of what it takes as a
// ban.Ban with its texts, and very many may wait for the disk.
type pending struct {
	bans      map[string][]byte // entries by key; nil: lifted
	records   map[string]stored // by key
	positions map[string]string
	notes     map[string]string // empty: removed

	enc encoder
}

// A stored is a record's sealed value, or a spare one's entry; nil: it is removed.
type stored struct {
	value []byte
	spare bool
}

func newPending() *pending {
	return &pending{bans: make(map[string][]byte), records: make(map[string]stored), positions: make(map[string]string), notes: make(map[string]string)}
}

func (p *pending) len() int { return len(p.bans) + len(p.positions) + len(p.records) + len(p.notes) }

// add merges an update that came later; of its bans it keeps what there is room for. A ban both put and lifted in it is lifted.
func (p *pending) add(u *Update, room room) {
	for i := range u.Bans {
		k := banKey(u.Bans[i].Key)
		p.bans[string(k)] = enter(k, p.enc.ban(room.shorten(&u.Bans[i])))
	}
	for _, k := range u.Lifted {
		p.bans[string(banKey(k))] = nil
	}
	maps.Copy(p.positions, u.Positions)
	for _, r := range u.Records {
		s := stored{spare: r.Spare}
		switch {
		case len(r.Value) == 0:
		case r.Spare:
			s.value = enter(r.Key, r.Value)
		default:
			s.value = seal(r.Key, r.Value)
		}
		p.records[string(r.Key)] = s
	}
	maps.Copy(p.notes, u.Notes)
}

// merge takes over what came later.
func (p *pending) merge(later *pending) {
	maps.Copy(p.bans, later.bans)
	maps.Copy(p.records, later.records)
	maps.Copy(p.positions, later.positions)
	maps.Copy(p.notes, later.notes)
}

// fill adds what is waiting about the keys to what was read of them.
func (p *pending) fill(bans map[ban.Key]ban.Ban, keys []ban.Key) {
	if len(p.bans) == 0 {
		return
	}
	var d decoder
	for _, key := range keys {
		entry, waits := p.bans[string(banKey(key))]
		if !waits {
			continue
		}
		delete(bans, key)
		if k, v, ok := leave(entry); ok {
			if b, err := d.ban(k, v); err == nil {
				bans[key] = b
			}
		}
	}
}

// forget drops what need not be written any more, so that a disk that stays full does not fill memory: bans that are over
// meanwhile, and removals of what the file does not have. What remains is bounded by the state itself.
func (p *pending) forget(s *Store, now time.Time) {
	for k, entry := range p.bans {
		_, v := split(entry)
		until, err := decodeUntil(v)
		lifted := err != nil
		switch {
		case !lifted && !over(until, now):
		case lifted && s.db == nil: // the file might have it
		case s.holdsBan(k):
			p.bans[k] = nil
		default:
			delete(p.bans, k)
		}
	}
	for k, r := range p.records {
		if r.value == nil && !s.holdsRecord(k) {
			delete(p.records, k)
		}
	}
}

// A change is one entry of the file to be put, or deleted.
type change struct {
	key   string
	value []byte // as in a pending; nil: to be deleted
	spare bool
}

// A part is what one transaction writes.
type part struct {
	bans, records    []change
	positions, notes map[string]string
}

// part returns all of it.
func (p *pending) part() part {
	out := part{positions: p.positions, notes: p.notes, bans: make([]change, 0, len(p.bans)), records: make([]change, 0, len(p.records))}
	for k, v := range p.bans {
		out.bans = append(out.bans, change{key: k, value: v})
	}
	for k, r := range p.records {
		out.records = append(out.records, change{k, r.value, r.spare})
	}
	// Neighbours share pages. (Entries of tables are written in the order in which they come.)
	slices.SortFunc(out.records, func(a, b change) int { return cmp.Compare(a.key, b.key) })
	return out
}

// partSize is how many entries of one kind a small part has.
const partSize = 128

// cut cuts a part into small ones: what makes room first, then bans, the spare records behind the others, and the positions last.
func (p part) cut() iter.Seq[part] {
	rank := func(c change) int {
		switch {
		case c.value == nil:
			return 0
		case !c.spare:
			return 1
		}
		return 2
	}
	byRank := func(a, b change) int { return cmp.Compare(rank(a), rank(b)) }
	bans, records := slices.Clone(p.bans), slices.Clone(p.records)
	slices.SortStableFunc(bans, byRank)
	slices.SortStableFunc(records, byRank)
	kept := func(changes []change) int {
		n := slices.IndexFunc(changes, func(c change) bool { return c.value != nil })
		if n < 0 {
			n = len(changes)
		}
		return n
	}
	lifted, gone := kept(bans), kept(records)
	return func(yield func(part) bool) {
		for some := range slices.Chunk(bans[:lifted], partSize) {
			if !yield(part{bans: some}) {
				return
			}
		}
		for some := range slices.Chunk(records[:gone], partSize) {
			if !yield(part{records: some}) {
				return
			}
		}
		for some := range slices.Chunk(bans[lifted:], partSize) {
			if !yield(part{bans: some}) {
				return
			}
		}
		for some := range slices.Chunk(records[gone:], partSize) {
			if !yield(part{records: some}) {
				return
			}
		}
		yield(part{positions: p.positions, notes: p.notes})
	}
}

// refusable returns how many entries are lost if there is no page for the part. A lifted ban must not be: it would be in force again
// after a restart.
func (p *part) refusable() int {
	if slices.ContainsFunc(p.bans, func(c change) bool { return c.value == nil }) {
		return 0
	}
	return len(p.bans) + len(p.records)
}

// shorten leaves out of the bans what there is no room for.
func (p *part) shorten(room room) {
	var d decoder
	var e encoder
	for i := range p.bans {
		c := &p.bans[i]
		if k, v, ok := leave(c.value); ok {
			if b, err := d.ban(k, v); err == nil {
				c.value = enter(k, e.ban(room.shorten(&b)))
			}
		}
	}
}
