package event

import (
	"math"
	"net/netip"
	"time"

	"mef/internal/ban"
)

// A Tally is what the events of one source amount to as of the latest of them. The tracker makes it; whether it becomes a
// ban is decided elsewhere.
//
// The zero Tally (Rule is nil) is that of an event that does not count: no address, or an unknown rule. A Tally and what
// its slices hold are valid until the tracker's next call.
type Tally struct {
	Event  *Event
	Rule   *Rule
	Source netip.Prefix // who counts: an IPv4 address, an IPv6 network, one address of our own link

	Added      int       // what this event added to Attempts or Unverified; 0 for an echo, a success, a probe
	New        int       // attempts of this event that no line before has reported, those forgiven to a known user included
	Forgiven   int       // attempts of this event that do not count, less those of earlier events that now do
	Attempts   int       // verified attempts at Rule within its FindTime
	Unverified int       // attempts at Rule whose source may be forged, counted apart
	First      time.Time // the oldest attempt that still counts at Rule
	Limit      int       // attempts that Rule allows now: more than its MaxRetry where users log in, fewer during a distributed attack

	// Where several users log in, each user name has a limit of its own: attempts of Event's user at Rule within its FindTime, and how
	// many are allowed. UserLimit is 0 elsewhere.
	UserAttempts, UserLimit int
	UserFirst               time.Time // the oldest of them

	Score           float64 // verified points across services, decayed to Event.Time
	Absent          float64 // the part of Score that names which do not exist have added
	ScoreUnverified float64 // points of events whose source may be forged, kept apart
	ScoreLimit      int     // points that make a ban; 0: none do
	Listed          float64 // points that block lists add to Score now; 0 where users log in

	Known      bool // Event's user has logged in from here before
	KnownUsers int  // how many users have logged in from Source
	Shared     bool // so many that Source is an address people share
	Several    bool // more than one address of Source has tried
	Days       int  // days on which Source failed, if so many make a ban; otherwise 0
	Spread     bool // Source tried many names once or twice each, and nobody has logged in from there

	Alarm string // why a success may be a break-in; empty if there is no reason to think so

	Surge Surge

	// The rest is filled in only if a limit is reached.

	Parts    []Part       // what the score consists of, as far as attempts are still counted: by rule, ordered by name
	Wider    []ban.Wider  // networks around Source, narrowest first
	InForce  []ban.Active // bans in force on Event's address, narrowest first
	History  []ban.Past   // earlier bans of Source, oldest first
	Evidence []string     // raw lines, oldest first, Event's own last

	KnownAddrs []netip.Addr // addresses from which users log in, in Source and the networks around it that may be banned
	Name       NameNote     // what makes Event's user name weigh more than another
}

// RuleReached reports whether the attempts, forgeable ones included, reach the rule's limit.
func (t *Tally) RuleReached() bool {
	return t.Limit > 0 && t.Added > 0 && t.Attempts+t.Unverified >= t.Limit
}

// UserReached reports whether the attempts of Event's user reach the limit of one user.
func (t *Tally) UserReached() bool {
	return t.UserLimit > 0 && t.Added > 0 && t.UserAttempts >= t.UserLimit
}

// ScoreReached reports whether the points, forgeable ones included, reach the limit.
func (t *Tally) ScoreReached() bool {
	return t.ScoreLimit > 0 && Points(t.Score+t.Listed+t.ScoreUnverified) >= t.ScoreLimit
}

// Verified returns the points that count towards a verified ban. What block lists report of an address counts only if the event shows that
// the address is the source's own.
func (t *Tally) Verified() float64 {
	if t.Event.Verified {
		return t.Score + t.Listed
	}
	return t.Score
}

// Reached reports whether any limit is reached.
func (t *Tally) Reached() bool { return t.ScoreReached() || t.RuleReached() || t.UserReached() }

// Points rounds a score to the whole points that people see and that limits are compared with.
func Points(score float64) int { return int(math.Round(score)) }

// A NameNote is what is known of a user name. The zero value: nothing that makes it weigh more.
type NameNote struct {
	Text     string // a constant phrase; empty if nothing is known
	Networks int    // other networks that tried it, 0 if Text does not count them
}

// A Surge is a distributed attack, for which fewer attempts are allowed than usual. The zero value: there is none.
type Surge struct {
	Sources int          // unknown sources that take part
	Usual   int          // how many fail usually; 0 for a network
	User    bool         // they all tried Event's user name within a day
	Net     netip.Prefix // they are all of this network, and failed within two weeks; otherwise invalid
	Limit   int          // attempts that ban an unknown source meanwhile
}

// Aimed reports whether the attack is on one name or from one network, so that nothing is forgiven to those who take part.
func (s Surge) Aimed() bool { return s.User || s.Net.IsValid() }

// A Part is one rule's share of a score.
type Part struct {
	Rule     string `json:"rule"`
	Attempts int    `json:"attempts"`
}

// Hash shortens the ID of a ban to what a history keeps (FNV-1a, 64 bits).
func Hash[T string | []byte](id T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return h
}

// RuleCounts are attempts, probes, logins and bans of one rule since the start: attempts, not the lines that report them. Forgiven are
// the Failures that do not count.
type RuleCounts struct{ Failures, Forgiven, Probes, Logins, Bans uint64 }

// LastHour is what happened at one rule within about an hour.
type LastHour struct {
	Failures, Logins uint64
	Sources          int     // that failed
	More             bool    // there were more
	Usual            float64 // failures in an hour, on average
	Hours            int     // how many whole hours Usual is made of
}

// SourceCounts are the lines of one source, those that some rule recognised, and those that were lost before they could be read.
type SourceCounts struct{ Lines, Matched, Lost uint64 }
