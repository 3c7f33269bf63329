package track

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/event"
	"mef/internal/track/dictionary"
	"mef/internal/track/logins"
	"mef/internal/track/netkey"
)

// A standing is what is known of the user name of a failure. From absent on, a user of this host is unlikely to try it.
type standing uint8

const (
	ordinary  standing = iota // nothing
	known                     // logged in from this address before
	familiar                  // logged in from elsewhere, or the name is a typing error of one that did
	existing                  // an account of this host, or of the service, that can log in and has not yet
	attacked                  // familiar, and many networks try it
	contested                 // never logged in and may exist; other networks try it
	absent                    // the service reports that it does not exist
	hot                       // the same, and other networks try it
	canary                    // configured as a name that nobody uses
)

const (
	// contestedNetworks is how many other networks must have tried a name that may exist for it to be contested: its user may have failed in
	// several places.
	contestedNetworks = 4
	// attackedNetworks is how many networks make a name that has logged in here one under attack, so that nothing is forgiven to
	// strangers who try it.
	attackedNetworks = 6
)

const (
	// doubtFor is how long reports of a service about unknown users mean nothing once it has reported a user as unknown who exists.
	doubtFor = 7 * day
	// sameLookup is how far apart the lines are at most that report how one attempt was looked up in several databases of users.
	sameLookup = int64(time.Second)
)

// inDoubt reports whether reports of the rule's service about unknown users mean nothing: it looks for users in several databases, and
// reports them as unknown to the first.
func (r *rule) inDoubt(now int64) bool { return r.doubted != 0 && now-r.doubted < doubtFor }

// doubt notes that a rule has reported a user as unknown who exists.
func (t *Tracker) doubt(r uint16, now int64) {
	t.rules[r].doubted, t.rulesChanged = now, true
}

// unknownUsers are the latest users that services have reported as unknown.
type unknownUsers struct {
	ring [64]unknownUser
	next int
}

type unknownUser struct {
	at            int64
	name, session uint32 // hashes; of the name with its domain, or anybody could make a service report two things of one account
	rule          uint16
}

func (u *unknownUsers) note(rule uint16, name, session uint32, now int64) {
	u.ring[u.next] = unknownUser{now, name, session, rule}
	u.next = (u.next + 1) % len(u.ring)
}

// has reports whether a user was reported as unknown just before in a session.
func (u *unknownUsers) has(rule uint16, name, session uint32, now int64) bool {
	return name != 0 && session != 0 && slices.ContainsFunc(u.ring[:], func(o unknownUser) bool {
		return o.name == name && o.session == session && o.rule == rule && o.at != 0 && now-o.at <= sameLookup
	})
}

// A subject is the user that an event is about.
type subject struct {
	user     uint32 // hash of service and account; 0: none
	raw      uint32 // hash of the user as the line has it; 0: none
	standing standing
	name     *dictionary.Entry // its entry in the dictionary
	login    *logins.Login     // what is forgiven to it at this address
	again    bool              // the source, from which nobody has logged in, has tried it before
	mailbox  bool              // user@domain, which is no account of the host
	new      bool              // it may be that of a user who has not logged in yet, of whom neither the host nor the service reports anything
	unseen   bool              // the service does not report who logs in, and its rule is lenient
	exists   bool              // the service reports that it exists
	guessed  bool              // it is known, and so many users of its address have failed that their names are being guessed
	pair     logins.Pair
}

// userHash returns the hash of a user of a service.
func (t *Tracker) userHash(service, account string) uint32 {
	if account == "" {
		return 0
	}
	return max(1, t.serviceHash(service)^t.hash(account))
}

// serviceHash is what the hash of a user has of the service: without it, the same account of two services has the same hash.
func (t *Tracker) serviceHash(service string) uint32 { return t.hash(service) * 0x9e3779b1 }

// network returns the bit of the network that an address is in: unrelated ones differ in their first 16 bits, of IPv6 in 32.
func (t *Tracker) network(addr netip.Addr) uint64 {
	// FNV-1a of the network's netkey.Key. A zero byte is a multiplication.
	const prime, zeros2, zeros10, zeros12 = 1099511628211, 956575116354345, 1775861927039214153, 17673114087473428657
	h := t.seed ^ 14695981039346656037
	if addr.Is4() {
		a := addr.As4()
		h *= zeros10
		for _, b := range [4]byte{0xff, 0xff, a[0], a[1]} {
			h = (h ^ uint64(b)) * prime
		}
		h *= zeros2
	} else {
		a := addr.As16()
		for _, b := range a[:4] {
			h = (h ^ uint64(b)) * prime
		}
		h *= zeros12
	}
	return 1 << (h >> 58)
}

// judge finds out which user a failure is about and what is known of it. s has not counted the failure yet.
func (t *Tracker) judge(of *subject, s *source, ev *event.Event, r uint16, now int64) {
	rule := &t.rules[r]
	account := dictionary.AccountName(ev.User)
	if account == "" {
		switch {
		case !ev.UnknownUser || !ev.Verified || rule.inDoubt(now):
		case ev.EmptyUser && t.cfg.Score.Hot > 0:
			of.standing = hot // no person has the empty name
		default:
			of.standing = absent
		}
		of.raw = t.hash(ev.User)
		return
	}
	h, service := t.hash(account), rule.service
	if of.raw = h; account != ev.User {
		of.raw = t.hash(ev.User)
	}
	if ev.Service != rule.rule.Service {
		service = t.serviceHash(ev.Service)
	}
	of.user = max(1, service^h)
	if !ev.Verified {
		return
	}
	of.pair = logins.Pair{From: s.key, Service: ev.Service, User: account}
	if s.known > 0 || s.key.Bits != 128 { // otherwise nobody has logged in from the address
		of.pair.From = netkey.Exact(ev.Addr)
		if l := t.logins.Get(of.pair); l != nil {
			of.standing, of.login, of.name = known, l, t.names.Get(account)
			return
		}
	}
	if rule.rule.Detect {
		return
	}
	network := t.network(ev.Addr)
	before := t.names.Get(account)
	of.again = s.known == 0 && t.hasTried(s, of, before)
	newSource := s.known == 0 && !of.again
	unknown := ev.UnknownUser && !rule.inDoubt(now)
	of.exists = ev.ExistingUser
	of.name = t.names.Try(account, before, network, unknown, newSource, now)
	of.standing = t.standingOf(of.name, unknown, of.exists || rule.rule.NamesUnknown, network)
	of.mailbox = strings.IndexByte(ev.User, '@') > 0
	of.unseen = rule.rule.Lenient
	of.new = of.standing == ordinary && (of.mailbox || of.unseen)
	if near := t.names.NearTo(of.name); of.standing == familiar && of.name.Success == 0 && near != "" {
		of.user, of.pair.User = t.userHash(ev.Service, near), near
		of.pair.From = netkey.Exact(ev.Addr)
		if l := t.logins.Get(of.pair); l != nil {
			of.standing, of.login = known, l
			return
		}
	}
	of.pair.From = s.key // or hopping through a network would be forgiven once for each address
	of.login = t.guest(s, of.pair)
}

// guest returns a guest of a source, nil if there is none.
func (t *Tracker) guest(s *source, of logins.Pair) *logins.Login {
	if s.flags&host == 0 {
		return nil
	}
	return t.logins.Guest(of)
}

// hasTried reports whether a source has tried a user before, or one that the name may be a typing error of. A device that goes on for days
// is one source.
func (t *Tracker) hasTried(s *source, of *subject, name *dictionary.Entry) bool {
	pair := logins.Pair{From: s.key, Service: of.pair.Service, User: of.pair.User}
	if t.tried(s, of.user) || t.guest(s, pair) != nil {
		return true
	}
	if name == nil {
		return false
	}
	if pair.User = t.names.NearTo(name); pair.User == "" {
		return false
	}
	return t.tried(s, t.userHash(pair.Service, pair.User)) || t.guest(s, pair) != nil
}

// standingOf returns the standing of a name that was tried from a network. unknown: the service reports that there is no such user; existing: it
// would have reported so.
func (t *Tracker) standingOf(n *dictionary.Entry, unknown, existingUser bool, network uint64) standing {
	d := &t.names
	others := n.Others(network)
	canLogIn, exists := n.CanLogIn, n.Exists
	switch {
	case n.Success > 0 && others >= attackedNetworks:
		return attacked
	case n.Success > 0:
		return familiar
	case n.Canary && !exists:
		return canary
	case !unknown && (canLogIn || !exists && existingUser):
		if others >= contestedNetworks {
			return contested
		}
		return existing
	case !exists && d.NearTo(n) != "":
		return familiar
	case !unknown || exists:
		if others >= contestedNetworks || n.Starter && !exists {
			return contested
		}
		return ordinary
	case t.cfg.Score.Hot > 0 && (n.Starter || others >= dictionary.HotNetworks || d.Shared(n)):
		return hot
	}
	return absent
}

// pointsOf returns what an attempt adds to the score.
func (t *Tracker) pointsOf(s *source, of *subject, r uint16) int {
	each := int(t.rules[r].points)
	score := &t.cfg.Score
	switch of.standing {
	case attacked:
		return max(each, min(each*3/2, score.Contested))
	case contested:
		return max(each, score.Contested)
	case absent:
		if t.tried(s, of.user) {
			return each
		}
		return max(each, score.Absent)
	case hot:
		return max(each, score.Hot)
	case canary:
		return max(each, score.Ban)
	}
	return each
}

const (
	// guestBurst is how many failures in a row are forgiven to a user who is known elsewhere, and existingBurst to one who exists and
	// has never logged in. Further failures count in full, and so do those forgiven before.
	guestBurst    = 5
	existingBurst = 2
	// A place that nobody has logged in from has so many guests, and one that exists so many more for each user.
	guestRoom    = 3
	existingRoom = 20

	// oncePerPlace is how often forgiven failures count a little where users log in, and oncePerStranger elsewhere: a forgotten
	// device is no attack, but one whose user never logs in from there is banned after some days.
	oncePerPlace    = day
	oncePerStranger = day / 2
	onceAfter       = 3 // failures on the slate
)

// excuse reports whether a failure is forgiven: to a user at an address from which the user has logged in, and less to users who are known
// elsewhere, exist, or may exist. What is forgiven is a number of failures, and more only at the pace of a forgotten device.
func (t *Tracker) excuse(s *source, of *subject, now int64) bool {
	k := &t.cfg.Known
	if k.Retries <= 0 {
		return false
	}
	burst, room := k.Burst, 0
	switch of.standing {
	case known:
		of.guessed = t.cfg.Score.Sprays && t.logins.Fail(of.login, now) && !t.bannedLately(s, now)
	case familiar:
		burst, room = min(burst, guestBurst), guestRoom
		if of.name != nil && of.name.Success > 0 {
			room = existingRoom
			if t.logins.Guests(of.pair.From) > guestRoom {
				burst = min(burst, existingBurst)
			}
		}
	case existing:
		burst, room = min(burst, existingBurst), existingRoom
	case ordinary:
		if !of.new {
			return false
		}
		burst, room = min(burst, existingBurst), existingRoom
	default:
		return false
	}
	return t.spend(s, of, burst, room, now) && !of.guessed
}

// throttledAgain is how long after a ban of an address the names of its users may be guessed before there is another: those users need it.
const throttledAgain = time.Hour

// bannedLately reports whether a source was banned within throttledAgain.
func (t *Tracker) bannedLately(s *source, now int64) bool {
	t.pasts = t.past(t.pasts[:0], s.key, now)
	return len(t.pasts) > 0 && now-t.pasts[len(t.pasts)-1].Start.UnixNano() < int64(throttledAgain)
}

// lone reports whether a failure adds no points: it is one more of the only name that its source tries, at a device's pace. In the
// window it counts all the same.
func (t *Tracker) lone(s *source, of *subject, now int64) bool {
	return of.standing == ordinary && of.name != nil && t.cfg.Known.Retries > 0 && t.tried(s, of.user) && t.spend(s, of, 1, 1, now)
}

// spend takes a failure out of what is forgiven to a user at an address, and reports whether there was one left: burst of them in a
// row, and more at the pace of a device. An address has room for so many users who are not known there, and for more where users log in.
func (t *Tracker) spend(s *source, of *subject, burst, room int, now int64) bool {
	refill := float32(t.cfg.Known.Retries) / float32(day)
	guests := t.logins.Guests(of.pair.From)
	only := (of.mailbox || of.unseen) && guests <= 1 // a device with an old password
	many := room == existingRoom && guests > guestRoom+2*int(s.known)
	if room == existingRoom && of.standing != familiar && s.known == 0 && !only || many {
		refill = existingBurst / float32(day) // where nobody logs in, an account that never did is no device, and so many users are none
	}
	if of.login == nil {
		if t.logins.Guests(of.pair.From) >= room+2*int(s.known) {
			t.overrun(s, room)
			return false
		}
		of.login = t.logins.AddGuest(of.pair)
		s.flags |= host
		of.login.Counted = now
		if room == 1 {
			of.login.Spent, of.login.At = float32(burst), now // it has to show its pace first
		}
	} else if of.login.Last == 0 {
		t.logins.RenewGuest(of.login)
	}
	l := of.login
	l.Spent = max(0, l.Spent-refill*float32(now-l.At))
	l.At = now
	t.logins.Touch(l)
	if l.Spent+1 > float32(burst) {
		return false
	}
	l.Spent++
	once, points := int64(oncePerStranger), float32(t.cfg.Score.Failure)
	if s.known > 0 {
		once, points = oncePerPlace, points/2
	}
	if (s.known == 0 || l.Spent > onceAfter) && now-l.Counted >= once {
		l.Counted = now
		t.charge(s, of.user, l, points, false)
	}
	return true
}

// overrun counts what was forgiven at a source from which nobody has logged in, and which tries more users than are forgiven there. The
// users of an office would have logged in by now.
func (t *Tracker) overrun(s *source, room int) {
	if room != existingRoom || s.known > 0 || s.flags&spread != 0 {
		return
	}
	s.flags |= spread
	s.score += float32(room * t.cfg.Score.Failure)
}
