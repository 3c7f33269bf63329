package history

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"mef/internal/control"
)

const (
	// counted is how many labels a table is sure to have room for, and saved how many of them are saved, those with the most attempts.
	counted = 200
	saved   = 40
	// maxLabel is how long a label may be, in bytes; a longer one is cut.
	maxLabel = 64
)

// A row is what is counted of a label.
type row struct {
	attempts, bans uint64
	first, last    int64 // Unix time
}

// A top counts the labels that occur most, in bounded memory: when it is full, the half with the fewest attempts is dropped, so that labels that
// occur once leave room for those that come again. A count may be too low by what was dropped before.
type top struct {
	rows map[string]*row
	free []*row // that were dropped, to be used again
}

// add counts for a label.
func (t *top) add(label string, attempts, bans uint64, now int64) {
	if label == "" {
		return
	}
	label = label[:min(len(label), maxLabel)]
	r := t.rows[label]
	if r == nil {
		r = t.insert(label, now)
	}
	r.attempts, r.bans, r.last = r.attempts+attempts, r.bans+bans, now
}

// addBytes is add for a short label whose bytes the caller uses again.
func (t *top) addBytes(label []byte, attempts, bans uint64, now int64) {
	r := t.rows[string(label)]
	if r == nil {
		r = t.insert(string(label), now)
	}
	r.attempts, r.bans, r.last = r.attempts+attempts, r.bans+bans, now
}

// insert adds a label, and drops others if there are too many.
func (t *top) insert(label string, now int64) *row {
	if len(t.rows) >= 2*counted {
		t.halve()
	}
	return t.make(strings.Clone(label), now)
}

func (t *top) make(label string, first int64) *row {
	if t.rows == nil {
		t.rows = make(map[string]*row)
	}
	var r *row
	if n := len(t.free); n > 0 {
		r, t.free = t.free[n-1], t.free[:n-1]
	} else {
		r = new(row)
	}
	*r = row{first: first}
	t.rows[label] = r
	return r
}

// halve drops the labels with the fewest attempts and bans; of those with the same number, the ones that were counted last longest ago.
func (t *top) halve() {
	all := t.all()
	slices.SortFunc(all, func(a, b labelled) int {
		return cmp.Or(cmp.Compare(a.attempts+a.bans, b.attempts+b.bans), cmp.Compare(a.last, b.last))
	})
	for _, one := range all[:len(all)/2] {
		delete(t.rows, one.label)
		t.free = append(t.free, one.row)
	}
}

// A labelled is a row with its label.
type labelled struct {
	label string
	*row
}

// all returns all rows.
func (t *top) all() []labelled {
	all := make([]labelled, 0, len(t.rows))
	for label, r := range t.rows {
		all = append(all, labelled{label, r})
	}
	return all
}

// merge adds what another time has of a label.
func (t *top) merge(label string, o row) {
	r := t.rows[label]
	if r == nil {
		r = t.make(label, o.first)
	}
	r.attempts, r.bans, r.first, r.last = r.attempts+o.attempts, r.bans+o.bans, min(r.first, o.first), max(r.last, o.last)
}

// most returns the n rows with the most attempts and bans.
func (t *top) most(n int) []labelled {
	all := t.all()
	slices.SortFunc(all, func(a, b labelled) int {
		return cmp.Or(cmp.Compare(b.attempts, a.attempts), cmp.Compare(b.bans, a.bans), cmp.Compare(a.label, b.label))
	})
	return all[:min(n, len(all))]
}

// encode returns the first labels of the table, as many as have room.
func (t *top) encode(room int) (b []byte) {
	for _, r := range t.most(saved) {
		before := len(b)
		b = append(binary.AppendUvarint(b, uint64(len(r.label))), r.label...)
		for _, v := range []uint64{r.attempts, r.bans, uint64(r.first), uint64(r.last)} {
			b = binary.AppendUvarint(b, v)
		}
		if len(b) > room {
			return b[:before]
		}
	}
	return b
}

// decode adds what encode returned. Anything else ends it.
func (t *top) decode(b []byte) {
	for len(b) > 0 {
		n, used := binary.Uvarint(b)
		if used <= 0 || n == 0 || n > maxLabel || uint64(len(b)-used) < n {
			return
		}
		label := string(b[used : used+int(n)])
		b = b[used+int(n):]
		var v [4]uint64
		for i := range v {
			if v[i], used = binary.Uvarint(b); used <= 0 {
				return
			}
			b = b[used:]
		}
		t.merge(label, row{v[0], v[1], int64(v[2]), int64(v[3])})
	}
}

// The tables that there are, in the order in which they are saved.
var dimensions = [...]string{"ports", "services", "sources", "networks", "names"}

// tops are tables of each dimension.
type tops [len(dimensions)]top

// bound makes tables that others were merged into as small as they are otherwise.
func (t *tops) bound() {
	for i := range t {
		for len(t[i].rows) > 2*counted {
			t[i].halve()
		}
	}
}

// encode appends the tables, each after its length, as many of their rows as have room.
func (t *tops) encode(b []byte, room int) []byte {
	if room-len(b) < 2*len(t) {
		return b
	}
	for i := range t {
		one := t[i].encode((room-len(b))/(len(t)-i) - 2)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(one))), one...)
	}
	return b
}

// decode adds what encode appended to the tables that are asked for, or with -1 to all. It returns what is behind it.
func (t *tops) decode(b []byte, only int) []byte {
	for i := range t {
		if len(b) < 2 {
			return nil
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; len(b) < n {
			return nil
		}
		if only < 0 || only == i {
			t[i].decode(b[:n])
		}
		b = b[n:]
	}
	return b
}

// tables are those of an hour or a day. What was dropped has tables of its own, in which packets take the place of attempts: a flood of packets
// that are dropped must not displace the attempts that got through.
type tables struct{ came, dropped tops }

// merge adds what others have of a dimension, or with -1 of all.
func (t *tables) merge(others *tables, only int) {
	for i := range t.came {
		if only >= 0 && only != i {
			continue
		}
		for label, r := range others.came[i].rows {
			t.came[i].merge(label, *r)
		}
		for label, r := range others.dropped[i].rows {
			t.dropped[i].merge(label, *r)
		}
	}
}

func (t *tables) bound() {
	t.came.bound()
	t.dropped.bound()
}

// encode returns the tables. Those of drops, which earlier versions did not have and pass over, take the room that long labels would have: not
// all of their rows may have it.
func (t *tables) encode() []byte {
	return t.dropped.encode(t.came.encode(nil, topSize), topSize-slotHead)
}

func (t *tables) decode(b []byte, only int) { t.dropped.decode(t.came.decode(b, only), only) }

// shown returns the first n rows of a table: those with the most attempts and those with the most drops, in turn, the attempts first.
func shown(came, dropped *top, n int) []control.StatRow {
	rows, there := []control.StatRow{}, make(map[string]bool)
	add := func(all []labelled, i int) {
		if i >= len(all) || len(rows) == n || there[all[i].label] {
			return
		}
		r := all[i]
		one, first, last := control.StatRow{Label: r.label}, r.first, r.last
		if c := came.rows[r.label]; c != nil {
			one.Attempts, one.Bans, first, last = c.attempts, c.bans, min(first, c.first), max(last, c.last)
		}
		if d := dropped.rows[r.label]; d != nil {
			one.Drops, first, last = d.attempts, min(first, d.first), max(last, d.last)
		}
		one.First, one.Last, there[r.label] = moment(first), moment(last), true
		rows = append(rows, one)
	}
	byAttempts, byDrops := came.most(n), dropped.most(n)
	for i := range n {
		add(byAttempts, i)
		add(byDrops, i)
	}
	slices.SortFunc(rows, func(a, b control.StatRow) int {
		return cmp.Or(cmp.Compare(b.Attempts, a.Attempts), cmp.Compare(b.Bans, a.Bans), cmp.Compare(b.Drops, a.Drops), cmp.Compare(a.Label, b.Label))
	})
	return rows
}
