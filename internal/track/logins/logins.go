// Package logins has the users who have logged in, by address and service, and beside them the guests: users who fail at an address
// where they have not logged in yet. What is forgiven to each is part of its entry.
//
// Both tables have bounds of their own, so that a flood of failures cannot push out the users of this host.
package logins

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/ordered"
	"mef/internal/track/bounded"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// A Login is a user at an address: one who has logged in from there, or a guest.
type Login struct {
	Pair
	Last int64 // latest success; 0: a guest

	// What is forgiven: a bucket of failures that fills with each and drains with time.
	Spent   float32
	At      int64 // when Spent was true
	Counted int64 // when a forgiven failure counted last
	Points  float32

	flags uint8
	bounded.Age[Login]
}

const (
	dirty  = 1 << iota // changed since the last Changes
	stored             // part of an earlier Changes, so its removal must be reported
)

// A Pair is a user of a service at an address. Users are compared by account name.
type Pair struct {
	From          netkey.Key
	Service, User string
}

// Limits are how many logins are kept, and for how long.
type Limits struct {
	Total      int           // logins, and as many guests
	PerUser    int           // addresses of a user at a service
	TTL        time.Duration // after the latest success
	IPv6Prefix int           // length of the IPv6 networks that count as one source
}

// guestTTL is how long a guest is kept after its latest failure.
const guestTTL = int64(48 * time.Hour)

type list = bounded.Ages[Login, *Login]

// A Table holds logins and guests; those of the oldest success or failure are dropped first. Make one with New.
type Table struct {
	limits Limits

	pairs  map[Pair]*Login
	users  map[string][]*Login // a user's logins, of all services
	within map[netkey.Key]int  // users in a source, and in each network around it that is banned or suspected as a whole
	counts uint32              // how often within has changed, from 1
	failed map[netkey.Key]*failed
	known  list

	guests map[Pair]*Login
	guest  map[netkey.Key]int // guests of an address
	strays list

	changed bool   // some login is dirty
	gone    []Pair // stored logins that were removed
}

// New returns an empty table.
func New() Table {
	return Table{counts: 1, pairs: map[Pair]*Login{}, users: map[string][]*Login{}, within: map[netkey.Key]int{}, failed: map[netkey.Key]*failed{}, guests: map[Pair]*Login{}, guest: map[netkey.Key]int{}}
}

// Configure sets the limits.
func (t *Table) Configure(l Limits) { t.limits = l }

// Get returns the login of a user at an address, nil if there is none.
func (t *Table) Get(of Pair) *Login { return t.pairs[of] }

// Guest returns the guest at an address, nil if there is none.
func (t *Table) Guest(of Pair) *Login { return t.guests[of] }

// Guests returns how many guests an address has.
func (t *Table) Guests(from netkey.Key) int { return t.guest[from] }

// Len returns how many logins there are, guests excepted.
func (t *Table) Len() int { return len(t.pairs) }

// Generation returns a number that changes whenever Within would return another one for some source; it is never 0.
func (t *Table) Generation() uint32 { return t.counts }

// Within returns how many users have logged in from a source, or from the network around it.
func (t *Table) Within(k netkey.Key) int { return t.within[k] }

// Succeed makes a user known at an address.
func (t *Table) Succeed(of Pair, now int64) *Login {
	l := t.pairs[of]
	if l == nil {
		of.User, of.Service = strings.Clone(of.User), strings.Clone(of.Service) // not all of the line that it was cut out of
		l = &Login{Pair: of}
		t.makeRoom(of)
		t.add(l)
	} else {
		t.known.Remove(l)
	}
	t.known.Add(l)
	l.Last, l.Spent = now, 0
	t.Touch(l)
	return l
}

// Touch marks a login or guest as changed.
func (t *Table) Touch(l *Login) {
	l.flags |= dirty
	t.changed = true
}

// makeRoom drops the oldest login of the user at the service, or of all, if one more would be too many.
func (t *Table) makeRoom(of Pair) {
	var oldest *Login
	n := 0
	for _, l := range t.users[of.User] {
		if l.Service != of.Service {
			continue
		}
		n++
		if oldest == nil || cmp.Or(cmp.Compare(l.Last, oldest.Last), slices.Compare(l.From.Addr[:], oldest.From.Addr[:])) < 0 {
			oldest = l
		}
	}
	if n >= t.limits.PerUser && oldest != nil {
		t.remove(oldest)
	}
	if len(t.pairs) >= t.limits.Total && t.known.Oldest() != nil {
		t.remove(t.known.Oldest())
	}
}

func (t *Table) add(l *Login) {
	t.pairs[l.Pair] = l
	t.count(l, 1)
	t.users[l.User] = append(t.users[l.User], l)
}

func (t *Table) remove(l *Login) {
	t.known.Remove(l)
	delete(t.pairs, l.Pair)
	of := t.users[l.User]
	if of = slices.DeleteFunc(of, func(o *Login) bool { return o == l }); len(of) == 0 {
		delete(t.users, l.User)
	} else {
		t.users[l.User] = of
	}
	t.count(l, -1)
	if l.flags&stored != 0 {
		t.gone = append(t.gone, l.Pair)
	}
}

// count counts a user in the networks around a login, once whatever the services and addresses in each.
func (t *Table) count(l *Login, n int) {
	t.countIn(l, l.From, n)
	t.countIn(l, l.From.Around(), n)
	if l.From.Is4() {
		return
	}
	if bits := t.limits.IPv6Prefix; !slices.Contains(netkey.Widths[:], bits) {
		t.countIn(l, l.From.Widen(bits), n)
	}
	for _, bits := range netkey.Widths {
		t.countIn(l, l.From.Widen(bits), n)
	}
}

func (t *Table) countIn(l *Login, k netkey.Key, n int) {
	for _, o := range t.users[l.User] {
		if o != l && o.From.In(k) {
			return
		}
	}
	t.counts = max(1, t.counts+1)
	if t.within[k] += n; t.within[k] <= 0 {
		delete(t.within, k)
		delete(t.failed, k)
	}
}

// Forget drops the logins whose success is too old, and the guests whose last failure is.
func (t *Table) Forget(now int64) {
	for l := t.known.Oldest(); l != nil && now-l.Last > int64(t.limits.TTL); l = t.known.Oldest() {
		t.remove(l)
	}
	for l := t.strays.Oldest(); l != nil && now-l.At > guestTTL; l = t.strays.Oldest() {
		t.RemoveGuest(l)
	}
}

// AddGuest makes a user who fails at an address a guest there.
func (t *Table) AddGuest(of Pair) *Login {
	if len(t.guests) >= t.limits.Total && t.strays.Oldest() != nil {
		t.RemoveGuest(t.strays.Oldest())
	}
	of.User, of.Service = strings.Clone(of.User), strings.Clone(of.Service)
	l := &Login{Pair: of}
	t.guests[of] = l
	t.guest[of.From]++
	t.strays.Add(l)
	return l
}

// RenewGuest makes a guest the one that is dropped last.
func (t *Table) RenewGuest(l *Login) {
	t.strays.Remove(l)
	t.strays.Add(l)
}

// RemoveGuest drops a guest.
func (t *Table) RemoveGuest(l *Login) {
	t.strays.Remove(l)
	delete(t.guests, l.Pair)
	if t.guest[l.From]--; t.guest[l.From] <= 0 {
		delete(t.guest, l.From)
	}
	if l.flags&stored != 0 {
		t.gone = append(t.gone, l.Pair)
		l.flags = 0
	}
}

// SetBack notes that the clock has been set back to now.
func (t *Table) SetBack(now int64) {
	for _, table := range []map[Pair]*Login{t.pairs, t.guests} {
		for _, l := range table {
			if l.Last > now || l.At > now || l.Counted > now {
				l.Last, l.At, l.Counted = min(l.Last, now), min(l.At, now), min(l.Counted, now)
				t.Touch(l)
			}
		}
	}
}

// A Known is a user known at an address, as people see it.
type Known struct {
	User    string    `json:"user"`
	Service string    `json:"service"`
	Last    time.Time `json:"last"` // latest success
}

// KnownAt returns the users who are known at an address, ordered by name.
func (t *Table) KnownAt(from netkey.Key, now int64) []Known {
	var out []Known
	for l := range t.At(from) {
		if now-l.Last <= int64(t.limits.TTL) {
			out = append(out, Known{l.User, l.Service, record.Moment(l.Last)})
		}
	}
	ordered.Sort(out, func(a, b Known) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Service, b.Service))
	})
	return out
}

// At returns the logins at an address, in no order.
func (t *Table) At(from netkey.Key) iter.Seq[*Login] { return at(t.pairs, t.within[from], from) }

// GuestsAt returns the guests at an address, in no order.
func (t *Table) GuestsAt(from netkey.Key) iter.Seq[*Login] { return at(t.guests, t.guest[from], from) }

func at(table map[Pair]*Login, n int, from netkey.Key) iter.Seq[*Login] {
	return func(yield func(*Login) bool) {
		if n == 0 {
			return
		}
		for p, l := range table {
			if p.From == from && !yield(l) {
				return
			}
		}
	}
}

// CountInside returns how many logins there are inside p.
func (t *Table) CountInside(p netip.Prefix) (n int) {
	for l := range t.pairs {
		if p.Overlaps(l.From.Prefix()) {
			n++
		}
	}
	return n
}

// AppendAddrs appends the addresses inside a network from which users have logged in to buf, in order, at most ban.MaxExcept.
func (t *Table) AppendAddrs(buf []netip.Addr, k netkey.Key) []netip.Addr {
	p := k.Prefix()
	if p.IsSingleIP() || t.within[k] == 0 {
		return buf
	}
	for l := range t.pairs {
		if addr := l.From.Prefix().Addr(); p.Contains(addr) {
			buf = append(buf, addr)
		}
	}
	ordered.Sort(buf, netip.Addr.Compare)
	buf = slices.Compact(buf)
	return buf[:min(len(buf), ban.MaxExcept)]
}
