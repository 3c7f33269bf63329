package track

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A login is a user who has logged in from an address, and so is trusted a little there.
type login struct {
	pair
	last    int64 // latest success
	counted int64 // latest failure that counted
	flags   uint8

	newer, older *login
}

// A pair is a user at an address. Users are compared by name alone, whatever the service.
type pair struct {
	from key
	user string
}

// logins is the table of known logins: at most so many in all and addresses per user, those of the oldest success first to
// go. It has a bound of its own, so that a flood of failures cannot push out who belongs here.
type logins struct {
	pairs          map[pair]*login
	users          map[string][]*login // a user's logins
	within         map[key]int         // logins in a source, and in each network a ban may be widened to
	newest, oldest *login

	changed bool   // some login is dirty
	gone    []pair // stored logins that were removed
}

func newLogins() logins {
	return logins{pairs: map[pair]*login{}, users: map[string][]*login{}, within: map[key]int{}}
}

// success makes user known at an address.
func (t *Tracker) success(from key, user string, now int64) {
	l := t.logins.pairs[pair{from, user}]
	if l == nil {
		t.makeRoom(user)
		l = &login{pair: pair{from, strings.Clone(user)}} // not all of the line that it was cut out of
		t.addLogin(l)
	} else {
		t.logins.unlink(l)
	}
	t.logins.linkNewest(l)
	l.last = now
	t.touchLogin(l)
}

func (t *Tracker) touchLogin(l *login) {
	l.flags |= dirty
	t.logins.changed = true
}

// makeRoom drops the oldest login of the user, or of all, if one more would be too many.
func (t *Tracker) makeRoom(user string) {
	if of := t.logins.users[user]; len(of) >= t.cfg.Known.PerUser && len(of) > 0 {
		t.removeLogin(slices.MinFunc(of, func(a, b *login) int {
			return cmp.Or(cmp.Compare(a.last, b.last), slices.Compare(a.from.addr[:], b.from.addr[:]))
		}))
	}
	if len(t.logins.pairs) >= t.cfg.Known.Total && t.logins.oldest != nil {
		t.removeLogin(t.logins.oldest)
	}
}

func (t *Tracker) addLogin(l *login) {
	t.logins.pairs[l.pair] = l
	t.logins.users[l.user] = append(t.logins.users[l.user], l)
	t.countLogin(l.from, 1)
}

func (t *Tracker) removeLogin(l *login) {
	t.logins.unlink(l)
	delete(t.logins.pairs, l.pair)
	of := t.logins.users[l.user]
	if of = slices.DeleteFunc(of, func(o *login) bool { return o == l }); len(of) == 0 {
		delete(t.logins.users, l.user)
	} else {
		t.logins.users[l.user] = of
	}
	t.countLogin(l.from, -1)
	if l.flags&stored != 0 {
		t.logins.gone = append(t.logins.gone, l.pair)
	}
}

func (t *Tracker) countLogin(from key, n int) {
	t.countWithin(from, n)
	if from.is4() {
		return
	}
	for _, bits := range widths {
		if bits < int(from.bits) {
			t.countWithin(from.widen(bits), n)
		}
	}
}

func (t *Tracker) countWithin(k key, n int) {
	if t.logins.within[k] += n; t.logins.within[k] == 0 {
		delete(t.logins.within, k)
	}
}

// forgetLogins drops the logins whose success is too old to mean anything.
func (t *Tracker) forgetLogins(now int64) {
	for l := t.logins.oldest; l != nil && now-l.last > int64(t.cfg.Known.TTL); l = t.logins.oldest {
		t.removeLogin(l)
	}
}

func (ls *logins) linkNewest(l *login) {
	l.older, l.newer = ls.newest, nil
	if ls.newest != nil {
		ls.newest.newer = l
	} else {
		ls.oldest = l
	}
	ls.newest = l
}

func (ls *logins) unlink(l *login) {
	if l.newer != nil {
		l.newer.older = l.older
	} else {
		ls.newest = l.older
	}
	if l.older != nil {
		l.older.newer = l.newer
	} else {
		ls.oldest = l.newer
	}
	l.newer, l.older = nil, nil
}

// A KnownLogin is a user known at an address.
type KnownLogin struct {
	User string    `json:"user"`
	Last time.Time `json:"last"` // latest success
}

// knownAt returns who is known at an address, ordered by name.
func (t *Tracker) knownAt(from key, now int64) []KnownLogin {
	var out []KnownLogin
	if t.logins.within[from] == 0 {
		return nil
	}
	for p, l := range t.logins.pairs {
		if p.from == from && now-l.last <= int64(t.cfg.Known.TTL) {
			out = append(out, KnownLogin{p.user, moment(l.last)})
		}
	}
	slices.SortFunc(out, func(a, b KnownLogin) int { return cmp.Compare(a.User, b.User) })
	return out
}

// KnownWithin returns how many known logins there are inside p.
func (t *Tracker) KnownWithin(p netip.Prefix) (n int) {
	for l := range t.logins.pairs {
		if p.Overlaps(l.from.prefix()) {
			n++
		}
	}
	return n
}
