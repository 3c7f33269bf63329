package track

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"mef/internal/event"
	"mef/internal/ordered"
	"mef/internal/track/surge"
)

const (
	// tightLimit is what limits are tightened to where many sources fail at a service, networkLimit and strictLimit where they are of
	// one network, and strictLimit where they try one name. Where more than nameSources do, a ban for a single try answers little: so many
	// do not come back within it.
	tightLimit   = 3
	networkLimit = 2
	strictLimit  = 1
	nameSources  = 1000

	day = int64(24 * time.Hour)
)

// scale is how the sources that fail at a rule count.
func (r *rule) scale() surge.Scale {
	return surge.Scale{Window: r.rule.FindTime, Least: 30, Pace: 24 * time.Hour}
}

// surgeOf returns whether the user name, the network of the source, or the rule, is under a distributed attack now or makes one.
func (t *Tracker) surgeOf(s *source, r *report, now int64) event.Surge {
	if !t.cfg.Score.Sprays {
		return event.Surge{}
	}
	if r.name != nil && r.verified {
		if n, usual := r.name.Attack(now); n > 0 {
			return event.Surge{Sources: n, Usual: usual, User: true, Limit: nameLimit(n)}
		}
	}
	if r.verified {
		net := s.key.Around()
		if n, limit := t.suspectsIn(net, now); n > 0 {
			if int(s.tries) >= limit { // the others may be too old for the window
				limit = strictLimit
			}
			return event.Surge{Sources: n, Net: net.Prefix(), Limit: limit}
		}
	}
	rule := &t.rules[r.rule]
	t.rulesChanged = true // looking moves windows on
	if n := rule.surge.Attack(now, rule.scale(), 0); n > 0 {
		return event.Surge{Sources: n, Usual: rule.surge.Usual(), Limit: tightLimit}
	}
	return event.Surge{}
}

// nameLimit returns the limit of an unknown source where so many try one name.
func nameLimit(sources int) int {
	if sources > nameSources {
		return networkLimit
	}
	return strictLimit
}

// An Attack is a distributed attack under way: limits are lower for sources that are not known.
type Attack struct {
	User    string       // the name that all of them try
	Net     netip.Prefix // the network that all of them are of
	Rule    string       // the rule at which all of them fail, if neither is the case
	Users   int          // who log in from Net, one address, where an attacker guesses the names of Sources of them; otherwise 0
	Sources int
	Usual   int // sources that usually fail at the rule
	Limit   int // attempts that ban an unknown source which takes part
}

// String returns the attack and what it leads to, in a sentence.
func (a Attack) String() string {
	if a.Users > 0 {
		return fmt.Sprintf("%d of the %d users who log in from %s failed there within a day and have not logged in since, so their names are being guessed: failures there are not forgiven, and the address is banned for minutes once an hour at most",
			a.Sources, a.Users, a.Net.Addr())
	}
	what := fmt.Sprintf("%d sources fail at %s, where %d are usual", a.Sources, a.Rule, a.Usual)
	switch {
	case a.User != "":
		what = fmt.Sprintf("%d sources tried user %q within a day", a.Sources, a.User)
	case a.Net.IsValid():
		what = fmt.Sprintf("%d sources of %s failed within two weeks and never logged in", a.Sources, a.Net)
	}
	limit := fmt.Sprintf("%d attempts", a.Limit)
	if a.Limit == 1 {
		limit = "one attempt"
	}
	return fmt.Sprintf("%s: an unknown source that takes part is banned for %s", what, limit)
}

// Attacks returns the attacks under way, that with the most sources first.
func (t *Tracker) Attacks(at time.Time) (all []Attack) {
	if !t.cfg.Score.Sprays {
		return nil
	}
	now := max(t.now, at.UnixNano())
	for i := range t.rules {
		aside := t.rules[i].surge // looking must not change what later decisions add up
		if n := aside.Attack(now, t.rules[i].scale(), 0); n > 0 {
			all = append(all, Attack{Rule: t.rules[i].rule.Name, Sources: n, Usual: aside.Usual(), Limit: tightLimit})
		}
	}
	for name, sources := range t.names.Attacked(now) {
		all = append(all, Attack{User: name, Sources: sources, Limit: nameLimit(sources)})
	}
	for from, n := range t.logins.Guessed(now) {
		all = append(all, Attack{Net: from.Prefix(), Sources: n, Users: t.logins.Within(from)})
	}
	all = t.attackingNetworks(all, now)
	ordered.Sort(all, func(a, b Attack) int {
		return cmp.Or(cmp.Compare(b.Sources, a.Sources), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.User, b.User), a.Net.Compare(b.Net))
	})
	return all
}
