package track

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
)

// A login is a user at an address: one who has logged in from there, or one who fails there and is known elsewhere.
type login struct {
	pair
	last int64 // latest success; 0: none

	// What is forgiven: a bucket of failures that fills with each and drains with time.
	spent   float32
	at      int64 // when spent was true
	counted int64 // when a forgiven failure counted last
	points  float32

	flags        uint8
	newer, older *login
}

// A pair is a user of a service at an address. Users are compared by account name.
type pair struct {
	from          key
	service, user string
}

// logins is the table of known logins: at most so many in all and addresses per user, those of the oldest success first to
// go. It has a bound of its own, so that a flood of failures cannot push out the users of this host. Guests are users who fail
// where they have not logged in yet, and are in a table beside it, with the same bound.
type logins struct {
	pairs  map[pair]*login
	users  map[string][]*login // a user's logins, of all services
	within map[key]int         // users in a source, and in each network around it that is banned or suspected as a whole
	known  loginList

	guests map[pair]*login
	guest  map[key]int // guests of an address
	strays loginList

	changed bool   // some login is dirty
	gone    []pair // stored logins that were removed
}

func newLogins() logins {
	return logins{pairs: map[pair]*login{}, users: map[string][]*login{}, within: map[key]int{}, guests: map[pair]*login{}, guest: map[key]int{}}
}

// success makes a user known at an address.
func (t *Tracker) success(of pair, now int64) *login {
	l := t.logins.pairs[of]
	if l == nil {
		of.user, of.service = strings.Clone(of.user), strings.Clone(of.service) // not all of the line that it was cut out of
		l = &login{pair: of}
		t.makeRoom(of)
		t.addLogin(l)
	} else {
		t.logins.known.unlink(l)
	}
	t.logins.known.linkNewest(l)
	l.last, l.spent = now, 0
	t.touchLogin(l)
	return l
}

func (t *Tracker) touchLogin(l *login) {
	l.flags |= dirty
	t.logins.changed = true
}

// makeRoom drops the oldest login of the user at the service, or of all, if one more would be too many.
func (t *Tracker) makeRoom(of pair) {
	var oldest *login
	n := 0
	for _, l := range t.logins.users[of.user] {
		if l.service != of.service {
			continue
		}
		n++
		if oldest == nil || cmp.Or(cmp.Compare(l.last, oldest.last), slices.Compare(l.from.addr[:], oldest.from.addr[:])) < 0 {
			oldest = l
		}
	}
	if n >= t.cfg.Known.PerUser && oldest != nil {
		t.removeLogin(oldest)
	}
	if len(t.logins.pairs) >= t.cfg.Known.Total && t.logins.known.oldest != nil {
		t.removeLogin(t.logins.known.oldest)
	}
}

func (t *Tracker) addLogin(l *login) {
	t.logins.pairs[l.pair] = l
	t.countLogin(l, 1)
	t.logins.users[l.user] = append(t.logins.users[l.user], l)
}

func (t *Tracker) removeLogin(l *login) {
	t.logins.known.unlink(l)
	delete(t.logins.pairs, l.pair)
	of := t.logins.users[l.user]
	if of = slices.DeleteFunc(of, func(o *login) bool { return o == l }); len(of) == 0 {
		delete(t.logins.users, l.user)
	} else {
		t.logins.users[l.user] = of
	}
	t.countLogin(l, -1)
	if l.flags&stored != 0 {
		t.logins.gone = append(t.logins.gone, l.pair)
	}
}

// countLogin counts a user in the networks around a login, once whatever the services and addresses in each.
func (t *Tracker) countLogin(l *login, n int) {
	t.countWithin(l, l.from, n)
	t.countWithin(l, l.from.around(), n)
	if l.from.is4() {
		return
	}
	if bits := t.cfg.IPv6Prefix; !slices.Contains(widths[:], bits) {
		t.countWithin(l, l.from.widen(bits), n)
	}
	for _, bits := range widths {
		t.countWithin(l, l.from.widen(bits), n)
	}
}

func (t *Tracker) countWithin(l *login, k key, n int) {
	for _, o := range t.logins.users[l.user] {
		if o != l && o.from.in(k) {
			return
		}
	}
	if t.logins.within[k] += n; t.logins.within[k] <= 0 {
		delete(t.logins.within, k)
	}
}

// forgetLogins drops the logins whose success is too old to mean anything.
func (t *Tracker) forgetLogins(now int64) {
	for l := t.logins.known.oldest; l != nil && now-l.last > int64(t.cfg.Known.TTL); l = t.logins.known.oldest {
		t.removeLogin(l)
	}
}

// guest makes a user who fails at an address a guest there.
func (t *Tracker) addGuest(of pair) *login {
	if len(t.logins.guests) >= t.cfg.Known.Total && t.logins.strays.oldest != nil {
		t.removeGuest(t.logins.strays.oldest)
	}
	of.user, of.service = strings.Clone(of.user), strings.Clone(of.service)
	l := &login{pair: of}
	t.logins.guests[of] = l
	t.logins.guest[of.from]++
	t.logins.strays.linkNewest(l)
	return l
}

func (t *Tracker) removeGuest(l *login) {
	t.logins.strays.unlink(l)
	delete(t.logins.guests, l.pair)
	if t.logins.guest[l.from]--; t.logins.guest[l.from] <= 0 {
		delete(t.logins.guest, l.from)
	}
	if l.flags&stored != 0 {
		t.logins.gone = append(t.logins.gone, l.pair)
		l.flags = 0
	}
}

// forgetGuests drops the guests whose last failure is long ago.
func (t *Tracker) forgetGuests(now int64) {
	for l := t.logins.strays.oldest; l != nil && now-l.at > 2*day; l = t.logins.strays.oldest {
		t.removeGuest(l)
	}
}

// A loginList is a list of logins by age.
type loginList struct{ newest, oldest *login }

func (ls *loginList) linkNewest(l *login) {
	l.older, l.newer = ls.newest, nil
	if ls.newest != nil {
		ls.newest.newer = l
	} else {
		ls.oldest = l
	}
	ls.newest = l
}

func (ls *loginList) unlink(l *login) {
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
	User    string    `json:"user"`
	Service string    `json:"service"`
	Last    time.Time `json:"last"` // latest success
}

// knownAt returns who is known at an address, ordered by name.
func (t *Tracker) knownAt(from key, now int64) []KnownLogin {
	var out []KnownLogin
	if t.logins.within[from] == 0 {
		return nil
	}
	for p, l := range t.logins.pairs {
		if p.from == from && now-l.last <= int64(t.cfg.Known.TTL) {
			out = append(out, KnownLogin{p.user, p.service, moment(l.last)})
		}
	}
	slices.SortFunc(out, func(a, b KnownLogin) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Service, b.Service))
	})
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

// knownAddrs appends the addresses inside k from which users have logged in to buf, in order, at most ban.MaxExcept.
func (t *Tracker) knownAddrs(buf []netip.Addr, k key) []netip.Addr {
	p := k.prefix()
	if p.IsSingleIP() || t.logins.within[k] == 0 {
		return buf
	}
	for l := range t.logins.pairs {
		if addr := l.from.prefix().Addr(); p.Contains(addr) {
			buf = append(buf, addr)
		}
	}
	slices.SortFunc(buf, netip.Addr.Compare)
	buf = slices.Compact(buf)
	return buf[:min(len(buf), ban.MaxExcept)]
}
