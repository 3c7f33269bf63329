// Package track counts failed logins: it turns events into a tally per source, in bounded memory.
//
// A source is an IPv4 address, an IPv6 network of 64 bits (one customer has all of it), or a single IPv6 address on this host's own link or
// behind a translator. Each source has two counters: the attempts at each rule within the rule's findtime, a sliding window, and a score
// across all rules that decays over weeks, for sources that try a little at every service.
//
// What an attempt adds to the score depends on the user name (see standing). A name that the service reports as unknown adds more than one
// that may be a user's, and a name that unrelated networks try adds the most. The dictionary of names is learned (see package dictionary).
//
// One attempt is often reported by several lines. Each line that reports a refusal counts, and takes back what lines of other forms have
// reported of the same attempts (see claim).
//
// Users who belong here are forgiven a number of failures, and more at the pace of a forgotten device (see excuse). A success takes back
// what the failures of its user have added at that source and service, and nothing else.
//
// The tracker also has the bans in force and those of the past, because the next decision depends on both (see package bans).
//
// Everything is bounded. When the table of sources is full, it drops one that is banned already, otherwise the one that is furthest from a
// ban. A quarter of the table is reserved for new sources, which are dropped in the order of their arrival. When more than 256 networks of
// one /48 are in the table, all further ones count as one source. Time comes from events only: the same calls from the same start make the
// same tallies. A Tracker belongs to one goroutine.
package track

import (
	"cmp"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/ordered"
	"mef/internal/prefixset"
	"mef/internal/track/bans"
	"mef/internal/track/bounded"
	"mef/internal/track/dictionary"
	"mef/internal/track/logins"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
	"mef/internal/track/surge"
)

// A Config is the configuration of a Tracker.
type Config struct {
	Rules []event.Rule // events of other rules do not count

	Score      conf.Score
	Known      conf.Known
	History    time.Duration // bans are forgotten so long after their end
	IPv6Prefix int           // length of the IPv6 networks that count as one source; 0: 64
	NAT64      prefixset.Set // IPv6 networks in which each address stands for an IPv4 address, beside the usual ones

	Accounts     map[string]bool // names that exist on this host, as dictionary.AccountName returns them; true: they can log in
	Canaries     []string        // names that nobody uses: one try bans
	StarterNames bool            // begin with a dictionary of names that attacks have in common
	LoginAlarms  bool            // report logins that may be break-ins

	// OnLink holds the IPv6 networks of this host's own links: each address there is a source.
	OnLink prefixset.Set

	// Seed makes the hashes of user names secret, so that attackers cannot choose a name with the hash of another. It is part of the
	// state: Import replaces it.
	Seed uint64

	MaxSources int // entries; 0: 100,000
	MaxHistory int // bans; 0: 50,000
}

const (
	defaultSources = 100_000
	defaultHistory = 50_000

	parentBits  = 48  // of an IPv6 network of this length
	maxChildren = 256 // at most so many sources are counted apart; further ones count as the network

	perSource = 6 // attempts kept per source on average; sources are dropped before there are more

	maxCount = 100 // attempts that one line can add
)

// A Tracker counts. Make one with New.
type Tracker struct {
	cfg       Config
	rules     []rule
	ruleIndex map[string]uint16
	ruleBy    bounded.ByName[uint16] // the same
	now       int64                  // the latest time seen: time never goes back

	sources  bounded.Slab[source]
	attempts bounded.Arrays[attempt]
	users    bounded.Arrays[contribution]
	index    bounded.Index      // of sources
	indexing maphash.Seed       // of its hashes: attackers choose addresses
	children map[netkey.Key]int // sources by the /48 around them
	lists    [lists]list
	sweepPos uint32 // where sweep is
	tidyPos  uint32 // where tidy is
	sums     sums   // what the last settle found
	evidence bounded.Lines
	line     []byte // what note adds to it

	logins logins.Table
	seed   uint64
	networks
	names   dictionary.Dictionary
	lifts   bans.Lifts
	holds   bans.Active
	history bans.History

	unknown unknownUsers

	dirty []uint32     // sources that are marked so, and some that were before they were removed
	gone  []netkey.Key // stored sources that were removed

	alarms        []Alarm // oldest first
	lastAlarm     uint64
	alarmsChanged bool
	goneAlarms    []uint64

	rulesChanged bool
	seedStored   bool

	evicted, evictedHot uint64

	// What Observe returns, and what its slices point to.
	out     event.Tally
	parts   []event.Part
	wide    []ban.Wider
	except  []netip.Addr
	inForce []ban.Active
	pasts   []ban.Past
	lines   []string

	close []candidate // scratch of claim
}

// A rule is a configured rule with what is counted for it across sources.
type rule struct {
	rule    *event.Rule
	service uint32  // hash
	points  float32 // of one attempt
	learned
}

// learned is what is known of a rule by its events.
type learned struct {
	surge   surge.Surge
	doubted int64 // when it last reported a user as unknown who exists; 0: never
}

// New returns an empty tracker.
func New(cfg Config) *Tracker {
	t := &Tracker{
		indexing: maphash.MakeSeed(),
		children: map[netkey.Key]int{},
		logins:   logins.New(),
		names:    dictionary.New(),
		lifts:    bans.NewLifts(),
		holds:    bans.NewActive(),
		seed:     cfg.Seed,
	}
	t.history = bans.NewHistory(cmp.Or(cfg.MaxHistory, defaultHistory))
	t.Configure(cfg)
	return t
}

// Configure replaces the configuration, Seed and MaxHistory excepted. Attempts at rules that no longer exist are forgotten.
func (t *Tracker) Configure(cfg Config) {
	cfg.MaxSources = cmp.Or(cfg.MaxSources, defaultSources)
	cfg.MaxHistory = t.history.Size()
	cfg.IPv6Prefix = cmp.Or(cfg.IPv6Prefix, 64)
	cfg.Score.HalfLife = cmp.Or(cfg.Score.HalfLife, time.Hour)
	cfg.Rules = slices.Clone(cfg.Rules)
	old := t.rules
	t.cfg = cfg
	t.names.Configure(cfg.Accounts, cfg.Canaries, cfg.StarterNames)
	t.logins.Configure(logins.Limits{Total: cfg.Known.Total, PerUser: cfg.Known.PerUser, TTL: cfg.Known.TTL, IPv6Prefix: cfg.IPv6Prefix})
	t.rules = make([]rule, len(cfg.Rules))
	t.ruleIndex = make(map[string]uint16, len(cfg.Rules))
	t.sums = newSums(len(cfg.Rules))
	for i := range cfg.Rules {
		r := &cfg.Rules[i]
		t.rules[i] = rule{rule: r, service: t.serviceHash(r.Service), points: float32(cmp.Or(r.Points, cfg.Score.Failure))}
		t.ruleIndex[r.Name] = uint16(i)
	}
	t.ruleBy.Set(t.ruleIndex)
	t.renumber(old)
}

// renumber makes the attempts of the old rules, and what is known of those, that of the new rules of the same name.
func (t *Tracker) renumber(old []rule) {
	if old == nil {
		return
	}
	to := make([]int, len(old))
	for i := range old {
		to[i] = -1
		if n, ok := t.ruleIndex[old[i].rule.Name]; ok {
			to[i] = int(n)
			t.rules[n].learned = old[i].learned
		}
	}
	for i := uint32(1); i <= t.sources.Last(); i++ {
		s := t.sources.At(i)
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

// SetOnLink replaces the networks of this host's own links. What was counted before stays where it was counted.
func (t *Tracker) SetOnLink(set prefixset.Set) { t.cfg.OnLink = set }

// advance sets the time and returns it as nanoseconds; it never goes back.
func (t *Tracker) advance(at time.Time) int64 {
	t.now = max(t.now, at.UnixNano())
	return t.now
}

// SetAccounts replaces the names that exist on this host.
func (t *Tracker) SetAccounts(accounts map[string]bool) {
	t.cfg.Accounts = accounts
	t.names.Configure(accounts, t.cfg.Canaries, t.cfg.StarterNames)
}

// ShareNames sets which names hosts elsewhere see attacked; see dictionary.Share.
func (t *Tracker) ShareNames(attacked func(name string) bool) { t.names.Share(attacked) }

// AttackedNames returns at most so many names that may be reported as attacked; see dictionary.Attackable.
func (t *Tracker) AttackedNames(limit int, at time.Time) []string {
	return t.names.Attackable(limit, at.UnixNano())
}

// UserNames returns the names of this host; see dictionary.Users.
func (t *Tracker) UserNames() []string { return t.names.Users() }

// IsAccount reports whether a name is one of those of SetAccounts.
func (t *Tracker) IsAccount(name string) bool { return t.cfg.Accounts[name] }

// Observe counts an event and returns the tally of its source. It allocates nothing for a source that is in the table, unless a limit is
// reached.
func (t *Tracker) Observe(ev *event.Event) *event.Tally {
	r, ok := t.ruleBy.Get(ev.Rule)
	if !ok || !ev.Addr.IsValid() || ev.Kind != event.Success && t.lifts.Covers(ev.Addr, ev.Time.UnixNano()) {
		t.out = event.Tally{}
		return &t.out
	}
	now := t.advance(ev.Time)
	t.logins.Forget(now)
	i, k := t.find(ev.Addr)
	if ev.Kind == event.Success {
		alarm := t.succeed(ev, i, k, now)
		out := t.tally(ev, r, i, k, now)
		out.Alarm, out.Known = alarm, t.logins.Get(logins.Pair{From: netkey.Exact(ev.Addr), Service: ev.Service, User: dictionary.AccountName(ev.User)}) != nil
		return out
	}
	if i == 0 {
		i = t.insert(k, now)
	}
	if ev.Kind == event.Listed {
		return t.listed(ev, r, i, k, now)
	}
	s := t.sources.At(i)
	for t.attempts.Len() >= perSource*t.cfg.MaxSources && s.key == k {
		t.evict()
	}
	if s.key != k {
		i = t.insert(k, now) // it was itself dropped
		s = t.sources.At(i)
	}
	t.countKnown(s)
	t.settle(s, now)
	var rep report
	var c counted
	if ev.Kind == event.Failure {
		c = t.fail(&rep, s, r, ev, now)
	} else if !t.rules[r].rule.Detect {
		t.probe(s, count(ev), ev.Verified)
		t.note(s, ev)
	}
	if t.sums.stale {
		t.settle(s, now)
	}
	t.place(i, now)
	if !c.answered || s.flags&stored == 0 {
		t.touch(i)
	}
	tally := t.tally(ev, r, i, k, now)
	tally.Added, tally.New, tally.Forgiven = c.added, c.fresh, c.excused-c.recounted
	if ev.Kind == event.Failure {
		tally.Known = rep.standing == known
		tighten(tally, rep.surge)
		if rep.overdue {
			tally.Days = int(s.days)
		}
		if tally.Shared && rep.user != 0 && rep.verified {
			tally.UserLimit = tally.Rule.MaxRetry + t.cfg.Known.Burst
			tally.UserAttempts, tally.UserFirst = t.attemptsBy(s, r, rep.user, now)
		}
	}
	if tally.Reached() {
		t.detail(tally, s, &rep.subject, now)
	}
	return tally
}

// listed returns the tally of a source that a block list has. Nothing is counted: what lists report of an address comes with each of its
// events, as long as it is true. A list alone does not count against a place where users log in.
func (t *Tracker) listed(ev *event.Event, r uint16, i uint32, k netkey.Key, now int64) *event.Tally {
	s := t.sources.At(i)
	t.countKnown(s)
	t.settle(s, now)
	tally := t.tally(ev, r, i, k, now)
	tally.New = 1
	if tally.KnownUsers > 0 {
		return tally
	}
	if bans := len(ev.OnLists()) > 0 && ev.OnLists()[0].Ban; bans && ev.Verified {
		tally.Added, tally.Attempts = 1, 1
	} else if bans {
		tally.Added, tally.Unverified = 1, 1
	}
	if tally.Reached() {
		t.detail(tally, s, new(subject), now)
	}
	return tally
}

// succeed makes the user known and takes back that user's failures. A success that could be forged does neither. It returns why
// the login may be a break-in, if it may.
func (t *Tracker) succeed(ev *event.Event, i uint32, k netkey.Key, now int64) (alarm string) {
	var s *source
	if i != 0 {
		s = t.sources.At(i)
		t.settle(s, now)
		defer t.settle(s, now)
	}
	account := dictionary.AccountName(ev.User)
	if account == "" || !ev.Verified {
		return ""
	}
	of := logins.Pair{From: netkey.Exact(ev.Addr), Service: ev.Service, User: account}
	if alarm = t.alarm(ev, of, s, k, now); alarm != "" {
		var lines []string
		if s != nil {
			lines = t.evidence.Chain(nil, s.evidence, ban.MaxEvidence-1)
		}
		t.raise(ev, alarm, lines)
	}
	before := t.logins.Within(k)
	l := t.logins.Succeed(of, now)
	t.names.Succeed(account, t.cfg.Known.Total, now)
	of.From = k
	if guest := t.logins.Guest(of); guest != nil {
		l.Points += guest.Points
		t.logins.RemoveGuest(guest)
	}
	if s != nil {
		t.countKnown(s)
		s.days, s.tries = 0, 0
		s.flags &^= suspect | spread
		if r := t.ruleIndex[ev.Rule]; t.unknown.has(r, t.hash(ev.User), t.hash(ev.Session), now) {
			t.doubt(r, now)
		}
		t.forgive(s, t.userHash(ev.Service, account), l)
		if t.logins.Within(k) > before {
			t.forgiveNameless(s, ev.Service, now)
		}
		t.touch(i)
	}
	return alarm
}

func count(ev *event.Event) int { return min(max(1, ev.Count), maxCount) }

// counted is how many attempts a line has reported first, how many count because of it, how many were forgiven, and how many of the
// counted are earlier ones that had been.
type counted struct {
	fresh, added, excused, recounted int

	// A ban has answered all of them. In the log of a botnet that goes on after its ban these are most lines, and nothing that a later
	// decision needs has changed, so that the source need not be saved.
	answered bool
}

// fail counts a failure and fills in its report.
func (t *Tracker) fail(rep *report, s *source, r uint16, ev *event.Event, now int64) counted {
	rep.rule, rep.session, rep.form, rep.n = r, t.hash(ev.Session), formBit(ev.Form), count(ev)
	rep.once, rep.verified = ev.Echo && !ev.Each, ev.Verified
	t.judge(&rep.subject, s, ev, r, now)
	if rep.once {
		rep.n = 1
	}
	n := rep.n - t.claim(s, rep, now)
	if ev.UnknownUser && ev.Verified {
		t.unknown.note(r, rep.raw, rep.session, now)
	}
	if n <= 0 {
		return counted{}
	}
	if t.answers(ev, r, now) {
		t.count(s, rep, n, answered, now)
		return counted{fresh: n, answered: n == rep.n}
	}
	t.watch(s, rep, now)
	if s.address == 0 || s.key.Bits != 128 {
		s.noteAddress(t.addressHash(ev.Addr))
	}
	t.note(s, ev)
	if rep.name != nil {
		rep.name.Tries += uint32(n)
	}
	c := counted{fresh: n}
	for c.excused < n && !rep.surge.Aimed() && !rep.overdue && t.excuse(s, &rep.subject, now) {
		c.excused++
	}
	if c.excused > 0 {
		t.count(s, rep, c.excused, excused, now)
	}
	if c.added = n - c.excused; c.added > 0 {
		t.count(s, rep, c.added, 0, now)
		if !rep.guessed {
			c.recounted = t.recount(s, rep, now)
			c.added += c.recounted
		}
	}
	return c
}

// answers reports whether a ban in force has answered an attempt: its line was under way when the ban began, or is read late.
func (t *Tracker) answers(ev *event.Event, r uint16, now int64) bool {
	if t.holds.Len() == 0 || !ev.Verified {
		return false
	}
	rule := t.rules[r].rule
	return t.holds.Keeps(ev.Addr, cmp.Or(rule.Ports, rule.ServicePorts), true, now)
}

// watch finds out whether a failure is part of something larger: of an attack by many sources, or of one that has lasted for days. A
// source where users log in is part of neither, and failures at a service that reports no logins are not evidence of the latter.
func (t *Tracker) watch(s *source, r *report, now int64) {
	rule := &t.rules[r.rule]
	r.days = 1
	if s.known > 0 || rule.rule.Detect {
		return
	}
	if !t.triedAt(s, r.rule) {
		rule.surge.Add(now, rule.scale())
		t.rulesChanged = true
	}
	if r.verified && !rule.rule.NoLogins {
		s.flags |= suspect
		r.days = t.newDay(s, now)
		r.overdue = t.tooManyDays(s, &r.subject, r.days)
	}
	if r.surge = t.surgeOf(s, r, now); r.surge.Limit == strictLimit && r.standing == absent && t.cfg.Score.Hot > 0 {
		r.standing = hot
	}
}

// noteAddress notes which address of a source has tried.
func (s *source) noteAddress(hash uint32) {
	switch {
	case s.address == 0:
		s.address = hash
	case s.address != hash:
		s.flags |= several
	}
}

func (t *Tracker) addressHash(addr netip.Addr) uint32 {
	a := addr.As16()
	return hash(t.seed, a[:])
}

// tally sums up source i, just settled; i is 0 if there is nothing to sum up.
func (t *Tracker) tally(ev *event.Event, r uint16, i uint32, k netkey.Key, now int64) *event.Tally {
	rule, out := t.rules[r].rule, &t.out
	*out = event.Tally{} // a literal with values would be made elsewhere and copied
	out.Event, out.Rule, out.Source, out.Limit, out.ScoreLimit = ev, rule, k.Prefix(), rule.MaxRetry, t.cfg.Score.Ban
	var s *source
	if i != 0 {
		s = t.sources.At(i)
	}
	if s != nil && s.known < math.MaxUint8 && s.knownAt == t.logins.Generation() {
		out.KnownUsers = int(s.known)
	} else {
		out.KnownUsers = t.logins.Within(k)
	}
	out.Shared = t.cfg.Known.SharedMin > 0 && out.KnownUsers >= t.cfg.Known.SharedMin
	if out.KnownUsers == 0 {
		for _, l := range ev.OnLists() {
			out.Listed += float64(l.Points)
		}
	}
	if s != nil {
		sum := &t.sums.byRule[r]
		out.Limit, out.ScoreLimit = t.limit(s, r), t.scoreLimit(s)
		out.Attempts, out.Unverified, out.First = sum.verified, sum.unverified, record.Moment(sum.first)
		out.Score, out.ScoreUnverified = float64(s.score), float64(s.unverified)
		out.Absent, out.Several, out.Spread = float64(s.absent), s.flags&several != 0, s.flags&spread != 0
	}
	return out
}

// tighten lowers the limit for a source that takes part in a distributed attack.
func tighten(out *event.Tally, s event.Surge) {
	if s.Sources > 0 && out.Limit > s.Limit {
		out.Limit, out.Surge = s.Limit, s
	}
}

// detail fills in what a decision needs.
func (t *Tracker) detail(out *event.Tally, s *source, of *subject, now int64) {
	addr := out.Event.Addr
	t.parts = t.partsOf(t.parts[:0])
	t.wide = t.wider(t.wide[:0], s.key, 1, now)
	t.inForce = t.holds.Covering(t.inForce[:0], addr, now)
	t.pasts = t.past(t.pasts[:0], s.key, now)
	t.lines = t.evidence.Chain(t.lines[:0], s.evidence, ban.MaxEvidence)
	widest := s.key
	for _, w := range t.wide {
		if w.Reached() {
			widest = netkey.OfPrefix(w.Prefix)
		}
	}
	t.except = t.logins.AppendAddrs(t.except[:0], widest)
	out.Parts, out.Wider, out.InForce, out.History, out.Evidence, out.KnownAddrs = t.parts, t.wide, t.inForce, t.pasts, t.lines, t.except
	out.Name = of.note(t.network(addr), of.name != nil && of.name.Starter, of.standing == hot && of.name != nil && t.names.Shared(of.name))
	if out.Name.Text == "" && of.login != nil && of.login.Last == 0 && len(out.Parts) == 0 {
		out.Name.Text = "tried for days at the pace of a forgotten device, and nobody has logged in from here"
	}
}

// note returns what is known of the name that weighs more than others.
func (of *subject) note(network uint64, starter, shared bool) (n event.NameNote) {
	switch of.standing {
	case canary:
		n.Text = "a canary"
	case hot:
		n.Text = "no user here, and attackers try it on any server"
		if of.name == nil {
			n.Text = "an empty name"
		} else if n.Networks = of.name.Others(network); shared && !starter && n.Networks < dictionary.HotNetworks {
			n.Text, n.Networks = "no user here, and hosts of the community server see it attacked", 0
		} else if n.Networks >= dictionary.HotNetworks || !starter {
			n.Text = "no user here"
		}
	case absent:
		n.Text = "no user here"
	case contested, attacked:
		n.Text, n.Networks = "never from here", of.name.Others(network)
	}
	return n
}

func sortParts(parts []event.Part) {
	ordered.Sort(parts, func(a, b event.Part) int { return cmp.Compare(a.Rule, b.Rule) })
}

// hash returns 32 bits that cannot be predicted without the seed (FNV-1a begun from it), 0 only for the empty string.
func (t *Tracker) hash(s string) uint32 { return hash(t.seed, s) }

func hash[T string | []byte](seed uint64, s T) uint32 {
	if len(s) == 0 {
		return 0
	}
	h := seed ^ 14695981039346656037
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return max(uint32(h>>32), 1)
}
