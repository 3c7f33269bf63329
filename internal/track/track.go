// Package track remembers who fails: it turns events into a tally per source, in bounded memory.
//
// A source is what attempts are counted for: an IPv4 address, an IPv6 network of 64 bits (whoever has one address of it has
// them all), or one address where that network is our own link. Of each source two things are kept. The attempts at each
// rule within the rule's findtime, one by one and no more than the rule's limit needs: a sliding window. And a score across
// all rules that halves every so often, for those who try little everywhere.
//
// One login is often told by several lines. Lines marked as echoes count only if nothing else of their session does, and a
// line that counts in its own right takes the place of an echo that came first.
//
// Failures of a user who has logged in from the same source before weigh a fourth. A success takes back what that user's
// failures have added at that source, and nothing else: it never excuses tries of other names.
//
// The tracker also knows which bans are in force and which have been, because both are part of what the next decision
// rests on.
//
// Everything is bounded. When the table of sources is full, one goes that is banned already, else the one in the least danger
// of a ban; a quarter of the table is for newcomers, where nobody is pushed out before his turn. When more than 256 networks
// of one /48 are in the table, the rest of them counts as one source. Time comes from events only. The same calls from the
// same start make the same tallies. A Tracker belongs to one goroutine.
package track

import (
	"cmp"
	"math"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/prefixset"
)

// A Config is what a Tracker needs to know.
type Config struct {
	Rules []Rule // events of other rules count for nobody

	Score      conf.Score
	Known      conf.Known
	History    time.Duration // bans are forgotten so long after their end
	IPv6Prefix int           // length of the IPv6 networks that count as one source; 0: 64

	// OnLink holds our own links' IPv6 networks: our neighbours there are single addresses.
	OnLink prefixset.Set

	// Seed keeps the hashes of user names secret, so that nobody can choose an account name that stands for another. It is
	// part of the state: what Import brings replaces it.
	Seed uint64

	MaxSources int // entries; 0: 100,000
	MaxHistory int // bans; 0: 50,000
}

const (
	defaultSources = 100_000
	defaultHistory = 50_000

	parentBits  = 48  // IPv6 networks of this length hold
	maxChildren = 256 // so many sources; further ones count as the network

	perSource = 6 // attempts kept per source on average; those in the least danger go before it gets more

	maxEvidence = 16_384 // lines kept of all sources together, 4 MiB at most

	sessionIdle = 2 * time.Minute  // a session token may mean another session after this
	sessionGap  = 10 * time.Second // lines without a token are of one session within this
	knownPause  = time.Minute      // a known login's failures count once in this

	maxCount = 100 // attempts that one line can add
)

// A Tracker counts. Make one with New.
type Tracker struct {
	cfg       Config
	rules     []rule
	ruleIndex map[string]uint16
	now       int64 // the latest time seen: time never goes back

	sources  slab[source]
	attempts slab[attempt]
	index    map[key]uint32
	children map[key]int // sources by the /48 around them
	lists    [lists]list
	hand     uint32 // where sweep is
	sums     []sum  // by rule; what the last settle found
	evidence evidenceRing

	logins  logins
	seed    uint64
	users   []surge // by hash of rule and user name
	holds   holds
	history history

	dirty       []uint32 // sources that are marked so, and some that were before they were removed
	gone        []key    // stored sources that were removed
	surgesDirty bool
	seedStored  bool

	evicted, evictedHot uint64

	// What a Tally's slices point to.
	parts   []event.Part
	wide    []event.WiderNet
	inForce []event.ActiveBan
	pasts   []event.PastBan
	lines   []string

	chain []uint32 // scratch
}

// A rule is a configured rule with what is counted for it across sources.
type rule struct {
	rule   *Rule
	hash   uint32
	points float32 // of one attempt
	surge  surge
}

// New returns an empty tracker.
func New(cfg Config) *Tracker {
	t := &Tracker{
		index:    map[key]uint32{},
		children: map[key]int{},
		logins:   newLogins(),
		holds:    newHolds(),
		seed:     cfg.Seed,
	}
	t.history = newHistory(cmp.Or(cfg.MaxHistory, defaultHistory))
	t.Configure(cfg)
	return t
}

// Configure replaces the configuration, Seed and MaxHistory excepted. Attempts at rules that are gone are forgotten.
func (t *Tracker) Configure(cfg Config) {
	cfg.MaxSources = cmp.Or(cfg.MaxSources, defaultSources)
	cfg.MaxHistory = t.history.size
	cfg.IPv6Prefix = cmp.Or(cfg.IPv6Prefix, 64)
	cfg.Score.HalfLife = cmp.Or(cfg.Score.HalfLife, time.Hour)
	cfg.Rules = slices.Clone(cfg.Rules)
	old := t.rules
	t.cfg = cfg
	t.rules = make([]rule, len(cfg.Rules))
	t.ruleIndex = make(map[string]uint16, len(cfg.Rules))
	t.sums = make([]sum, len(cfg.Rules))
	for i := range cfg.Rules {
		r := &cfg.Rules[i]
		t.rules[i] = rule{rule: r, hash: t.hash(r.Name), points: float32(cmp.Or(r.Points, cfg.Score.Failure))}
		t.ruleIndex[r.Name] = uint16(i)
	}
	t.renumber(old)
}

// renumber makes the attempts and surges of the old rules those of the new rules of the same name.
func (t *Tracker) renumber(old []rule) {
	if old == nil {
		return
	}
	to := make([]int, len(old))
	for i := range old {
		to[i] = -1
		if n, ok := t.ruleIndex[old[i].rule.Name]; ok {
			to[i] = int(n)
			t.rules[n].surge = old[i].surge
		}
	}
	for i := uint32(1); i <= t.sources.used; i++ {
		s := t.sources.at(i)
		if !s.live() {
			continue
		}
		t.drop(s, func(a *attempt) bool {
			if to[a.rule] >= 0 {
				a.rule = uint16(to[a.rule])
				return false
			}
			return true
		})
	}
}

// SetOnLink replaces the networks of our own links. What was counted before stays where it was counted.
func (t *Tracker) SetOnLink(set prefixset.Set) { t.cfg.OnLink = set }

// advance takes note of the time and returns it as nanoseconds; earlier times than one seen before become that one.
func (t *Tracker) advance(at time.Time) int64 {
	t.now = max(t.now, at.UnixNano())
	return t.now
}

// Observe counts an event and returns what its source has come to. It allocates nothing for a source that it knows, unless
// a limit is reached.
func (t *Tracker) Observe(ev *event.Event) event.Tally {
	r, ok := t.ruleIndex[ev.Rule]
	if !ok || !ev.Addr.IsValid() {
		return event.Tally{}
	}
	now := t.advance(ev.Time)
	t.forgetLogins(now)
	i, k := t.find(ev.Addr)
	if ev.Kind == event.Success {
		t.succeed(ev, i, now)
		return t.tally(ev, r, i, k, now)
	}
	if i == 0 {
		i = t.insert(k, now)
	}
	for t.attempts.len() >= perSource*t.cfg.MaxSources && t.index[k] == i {
		t.evict()
	}
	if t.index[k] != i {
		i = t.insert(k, now) // it was the one in the least danger
	}
	s := t.sources.at(i)
	t.settle(s, now)
	var added event.Attempts
	if ev.Kind == event.Probe {
		t.probe(s, &t.rules[r], ev)
		s.evidence = t.evidence.add(s.evidence, ev.Line)
	} else {
		added = t.fail(s, r, ev, now)
	}
	t.settle(s, now)
	t.place(i, now)
	t.touch(i)
	tally := t.tally(ev, r, i, k, now)
	tally.Added = added
	if tally.ScoreReached() || tally.RuleReached() {
		t.detail(&tally, s, now)
	}
	return tally
}

// succeed makes the user known and takes back that user's failures. A success that could be forged does neither.
func (t *Tracker) succeed(ev *event.Event, i uint32, now int64) {
	if i != 0 {
		defer t.settle(t.sources.at(i), now)
		t.settle(t.sources.at(i), now)
	}
	if ev.User == "" || !ev.Verified {
		return
	}
	t.success(t.key(ev.Addr), ev.User, now)
	if i != 0 {
		t.forgive(t.sources.at(i), t.hash(ev.User))
		t.touch(i)
	}
}

func (t *Tracker) probe(s *source, r *rule, ev *event.Event) {
	switch {
	case r.rule.Detect:
	case ev.Verified:
		s.score += float32(t.cfg.Score.Probe * count(ev))
	default:
		s.unverified += float32(t.cfg.Score.Unverified * count(ev))
	}
}

func count(ev *event.Event) int { return min(max(1, ev.Count), maxCount) }

// fail counts a failure and returns what it added to the window of its rule.
func (t *Tracker) fail(s *source, r uint16, ev *event.Event, now int64) event.Attempts {
	user, session := t.hash(ev.User), t.hash(ev.Session)
	told := t.told(s, r, session, ev.Verified, now)
	if ev.Echo && told.any {
		return 0
	}
	var known *login
	if ev.User != "" {
		known = t.logins.pairs[pair{t.key(ev.Addr), ev.User}]
	}
	if known == nil {
		t.watch(&t.rules[r], user, !told.rule, !t.tried(s, r, user), now)
	}
	n := count(ev)
	if ev.Echo {
		n = 1
	}
	if told.echo != nil && !ev.Echo {
		n--
		t.absorb(s, told.echo, user, known, now)
	}
	weight := event.WholeAttempts(1)
	if known != nil {
		n, weight = t.once(known, n, now), 1
	}
	if n == 0 {
		return 0
	}
	a := attempt{at: now, user: user, session: session, rule: r}
	if !ev.Verified {
		a.flags |= unverified
	}
	if ev.Echo {
		a.flags |= echoed
	}
	t.count(s, a, n, weight)
	s.evidence = t.evidence.add(s.evidence, ev.Line)
	return event.Attempts(n) * weight
}

// once returns how many of a known login's n failures count now: one, if none has for a while.
func (t *Tracker) once(l *login, n int, now int64) int {
	if n == 0 || now-l.counted < int64(knownPause) {
		return 0
	}
	l.counted = now
	t.touchLogin(l)
	return 1
}

// count enters n attempts of so many quarters each.
func (t *Tracker) count(s *source, a attempt, n int, weight event.Attempts) {
	t.score(s, &a, event.Attempts(n)*weight)
	n = min(n, t.rules[a.rule].rule.MaxRetry) // more never matter
	for total := int(weight) * n; total > 0; total -= int(a.quarters) {
		a.quarters = uint8(min(total, math.MaxUint8&^3))
		a.next = s.attempts
		i := t.attempts.get()
		*t.attempts.at(i) = a
		s.attempts = i
	}
}

// score adds the points of q quarters of attempts like a. Attempts at a rule that never bans add none, or the score would
// ban in its stead.
func (t *Tracker) score(s *source, a *attempt, q event.Attempts) {
	r := &t.rules[a.rule]
	switch {
	case r.rule.Detect:
	case a.flags&unverified != 0:
		s.unverified += float32(t.cfg.Score.Unverified) * float32(q) / 4
	default:
		points := r.points * float32(q) / 4
		s.score = max(0, s.score+points)
		s.credit(a.user, points)
	}
}

// absorb makes an attempt that was counted on the word of an echo that of the line itself, which may know the user better.
func (t *Tracker) absorb(s *source, a *attempt, user uint32, known *login, now int64) {
	a.flags &^= echoed
	if user != 0 && a.user != user {
		t.score(s, a, -event.Attempts(a.quarters))
		a.user = user
		t.score(s, a, event.Attempts(a.quarters))
	}
	if known != nil && a.quarters > 1 {
		t.score(s, a, 1-event.Attempts(a.quarters))
		a.quarters = 1
		known.counted = now
		t.touchLogin(known)
	}
}

// What is already counted of an event's session, and of its rule.
type told struct {
	any  bool
	echo *attempt // counted on the word of an echo
	rule bool     // something is counted for the rule, whatever the session
}

func (t *Tracker) told(s *source, r uint16, session uint32, verified bool, now int64) (found told) {
	for i := s.attempts; i != 0; {
		a := t.attempts.at(i)
		i = a.next
		if a.rule != r {
			continue
		}
		found.rule = true
		if (a.flags&unverified == 0) != verified || !sameSession(a, session, now) {
			continue
		}
		found.any = true
		if a.flags&echoed != 0 {
			found.echo = a
		}
	}
	return found
}

func sameSession(a *attempt, session uint32, now int64) bool {
	if a.session == 0 || session == 0 {
		return now-a.at <= int64(sessionGap)
	}
	return a.session == session && now-a.at <= int64(sessionIdle)
}

// tried reports whether an attempt of the user at the rule is counted.
func (t *Tracker) tried(s *source, r uint16, user uint32) bool {
	for i := s.attempts; i != 0; {
		a := t.attempts.at(i)
		if a.rule == r && a.user == user {
			return true
		}
		i = a.next
	}
	return false
}

// tally sums up source i, just settled; i is 0 if there is nothing to sum up.
func (t *Tracker) tally(ev *event.Event, r uint16, i uint32, k key, now int64) event.Tally {
	rule := t.rules[r].rule
	from := t.key(ev.Addr)
	out := event.Tally{
		Event: ev, Rule: rule, Source: k.prefix(), Limit: rule.MaxRetry, ScoreLimit: t.cfg.Score.Ban,
		KnownUsers: t.logins.within[from],
	}
	out.KnownInside = t.logins.within[k]
	out.Shared = t.cfg.Known.SharedMin > 0 && out.KnownUsers >= t.cfg.Known.SharedMin
	if ev.User != "" && t.logins.pairs[pair{from, ev.User}] != nil {
		out.Known = true
	}
	if i != 0 {
		s, sum := t.sources.at(i), &t.sums[r]
		out.Attempts, out.Unverified, out.First = sum.verified, sum.unverified, moment(sum.first)
		out.Score, out.ScoreUnverified = float64(s.score), float64(s.unverified)
	}
	if ev.Kind == event.Failure && !out.Known {
		t.tighten(&out, r, now)
	}
	return out
}

// tighten lowers the limit for whoever is unknown while many are at it at once.
func (t *Tracker) tighten(out *event.Tally, r uint16, now int64) {
	t.surgesDirty = true // looking moves windows on
	out.Surge = t.surgeOf(&t.rules[r], t.hash(out.Event.User), now)
	if out.Surge.Sources > 0 && out.Limit > tightLimit {
		out.Limit = tightLimit
	} else {
		out.Surge = event.Surge{}
	}
}

// detail fills in what a decision needs.
func (t *Tracker) detail(out *event.Tally, s *source, now int64) {
	addr := out.Event.Addr
	t.parts = t.partsOf(t.parts[:0])
	t.wide = t.wider(t.wide[:0], s.key, 1, now)
	t.inForce = t.holds.covering(t.inForce[:0], addr, now)
	t.pasts = t.past(t.pasts[:0], s.key, now)
	t.lines = t.evidence.lines(t.lines[:0], s.evidence, ban.MaxEvidence)
	out.Parts, out.Wider, out.InForce, out.History, out.Evidence = t.parts, t.wide, t.inForce, t.pasts, t.lines
}

// partsOf appends what the last settle found to buf, by name of rule.
func (t *Tracker) partsOf(buf []event.Part) []event.Part {
	for r, sum := range t.sums {
		if q := sum.verified + sum.unverified; q > 0 {
			buf = append(buf, event.Part{Rule: t.rules[r].rule.Name, Attempts: q})
		}
	}
	slices.SortFunc(buf, func(a, b event.Part) int { return cmp.Compare(a.Rule, b.Rule) })
	return buf
}

// hash returns 32 bits that nobody can foretell without the seed (FNV-1a begun from it), 0 only for the empty string.
func (t *Tracker) hash(s string) uint32 {
	if s == "" {
		return 0
	}
	h := t.seed ^ 14695981039346656037
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return max(uint32(h>>32), 1)
}
