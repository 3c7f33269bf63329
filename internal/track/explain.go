package track

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
	"mef/internal/ordered"
	"mef/internal/track/dictionary"
	"mef/internal/track/logins"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// An Account is all that is known of an address, so that a person can see why it is banned or is not.
type Account struct {
	Addr    netip.Addr   `json:"addr"`
	Source  netip.Prefix `json:"source"`  // what Addr counts as
	Tracked bool         `json:"tracked"` // false: nothing is counted for it now
	Seen    time.Time    `json:"seen"`    // latest event

	Rules []RuleCount `json:"rules"` // ordered by name

	Score           int           `json:"score"`
	ScoreUnverified int           `json:"score_unverified"`
	ScoreLimit      int           `json:"score_limit"`
	HalfLife        time.Duration `json:"half_life"`

	Pardons []Pardon `json:"pardons"` // users whose failures here are forgiven
	Attacks []Attack `json:"attacks"` // distributed attacks that lower the limits of the address

	Known  []logins.Known `json:"known"`  // users who logged in from here
	Shared bool           `json:"shared"` // so many that its bans are short and leave other ports alone

	InForce  []ban.Active `json:"in_force"`
	History  []ban.Past   `json:"history"`
	Wider    []ban.Wider  `json:"wider"`
	Evidence []string     `json:"evidence"` // raw lines, oldest first; quote them
}

// A Pardon is a user whose failures at an address are forgiven for now.
type Pardon struct {
	User     string    `json:"user"`
	Service  string    `json:"service"`
	Failures int       `json:"failures"` // fewer as time goes by
	Last     time.Time `json:"last"`     // failure
	Reason   string    `json:"reason"`   // why they are forgiven, of the user
}

// A RuleCount is what counts at one rule.
type RuleCount struct {
	Rule       string        `json:"rule"`
	Service    string        `json:"service"`
	Attempts   int           `json:"attempts"`
	Unverified int           `json:"unverified"`
	Limit      int           `json:"limit"`
	FindTime   time.Duration `json:"find_time"`
	First      time.Time     `json:"first"` // oldest attempt that counts

	Points float64 `json:"points"` // what the verified attempts add to the score now, decayed
}

// Explain returns what is known of addr at a time, without changing any of it. The result is the caller's.
func (t *Tracker) Explain(addr netip.Addr, at time.Time) Account {
	now := max(t.now, at.UnixNano())
	i, k := t.find(addr)
	self := 0
	if t.holds.Verified(k, now) {
		self = 1
	}
	out := Account{
		Addr: addr, Source: k.Prefix(), Tracked: i != 0,
		ScoreLimit: t.cfg.Score.Ban, HalfLife: t.cfg.Score.HalfLife,
		Known:   t.logins.KnownAt(netkey.Exact(addr), now),
		InForce: t.holds.Covering(nil, addr, now),
		History: t.past(nil, k, now),
		Wider:   t.wider(nil, k, self, now),
	}
	out.Pardons = t.pardons(netkey.Exact(addr), k, now)
	strange := t.logins.Within(k) == 0
	out.Attacks = slices.DeleteFunc(t.Attacks(at), func(a Attack) bool {
		return a.Net.IsValid() && !a.Net.Contains(addr) || !strange && a.Users == 0
	})
	out.Shared = t.cfg.Known.SharedMin > 0 && t.logins.Within(k) >= t.cfg.Known.SharedMin
	if i == 0 {
		return out
	}
	s := t.sources.At(i)
	out.Seen = record.Moment(s.seen)
	aside := *s // looking must not change what later decisions add up
	t.fade(&aside, now)
	out.ScoreLimit = t.scoreLimit(s)
	out.Score, out.ScoreUnverified = event.Points(float64(aside.score)), event.Points(float64(aside.unverified))
	t.sumUp(s, now)
	out.Rules = t.ruleCounts(s, now)
	out.Evidence = t.evidence.Chain(nil, s.evidence, ban.MaxEvidence)
	return out
}

// ruleCounts returns what t.sums holds, which is that of s.
func (t *Tracker) ruleCounts(s *source, now int64) []RuleCount {
	var out []RuleCount
	for _, part := range t.partsOf(nil) {
		i := t.ruleIndex[part.Rule]
		r, sum := &t.rules[i], t.sums.byRule[i]
		c := RuleCount{
			Rule: r.rule.Name, Service: r.rule.Service, Attempts: sum.verified, Unverified: sum.unverified,
			Limit: t.limit(s, i), FindTime: r.rule.FindTime, First: record.Moment(sum.first),
		}
		c.Points = t.worth(s, i, sum.first, now)
		out = append(out, c)
	}
	return out
}

// worth returns what the verified attempts of s at a rule add to its score now, from the first on.
func (t *Tracker) worth(s *source, rule uint16, first, now int64) (points float64) {
	for _, a := range slices.Backward(t.attemptsOf(s)) {
		if a.rule == rule && a.flags() == 0 && a.at() >= first {
			age := float64(max(0, now-a.at())) / float64(t.cfg.Score.HalfLife)
			points += float64(a.points) * float64(a.n()) * math.Exp2(-age)
		}
	}
	return points
}

// Stats are the sizes of the tracker's tables.
type Stats struct {
	Sources    int    `json:"sources"`
	MaxSources int    `json:"max_sources"`
	Attempts   int    `json:"attempts"`
	Names      int    `json:"names"`
	Evicted    uint64 `json:"evicted"`     // sources dropped because the table was full
	EvictedHot uint64 `json:"evicted_hot"` // those of them above half of a limit: only when no other was left
	Logins     int    `json:"logins"`
	MaxLogins  int    `json:"max_logins"`
	History    int    `json:"history"`
	MaxHistory int    `json:"max_history"`
}

// Stats returns the sizes of the tables now.
func (t *Tracker) Stats() Stats {
	return Stats{
		Sources: t.sources.Len(), MaxSources: t.cfg.MaxSources, Attempts: t.attempts.Len(),
		Evicted: t.evicted, EvictedHot: t.evictedHot,
		Logins: t.logins.Len(), MaxLogins: t.cfg.Known.Total, Names: t.names.Len(),
		History: t.history.Len(), MaxHistory: t.history.Size(),
	}
}

// pardons returns the users whose failures at an address, or in the source that it counts as, are forgiven for now, ordered by name.
func (t *Tracker) pardons(addr, source netkey.Key, now int64) (out []Pardon) {
	add := func(l *logins.Login, reason string) {
		refill := float32(t.cfg.Known.Retries) / float32(day)
		if n := int(math.Ceil(float64(l.Spent - refill*float32(now-l.At)))); n > 0 {
			out = append(out, Pardon{l.User, l.Service, n, record.Moment(l.At), reason})
		}
	}
	for l := range t.logins.At(addr) {
		add(l, "has logged in from here")
	}
	for l := range t.logins.GuestsAt(source) {
		_, exists := t.names.Account(l.User)
		switch n := t.names.Get(l.User); {
		case n != nil && n.Success > 0:
			add(l, "has logged in from elsewhere")
		case exists:
			add(l, "exists on this host")
		case n != nil && !n.Absent:
			add(l, "may be a user of this host")
		}
	}
	ordered.Sort(out, func(a, b Pardon) int { return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Service, b.Service)) })
	return out
}

// Names returns the dictionary: the names that most networks try first, at most limit, 0 for all. Entries that begin with prefix only.
func (t *Tracker) Names(prefix string, limit int, at time.Time) []dictionary.Name {
	return t.names.Names(prefix, limit, at.UnixNano())
}
