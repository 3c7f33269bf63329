package offline

import (
	"net/netip"
	"time"

	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/track/bounded"
)

// A ReplaySummary reports what a configuration would have done to a log.
type ReplaySummary struct {
	First time.Time `json:"first"` // of the events
	Last  time.Time `json:"last"`

	Through int `json:"through"` // refused logins that reached the server
	Stopped int `json:"stopped"` // refused logins that a ban would have kept away; 0 unless the replay was a what-if
	Logins  int `json:"logins"`  // that succeeded

	Bans   int `json:"bans"`
	Banned int `json:"banned"` // distinct addresses and networks

	// Honest are banned addresses from which a user logged in, before or after; LoginsLost are logins during such a ban.
	Honest     int      `json:"honest"`
	Addresses  []string `json:"addresses"` // the first of them
	LoginsLost int      `json:"logins_lost"`

	Rules map[string]RuleSummary `json:"rules"`
}

// A RuleSummary is one rule's share: of events by the rule that recognized them, of bans by what decided.
type RuleSummary struct {
	Through int `json:"through"`
	Stopped int `json:"stopped"`
	Bans    int `json:"bans"`
}

const (
	maxSeen   = 1_000_000 // addresses of which it is remembered whether they logged in or were banned
	maxHonest = 20        // addresses named
)

// A tally adds up the outcomes of a replay.
type tally struct {
	sum   ReplaySummary
	rules map[string]*RuleSummary      // becomes sum.Rules
	by    bounded.ByName[*RuleSummary] // the same
	seen  map[netip.Prefix]uint8

	lately [1 << 12]netip.Addr // some that logged in, by their last bytes: mostly it is those that come again
}

const (
	loggedIn = 1 << iota
	wasBanned
)

func newTally() *tally {
	t := &tally{rules: map[string]*RuleSummary{}, seen: map[netip.Prefix]uint8{}}
	t.by.Set(t.rules)
	return t
}

func (t *tally) summary() ReplaySummary {
	sum := t.sum
	sum.Rules = make(map[string]RuleSummary, len(t.rules))
	for name, r := range t.rules {
		sum.Rules[name] = *r
	}
	return sum
}

func (t *tally) add(o *engine.Outcome) {
	switch o.Kind {
	case engine.Counted, engine.Blocked:
		t.event(o.Event, o.Attempts, o.Kind == engine.Blocked)
	case engine.Banned:
		t.sum.Bans++
		t.rule(o.Ban.Rule).Bans++
		if t.mark(o.Ban.Prefix, wasBanned)&wasBanned == 0 {
			t.sum.Banned++
		}
	}
}

func (t *tally) event(ev *event.Event, attempts int, blocked bool) {
	if t.sum.First.IsZero() || ev.Time.Before(t.sum.First) {
		t.sum.First = ev.Time
	}
	if ev.Time.After(t.sum.Last) {
		t.sum.Last = ev.Time
	}
	switch {
	case ev.Kind == event.Success:
		t.sum.Logins++
		if blocked {
			t.sum.LoginsLost++
		}
		if at := &t.lately[lastBytes(ev.Addr)%uint32(len(t.lately))]; ev.Addr.IsValid() && *at != ev.Addr {
			*at = ev.Addr
			t.mark(netip.PrefixFrom(ev.Addr, ev.Addr.BitLen()), loggedIn)
		}
	case ev.Kind != event.Failure:
	case blocked && ev.Echo: // another line of the session reports it
	case blocked:
		t.sum.Stopped += ev.Count
		t.rule(ev.Rule).Stopped += ev.Count
	default:
		t.sum.Through += attempts
		t.rule(ev.Rule).Through += attempts
	}
}

// mark records what happened to an address and returns what was recorded before.
func (t *tally) mark(p netip.Prefix, what uint8) (before uint8) {
	before, known := t.seen[p]
	if !known && len(t.seen) >= maxSeen {
		return before
	}
	now := before | what
	t.seen[p] = now
	if now == loggedIn|wasBanned && before != now {
		t.sum.Honest++
		if len(t.sum.Addresses) < maxHonest {
			t.sum.Addresses = append(t.sum.Addresses, p.Addr().String())
		}
	}
	return before
}

func (t *tally) rule(name string) *RuleSummary {
	r, ok := t.by.Get(name)
	if !ok {
		r = new(RuleSummary)
		t.rules[name] = r
	}
	return r
}
