package event

import (
	"math"
	"net/netip"
	"strconv"
	"time"

	"mef/internal/ban"
)

// A Tally is what the events of one source amount to as of the latest of them. The tracker makes it; whether it becomes a
// ban is decided elsewhere.
//
// The zero Tally (Rule is nil) is that of an event that counts for nobody: no address, or an unknown rule. A Tally and what
// its slices hold are valid until the tracker's next call.
type Tally struct {
	Event  *Event
	Rule   *Rule
	Source netip.Prefix // who counts: an IPv4 address, an IPv6 network, one address of our own link

	Added      Attempts  // what this event added to Attempts or Unverified; 0 for an echo, a success, a probe
	Attempts   Attempts  // verified attempts at Rule within its FindTime
	Unverified Attempts  // attempts at Rule whose source may be forged, counted apart
	First      time.Time // the oldest attempt that still counts at Rule
	Limit      int       // attempts that Rule allows now: its MaxRetry, or fewer during a distributed attack

	Score           float64 // verified points across services, decayed to Event.Time
	ScoreUnverified float64 // points of events whose source may be forged, kept apart
	ScoreLimit      int     // points that make a ban

	Known       bool // Event's user has logged in from here before
	KnownUsers  int  // how many users have
	Shared      bool // so many that this is an address people share
	KnownInside int  // known logins in all of Source

	Surge Surge

	// The rest is filled in only if a limit is reached.

	Parts    []Part      // what the score consists of, as far as attempts are still counted: by rule, ordered by name
	Wider    []WiderNet  // networks around Source, narrowest first
	InForce  []ActiveBan // bans in force on Event's address, narrowest first
	History  []PastBan   // earlier bans of Source, oldest first
	Evidence []string    // raw lines, oldest first, Event's own last
}

// RuleReached reports whether the attempts, forgeable ones included, reach the rule's limit.
func (t *Tally) RuleReached() bool {
	return t.Limit > 0 && t.Added > 0 && t.Attempts+t.Unverified >= WholeAttempts(t.Limit)
}

// ScoreReached reports whether the points, forgeable ones included, reach the limit.
func (t *Tally) ScoreReached() bool {
	return t.ScoreLimit > 0 && Points(t.Score+t.ScoreUnverified) >= t.ScoreLimit
}

// Points rounds a score to the whole points that people see and that limits are compared with.
func Points(score float64) int { return int(math.Round(score)) }

// Attempts counts attempts in fourths, because the failures of a known login weigh a fourth.
type Attempts int

// Whole returns n attempts.
func WholeAttempts(n int) Attempts { return Attempts(4 * n) }

// String returns the attempts as a decimal number: "5", "4.25".
func (q Attempts) String() string { return strconv.FormatFloat(float64(q)/4, 'f', -1, 64) }

// A Surge says why fewer attempts are allowed than usual. The zero value: they are not.
type Surge struct {
	Sources int  // unknown sources that failed within the rule's FindTime
	Usual   int  // how many are usual
	User    bool // they all tried Event's user name; else they all tried Event's service
}

// A Part is one rule's share of a score.
type Part struct {
	Rule     string   `json:"rule"`
	Attempts Attempts `json:"quarters"`
}

// A WiderNet is a network around a source, with what speaks for and against banning all of it.
type WiderNet struct {
	Prefix netip.Prefix `json:"prefix"`
	Banned int          `json:"banned"` // distinct networks inside under verified bans, once Source is
	Limit  int          `json:"limit"`  // so many make a ban of Prefix
	Known  int          `json:"known"`  // known logins inside
}

// Reached reports whether enough of the network is banned to ban all of it.
func (w WiderNet) Reached() bool { return w.Banned >= w.Limit }

// An ActiveBan is a ban in force.
type ActiveBan struct {
	ban.Key
	Start time.Time
	Until time.Time // zero: no end
	ID    uint64    // Hash of the ban's ID
}

// A PastBan is a ban of the history, in force or over.
type PastBan struct {
	Prefix netip.Prefix `json:"prefix"`
	Rule   string       `json:"rule"`
	Start  time.Time    `json:"start"`
	Until  time.Time    `json:"until"` // zero: no end
	ID     uint64       `json:"-"`     // Hash of the ban's ID

	// Joined marks a ban that began while another of the same prefix held, so that it is no repeat; Lifted one that an
	// operator took back.
	Joined bool `json:"joined,omitempty"`
	Lifted bool `json:"lifted,omitempty"`
}

// Hash shortens the ID of a ban to what a history keeps (FNV-1a, 64 bits).
func Hash[T string | []byte](id T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return h
}
