package track

import (
	"cmp"
	"math"
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
	// leastUsual is how many failing sources per window a rule takes for usual at the least, so that a server that has
	// learnt nothing yet does not take its everyday life for an attack; ruleSurge is how many times the usual is one.
	leastUsual = 30
	ruleSurge  = 3
	// tightLimit is what limits are tightened to, never below.
	tightLimit = 3

	day = int64(24 * time.Hour)
)

// add counts one more source.
func (s *surge) add(now, window int64) {
	s.roll(now, window)
	s.cur++
}

// roll begins a new window if the current one is over, and learns from the old one what is usual: slowly, so that a day of
// attack no more than doubles it.
func (s *surge) roll(now, window int64) {
	if s.start == 0 {
		s.start, s.usual = now, leastUsual
	}
	passed := now - s.start
	if passed < window {
		return
	}
	s.learn(float64(s.cur), window)
	if s.prev = s.cur; passed >= 2*window {
		s.learn(0, passed-window)
		s.prev = 0
	}
	s.cur = 0
	s.start += passed - passed%window
}

func (s *surge) learn(seen float64, passed int64) {
	days := float64(passed) / float64(day)
	next := seen + (s.usual-seen)*math.Exp(-days)
	s.usual = max(leastUsual, min(next, s.usual*math.Exp2(days)))
}

// sources estimates how many sources failed within the window that ends now.
func (s *surge) sources(now, window int64) int {
	s.roll(now, window)
	left := 1 - float64(now-s.start)/float64(window)
	return int(s.cur) + int(left*float64(s.prev))
}

// surgeOf returns whether the user name, or the rule, is under a distributed attack now.
func (t *Tracker) surgeOf(r *rule, n *name, now int64) event.Surge {
	if n != nil {
		if sources := n.surge.sources(now, day); sources >= userSurge {
			return event.Surge{Sources: sources, Usual: 1, User: true}
		}
	}
	if n := r.surge.sources(now, int64(r.rule.FindTime)); float64(n) >= ruleSurge*r.surge.usual {
		return event.Surge{Sources: n, Usual: int(math.Round(r.surge.usual))}
	}
	return event.Surge{}
}

// An Attack is a distributed attack under way: limits are lower for sources that are not known.
type Attack struct {
	User    string // the name that all of them try; empty: the rule at which all of them fail
	Rule    string
	Sources int
	Usual   int // sources that usually fail at the rule
}

// Attacks returns the attacks under way, that with the most sources first.
func (t *Tracker) Attacks(at time.Time) (all []Attack) {
	now := max(t.now, at.UnixNano())
	for i := range t.rules {
		aside := t.rules[i].surge // looking must not change what later decisions add up
		if n := aside.sources(now, int64(t.rules[i].rule.FindTime)); float64(n) >= ruleSurge*aside.usual {
			all = append(all, Attack{Rule: t.rules[i].rule.Name, Sources: n, Usual: int(math.Round(aside.usual))})
		}
	}
	for _, list := range []*nameList{&t.names.demanded, &t.names.succeeded} {
		for n := list.newest; n != nil; n = n.older {
			aside := n.surge
			if sources := aside.sources(now, day); n.surge.start != 0 && sources >= userSurge {
				all = append(all, Attack{User: n.text, Sources: sources})
			}
		}
	}
	slices.SortFunc(all, func(a, b Attack) int {
		return cmp.Or(cmp.Compare(b.Sources, a.Sources), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.User, b.User))
	})
	return all
}
