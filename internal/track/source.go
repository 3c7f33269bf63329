package track

import (
	"math"
	"net/netip"
	"time"

	"mef/internal/event"
	"mef/internal/prefixset"
	"mef/internal/track/bounded"
	"mef/internal/track/logins"
	"mef/internal/track/netkey"
)

// A source is what is remembered of one address or network. It holds no pointer, so 100,000 of them cost the garbage
// collector nothing; what grows (attempts, evidence) hangs on it by index.
type source struct {
	key   netkey.Key
	level uint8 // the list it is in
	flags uint8
	known uint8 // users who have logged in from it, at most 255
	days  uint8 // on which it failed since its last success, at most 255

	lastDay uint16 // number of the latest of these days
	tries   uint16 // failures since its last success, at most 65,535

	attempts   bounded.Array // oldest first
	prev, next uint32        // neighbors in the eviction list
	sibling    uint32        // next in the chain of its network
	address    uint32        // hash of the address that tried first; 0: none yet
	knownAt    uint32        // generation of the logins when known was counted

	blockedUntil int64  // until when a verified ban of all ports keeps it out, as far as known; 0: none does
	seen         int64  // when the points were last decayed: the latest event
	evidence     uint64 // newest line in the evidence ring

	score      float32       // verified points
	absent     float32       // the part of score that names which do not exist have added
	probes     float32       // the part of score that probes have added
	unverified float32       // points whose source may be forged
	users      bounded.Array // in Tracker.users, at most maxUsers; those with no user are empty
}

const (
	dirty   = 1 << iota // changed since the last Changes
	stored              // part of an earlier Changes, so its removal must be reported
	listed              // its index is in Tracker.dirty, also if it has been removed since
	several             // more than one address of it has tried
	suspect             // it has failed, and nobody has logged in from it since
	spread              // it has tried more users than an address has where nobody has logged in
	host                // users who failed there may be guests; otherwise there are none

	lasting = several | suspect | spread // what is stored
)

func (s *source) live() bool { return s.key.Bits != 0 }

// A contribution is what the failures of one user added to a source's verified score. A success takes it back.
type contribution struct {
	user   uint32 // hash of service and name; 0: none
	points float32
}

// note keeps an event's line as evidence.
func (t *Tracker) note(s *source, ev *event.Event) {
	t.line = ev.AppendEvidence(t.line[:0])
	s.evidence = t.evidence.Add(s.evidence, t.line)
}

// maxUsers is how many users of a source have a contribution.
const maxUsers = 4

// usersOf returns the contributions of a source, until one is added or they are cleared.
func (t *Tracker) usersOf(s *source) []contribution { return t.users.Of(s.users) }

// touch marks a source as changed.
func (t *Tracker) touch(i uint32) {
	s := t.sources.At(i)
	if s.flags&listed == 0 {
		t.dirty = append(t.dirty, i)
	}
	s.flags |= dirty | listed
}

// shortLife is the half-life of weak evidence: probes, and what may be forged.
const shortLife = 3600e9

// decay brings the points of a source to now.
func (t *Tracker) decay(s *source, now int64) {
	f := t.fade(s, now)
	for i := range t.usersOf(s) {
		t.usersOf(s)[i].points *= f
	}
}

// fade brings the points of a source, or of a copy of it, to now, and returns by what those of its users are still to be multiplied.
func (t *Tracker) fade(s *source, now int64) float32 {
	if now <= s.seen {
		return 1
	}
	if s.score == 0 && s.absent == 0 && s.probes == 0 && s.unverified == 0 && s.users.Len() == 0 {
		s.seen = now
		return 1
	}
	age := float64(now - s.seen)
	life := float64(t.cfg.Score.HalfLife)
	f := float32(math.Exp2(-age / life))
	s.score -= s.probes
	s.score *= f
	s.absent *= f
	s.seen = now
	if s.unverified == 0 && s.probes == 0 {
		return f
	}
	weak := float32(math.Exp2(-age / min(life, shortLife)))
	s.unverified *= weak
	s.probes *= weak
	s.score += s.probes
	return f
}

// countKnown counts the users who have logged in from a source. Their number changes with the logins only.
func (t *Tracker) countKnown(s *source) {
	if at := t.logins.Generation(); s.knownAt != at {
		s.knownAt, s.known = at, uint8(min(t.logins.Within(s.key), math.MaxUint8))
	}
}

// scoreLimit returns how many points ban a source, 0 if none do: more where users log in, for their typing errors add up.
func (t *Tracker) scoreLimit(s *source) int {
	if !t.cfg.Known.Limits {
		return t.cfg.Score.Ban
	}
	return t.cfg.Score.Ban * (1 + int(s.known))
}

// probesWeigh is which part of the limit probes alone can reach: a monitor or a mail server that comes every minute is no guesser.
const probesWeigh = 4

// probe adds the points of touching a service without credentials.
func (t *Tracker) probe(s *source, n int, verified bool) {
	if !verified {
		s.unverified += float32(t.cfg.Score.Unverified * n)
		return
	}
	room := float32(t.cfg.Score.Ban)/probesWeigh - s.probes
	points := max(0, min(float32(t.cfg.Score.Probe*n), room))
	s.probes += points
	s.score += points
}

// newDay counts a failure and returns on how many days the source has failed if it is the first of its day, otherwise 1. A user of this host
// has logged in by the second or third of them.
func (t *Tracker) newDay(s *source, now int64) int {
	s.tries += min(1, math.MaxUint16-s.tries)
	today := uint16(now / day)
	switch {
	case s.known > 0 || t.cfg.Score.Days == 0 || s.days > 0 && s.lastDay == today:
		return 1
	case today-s.lastDay > daysApart:
		s.days, s.tries = 0, 1
	}
	s.lastDay = today
	s.days += min(1, math.MaxUint8-s.days)
	return int(s.days)
}

// daysApart is how many days may lie between two on which a source fails for them to belong together.
const daysApart = 30

// tooManyDays reports whether days of failures make a source an attacker. A device with an old password tries one name of a user
// of this host, all day long. Where no login has ever been seen, perhaps because no lines report logins, a source that tries
// an existing name again has twice as many days: it may be a person or a job with an old password.
func (t *Tracker) tooManyDays(s *source, of *subject, days int) bool {
	limit := t.cfg.Score.Days
	if limit == 0 || t.cfg.Score.Ban == 0 {
		return false
	}
	if t.logins.Len() == 0 && of.standing == existing && of.pair.User != "root" && of.again {
		limit *= 2
	}
	if days < limit {
		return false
	}
	device := (of.standing == familiar || of.standing == ordinary) && of.login != nil && int(s.tries) >= deviceTries*(days-1)
	return !device
}

// deviceTries is how often a device tries in a day, at least.
const deviceTries = 10

// charge adds points to the verified score on account of a user: of the pair where there is one, so that its success takes back
// exactly that.
func (t *Tracker) charge(s *source, user uint32, l *logins.Login, points float32, absent bool) {
	s.score = max(0, s.score+points)
	if absent {
		s.absent = max(0, s.absent+points)
	}
	if l != nil {
		l.Points = max(0, l.Points+points)
		return
	}
	t.credit(s, user, points)
}

// credit adds points to the contribution of a user, in place of the smallest one if the user has none.
func (t *Tracker) credit(s *source, user uint32, points float32) {
	if user == 0 {
		return
	}
	all := t.usersOf(s)
	least := 0
	for i := range all {
		if all[i].user == user {
			all[i].points = max(0, all[i].points+points)
			return
		}
		if all[i].points < all[least].points {
			least = i
		}
	}
	switch {
	case points <= 0:
	case len(all) < maxUsers && (len(all) == 0 || all[least].points > 0):
		t.users.Append(&s.users, contribution{user, points})
	default:
		all[least] = contribution{user, points}
	}
}

// credited reports whether failures of a user have added points.
func (t *Tracker) credited(s *source, user uint32) bool {
	for _, c := range t.usersOf(s) {
		if c.user == user {
			return true
		}
	}
	return false
}

// forgive takes back what the failures of a user added: in the score and in the windows of all rules of the service.
func (t *Tracker) forgive(s *source, user uint32, l *logins.Login) {
	if l != nil {
		s.score = max(0, s.score-l.Points)
		l.Points = 0
	}
	all := t.usersOf(s)
	for i := range all {
		if c := &all[i]; c.user == user {
			s.score = max(0, s.score-c.points)
			*c = contribution{}
		}
	}
	n := len(all)
	for n > 0 && all[n-1] == (contribution{}) {
		n--
	}
	t.users.Cut(&s.users, n)
	s.absent = min(s.absent, s.score)
	s.probes = min(s.probes, s.score)
	t.drop(s, func(a *attempt) bool { return a.user == user })
}

// Lines of some services do not name the user who failed. At the first login of a user from a source, so many of these failures within so
// long before it were probably that user's.
const (
	ownFailures   = 3
	ownFailuresIn = int64(2 * time.Minute)
)

// forgiveNameless takes back failures at a service whose lines name no user, the latest first.
func (t *Tracker) forgiveNameless(s *source, service string, now int64) {
	left := ownFailures
	t.drop(s, func(a *attempt) bool {
		if a.user != 0 || a.is(answered) || a.n() > left || now-a.at() > ownFailuresIn || t.rules[a.rule].rule.Service != service {
			return false
		}
		left -= a.n()
		if !a.is(unverified) {
			s.score = max(0, s.score-float32(a.points)*float32(a.n()))
		}
		return true
	})
}

// clearScore forgets the verified points and those that may be forged.
func (t *Tracker) clearScore(s *source) {
	s.score, s.absent, s.probes, s.unverified = 0, 0, 0, 0
	t.users.Cut(&s.users, 0)
}

// keepAfterBan leaves of the score what a ban for it does not answer: a part of the limit, so that the source needs little more to be
// banned again.
func (t *Tracker) keepAfterBan(s *source) {
	most := float32(t.cfg.Score.AfterBan*t.scoreLimit(s)) / 100
	if most == 0 {
		t.clearScore(s)
		return
	}
	if s.score <= 0 {
		return
	}
	f := min(1, most/s.score)
	s.score *= f
	s.absent *= f
	s.probes *= f
	s.unverified = 0
	for i := range t.usersOf(s) {
		t.usersOf(s)[i].points *= f
	}
}

// embedsIPv4 holds the prefixes in which every address stands for the IPv4 address of another host: 64:ff9b::/96 of RFC 6052
// and 64:ff9b:1::/48 of RFC 8215. A network has more of them by configuration.
var embedsIPv4 = prefixset.New(netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"))

// alone reports whether addr counts by itself: IPv4, our neighbors on a link, and IPv6 addresses that stand for IPv4.
func (t *Tracker) alone(addr netip.Addr) bool {
	return addr.Is4() || t.cfg.OnLink.Contains(addr) || embedsIPv4.Contains(addr) || t.cfg.NAT64.Contains(addr)
}

// key returns what addr counts as.
func (t *Tracker) key(addr netip.Addr) netkey.Key {
	if t.alone(addr) {
		return netkey.Exact(addr)
	}
	return netkey.Of(addr, t.cfg.IPv6Prefix)
}

// Source returns what addr counts as: itself, or its IPv6 network.
func (t *Tracker) Source(addr netip.Addr) netip.Prefix { return t.key(addr).Prefix() }

// lookup returns the number of the entry of a key, 0 if there is none.
func (t *Tracker) lookup(k netkey.Key) uint32 {
	return t.index.Find(k.Hash(t.indexing), func(i uint32) bool { return t.sources.At(i).key == k })
}

// find returns the index of the entry that counts for addr, and its key. The index is 0 if there is none yet.
func (t *Tracker) find(addr netip.Addr) (uint32, netkey.Key) {
	k := t.key(addr)
	if i := t.lookup(k); i != 0 || k.Is4() {
		return i, k
	}
	if k.Bits > parentBits && t.children[k.Widen(parentBits)] >= maxChildren && !t.alone(addr) {
		k = k.Widen(parentBits)
	}
	return t.lookup(k), k
}
