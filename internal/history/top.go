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

// encode appends the first labels of the table.
func (t *top) encode(b []byte) []byte {
	for _, r := range t.most(saved) {
		b = append(binary.AppendUvarint(b, uint64(len(r.label))), r.label...)
		for _, v := range []uint64{r.attempts, r.bans, uint64(r.first), uint64(r.last)} {
			b = binary.AppendUvarint(b, v)
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

// tops are the tables of an hour or a day.
type tops [len(dimensions)]top

// merge adds what others have.
func (t *tops) merge(others *tops) {
	for i := range t {
		for label, r := range others[i].rows {
			t[i].merge(label, *r)
		}
	}
}

// bound makes tables that others were merged into as small as they are otherwise.
func (t *tops) bound() {
	for i := range t {
		for len(t[i].rows) > 2*counted {
			t[i].halve()
		}
	}
}

// encode returns the tables, each after its length.
func (t *tops) encode() (b []byte) {
	for i := range t {
		one := t[i].encode(nil)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(one))), one...)
	}
	return b
}

// decode adds what encode returned to the tables that are asked for, or with -1 to all.
func (t *tops) decode(b []byte, only int) {
	for i := range t {
		if len(b) < 2 {
			return
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; len(b) < n {
			return
		}
		if only < 0 || only == i {
			t[i].decode(b[:n])
		}
		b = b[n:]
	}
}

// shown returns the first rows of a table.
func (t *top) shown(n int) []control.StatRow {
	rows := []control.StatRow{}
	for _, r := range t.most(n) {
		rows = append(rows, control.StatRow{Label: r.label, Attempts: r.attempts, Bans: r.bans, First: moment(r.first), Last: moment(r.last)})
	}
	return rows
}
