package track

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/event"
)

// A surge counts the unknown sources that fail within a window, at one rule or with one user name. Many addresses that try
// little each are one attack, though none of them reaches a limit by itself.
type surge struct {
	start     int64  // of the current window
	cur, prev uint32 // sources in the current and the previous window
	usual     float64
}

const (
	// userSurge is how many sources trying one user name within a day are an attack on that user.
	userSurge = 20
	// unusual is how many times the usual number of sources is an attack.
	unusual = 3
	// tightLimit is what limits are tightened to where many sources fail at a service, networkLimit and strictLimit where they are of
	// one network, and strictLimit where they try one name.
	tightLimit   = 3
	networkLimit = 2
	strictLimit  = 1

	day = int64(24 * time.Hour)
)

// A scale says how a surge counts.
type scale struct {
	window int64
	least  float64 // sources per window that are usual at the least, so that a new server does not take its everyday life for an attack
	pace   int64   // time in which what is usual doubles at most
}

// nameScale is that of user names: a name that is always attacked, such as root, is no news.
func nameScale() scale { return scale{day, 7, 7 * day} }

func (r *rule) scale() scale { return scale{int64(r.rule.FindTime), 30, day} }

// add counts one more source.
func (s *surge) add(now int64, by scale) {
	s.roll(now, by)
	s.cur++
}

// roll begins a new window if the current one is over, and learns from the old one what is usual: slowly, so that a day of
// attack no more than doubles it.
func (s *surge) roll(now int64, by scale) {
	if s.start == 0 {
		s.start, s.usual = now, by.least
	}
	passed := now - s.start
	if passed < by.window {
		return
	}
	s.learn(float64(s.cur), by.window, by)
	if s.prev = s.cur; passed >= 2*by.window {
		s.learn(0, passed-by.window, by)
		s.prev = 0
	}
	s.cur = 0
	s.start += passed - passed%by.window
}

func (s *surge) learn(seen float64, passed int64, by scale) {
	paces := float64(passed) / float64(by.pace)
	next := seen + (s.usual-seen)*math.Exp(-paces)
	s.usual = max(by.least, min(next, s.usual*math.Exp2(paces)))
}

// sources estimates how many sources failed within the window that ends now.
func (s *surge) sources(now int64, by scale) int {
	s.roll(now, by)
	left := 1 - float64(now-s.start)/float64(by.window)
	return int(s.cur) + int(left*float64(s.prev))
}

// attack returns the sources that failed within the window if they are an attack, otherwise 0.
func (s *surge) attack(now int64, by scale, least int) int {
	if n := s.sources(now, by); n >= least && float64(n) >= unusual*s.usual {
		return n
	}
	return 0
}

// surgeOf returns whether the user name, the network of the source, or the rule, is under a distributed attack now or makes one.
func (t *Tracker) surgeOf(s *source, r *report, now int64) event.Surge {
	if !t.cfg.Score.Sprays {
		return event.Surge{}
	}
	if r.name != nil && r.verified {
		if n := r.name.surge.attack(now, nameScale(), userSurge); n > 0 {
			return event.Surge{Sources: n, Usual: int(math.Round(r.name.surge.usual)), User: true, Limit: strictLimit}
		}
	}
	if r.verified {
		net := s.key.around()
		if n, limit := t.suspectsIn(net, now); n > 0 {
			if int(s.tries) >= limit { // the others may be too old for the window
				limit = strictLimit
			}
			return event.Surge{Sources: n, Net: net.prefix(), Limit: limit}
		}
	}
	rule := &t.rules[r.rule]
	t.surgesDirty = true // looking moves windows on
	if n := rule.surge.attack(now, rule.scale(), 0); n > 0 {
		return event.Surge{Sources: n, Usual: int(math.Round(rule.surge.usual)), Limit: tightLimit}
	}
	return event.Surge{}
}

// An Attack is a distributed attack under way: limits are lower for sources that are not known.
type Attack struct {
	User    string       // the name that all of them try
	Net     netip.Prefix // the network that all of them are of
	Rule    string       // the rule at which all of them fail, if neither is the case
	Sources int
	Usual   int // sources that usually fail at the rule
	Limit   int // attempts that ban an unknown source which takes part
}

// String returns the attack and what it leads to, in a sentence.
func (a Attack) String() string {
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
		if n := aside.attack(now, t.rules[i].scale(), 0); n > 0 {
			all = append(all, Attack{Rule: t.rules[i].rule.Name, Sources: n, Usual: int(math.Round(aside.usual)), Limit: tightLimit})
		}
	}
	for _, list := range []*nameList{&t.names.demanded, &t.names.succeeded} {
		for n := list.newest; n != nil; n = n.older {
			aside := n.surge
			if n.surge.start == 0 {
				continue
			}
			if sources := aside.attack(now, nameScale(), userSurge); sources > 0 {
				all = append(all, Attack{User: n.text, Sources: sources, Limit: strictLimit})
			}
		}
	}
	all = t.attackingNetworks(all, now)
	slices.SortFunc(all, func(a, b Attack) int {
		return cmp.Or(cmp.Compare(b.Sources, a.Sources), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.User, b.User), a.Net.Compare(b.Net))
	})
	return all
}
