package reputation

import (
	"cmp"
	"encoding/binary"
	"errors"
	"iter"
	"maps"
	"math/bits"
	"slices"
)

// User names are decided about like addresses, from the same trust with the same caps. A Book has only hashes of names, with a salt that changes each week,
// and so the names of a week are counted apart; those of the week before stay until the next week, while hosts report again.
//
// A name is hot if the mass that sees it attacked would list an address, and is at least half of the mass of all that report any name in that week, or in
// the week before if that is more. A
// reporter does not report a name that exists there, so a name that exists in many places is not hot, although nobody says where it exists. An own host
// vetoes a name that it has: the operator who can read that is its own. New names wait for such vetoes if there are own hosts.
const (
	maxNames   = 50_000  // that are kept of a week; half of them can be used by reporters that are not established
	namesOfDay = 400     // new names that a reporter reports in a day
	vetoTime   = Hour(2) // for which names wait
	maxWeeks   = 3       // that are kept: this one, the one before, and the next one of a request at its beginning
)

// ErrWeek is the error of names with the salt of another week.
var ErrWeek = errors.New("the names have the salt of another week; fetch the list of names again")

// A nameTable has the names that were reported in one week.
type nameTable struct {
	week  int64
	by    set // all that report any
	names map[uint64]*name

	// What follows was computed in the hour hotAt, and nothing has changed since.
	hot, waiting []uint64
	hotAt        Hour
}

// A name is what is reported of one.
type name struct {
	by    set  // reporters that see it attacked
	own   set  // own hosts where it exists
	since Hour // when the former were enough for the first time, 0: not yet
}

// A set has numbers of reporters, a bit for each.
type set []uint64

func (s set) has(n int) bool { return n/64 < len(s) && s[n/64]&(1<<(n%64)) != 0 }

func (s *set) add(n int) {
	if more := n/64 + 1 - len(*s); more > 0 {
		*s = append(*s, make([]uint64, more)...)
	}
	(*s)[n/64] |= 1 << (n % 64)
}

func (s set) remove(n int) {
	if n/64 < len(s) {
		s[n/64] &^= 1 << (n % 64)
	}
}

func (s set) empty() bool { return !slices.ContainsFunc(s, func(w uint64) bool { return w != 0 }) }

func (s set) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range s {
			for ; w != 0; w &= w - 1 {
				if !yield(i*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

func weekOf(h Hour) int64 { return int64(h / week) }

// namesOf returns the names of a week, nil if it is past or not yet.
func (b *Book) namesOf(w int64) *nameTable {
	if now := weekOf(b.now); w != now && w != now-1 && w != weekOf(b.now+1) { // the log's hour may be behind that of a request
		return nil
	}
	of := b.userNames[w]
	if of == nil {
		of = &nameTable{week: w, names: make(map[uint64]*name)}
		b.userNames[w] = of
	}
	return of
}

// forgetNames forgets the names of weeks that have passed.
func (b *Book) forgetNames() {
	maps.DeleteFunc(b.userNames, func(w int64, _ *nameTable) bool { return w < weekOf(b.now)-1 })
}

// Names adds hashes of user names, with the salt of a week (counted from 1970), that a reporter sees attacked, and of those that exist there, which count if
// it is an own host. Adding them twice changes nothing. The error says why some have no effect.
func (b *Book) Names(id string, week int64, attacked, own []uint64) error {
	i, r, err := b.reporter(id)
	if err != nil {
		return err
	}
	of := b.namesOf(week)
	if of == nil {
		return ErrWeek
	}
	if today := int(b.now / day); r.NameDay != today {
		r.NameDay, r.Named = today, 0
	}
	of.hotAt = 0
	of.by.add(i)
	for _, hash := range attacked {
		if e := b.addName(of, hash, i, r); e != nil {
			err = e
		}
	}
	if r.Role != Own {
		return err
	}
	for _, hash := range own {
		if n := of.names[hash]; n != nil {
			n.own.add(i)
			n.by.remove(i)
		}
	}
	return err
}

// addName adds that a reporter sees a name attacked.
func (b *Book) addName(of *nameTable, hash uint64, i int, r *Reporter) error {
	n := of.names[hash]
	if n == nil || !n.by.has(i) {
		if r.Named >= namesOfDay {
			return ErrQuota
		}
		r.Named++
	}
	if n == nil {
		if len(of.names) >= maxNames || len(of.names) >= maxNames/2 && r.trust < established {
			return ErrFull
		}
		n = new(name)
		of.names[hash] = n
	}
	n.by.add(i)
	if n.since == 0 && b.massOf(n.by).lists(threshold) {
		n.since = b.now
	}
	return nil
}

// HotNames returns the hashes of the names of a week that are hot, in ascending order, at most so many: those of the most mass. waiting: with those that own
// hosts can still veto. The result must not be changed.
func (b *Book) HotNames(week int64, most int, waiting bool) []uint64 {
	of := b.userNames[week]
	if of == nil {
		return nil
	}
	if of.hotAt != b.now {
		b.findHot(of, most)
	}
	if waiting {
		return of.waiting
	}
	return of.hot
}

func (b *Book) findHot(of *nameTable, most int) {
	all := b.massOf(of.by).mass
	if before := b.userNames[of.week-1]; before != nil { // those who report first in a week are not all
		all = max(all, b.massOf(before.by).mass)
	}
	need := max(int64(threshold), all/2)
	type hot struct {
		hash uint64
		mass int64
	}
	var found []hot
	for hash, n := range of.names {
		if n.since == 0 || !n.own.empty() {
			continue
		}
		if m := b.massOf(n.by); m.lists(need) {
			found = append(found, hot{hash, m.mass})
		}
	}
	slices.SortFunc(found, func(x, y hot) int { return cmp.Or(cmp.Compare(y.mass, x.mass), cmp.Compare(x.hash, y.hash)) })
	ask := slices.ContainsFunc(b.reporters, func(r *Reporter) bool { return r.Role == Own && !r.Revoked })
	of.hot, of.waiting, of.hotAt = nil, nil, b.now
	for _, f := range found[:min(len(found), most)] {
		of.waiting = append(of.waiting, f.hash)
		if !ask || b.now >= of.names[f.hash].since+vetoTime {
			of.hot = append(of.hot, f.hash)
		}
	}
	slices.Sort(of.hot)
	slices.Sort(of.waiting)
}

// massOf adds up the trust of reporters.
func (b *Book) massOf(by set) mass {
	b.sums.clear()
	for i := range by.all() {
		b.count(i, b.reporters[i].trust)
	}
	return b.sum()
}

// renewNames has hot names computed again: the trust or the system of a reporter has changed.
func (b *Book) renewNames() {
	for _, of := range b.userNames {
		of.hotAt = 0
	}
}

// revokeNames removes what a reporter has reported of names.
func (b *Book) revokeNames(i int) {
	b.renewNames()
	for _, of := range b.userNames {
		of.by.remove(i)
		for hash, n := range of.names {
			n.by.remove(i)
			n.own.remove(i)
			if n.by.empty() && n.own.empty() {
				delete(of.names, hash)
			} else if !b.massOf(n.by).lists(threshold) {
				n.since = 0
			}
		}
	}
}

// append appends the saved form of a week.
func (of *nameTable) append(out []byte) []byte {
	out = of.by.append(binary.AppendUvarint(out, uint64(of.week)))
	out = binary.AppendUvarint(out, uint64(len(of.names)))
	for hash, n := range of.names {
		out = binary.BigEndian.AppendUint64(out, hash)
		out = binary.AppendVarint(n.own.append(n.by.append(out)), int64(n.since))
	}
	return out
}

func (s set) append(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(s)))
	for _, w := range s {
		out = binary.AppendUvarint(out, w)
	}
	return out
}

// names reads a week.
func (l *loader) names() *nameTable {
	of := &nameTable{week: int64(l.number(1 << 40)), by: l.set(), names: make(map[uint64]*name)}
	for n := l.number(maxNames); n > 0 && l.err == nil; n-- {
		var hash uint64
		for range 8 {
			hash = hash<<8 | uint64(l.byte())
		}
		of.names[hash] = &name{by: l.set(), own: l.set(), since: l.hour()}
	}
	return of
}

// set reads a set of reporters.
func (l *loader) set() set {
	s := make(set, l.number((l.reporters+63)/64))
	for i := range s {
		w, err := binary.ReadUvarint(l.in)
		l.failed(err)
		s[i] = w
	}
	for i := range s.all() {
		if i >= l.reporters {
			l.failed(errors.New("a name is reported by nobody"))
		}
	}
	return s
}
