package history

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"mef/internal/control"
)

const (
	// followed is how many attackers are sure to be followed, of which those with the highest scores are shown.
	followed = 128
	// forgottenAfter is how long after its last attempt an attacker that is not banned is shown.
	forgottenAfter = 24 * time.Hour
	// shownSeconds is how many seconds a picture has.
	shownSeconds = 60
)

// A live is what a picture shows besides counters: the last minute, and the attackers.
type live struct {
	seconds   [shownSeconds + 1]second // by Unix time
	attackers map[netip.Addr]*attacker
	free      []*attacker // that were dropped, to be used again
	dropped   uint64      // of the kernel's counters
	droppedAt time.Time   // when they were read; zero: never
}

type second struct {
	at int64 // Unix time; what was counted in another one is over
	control.Second
}

// An attacker is a source of attempts.
type attacker struct {
	score         float64 // as of last
	last          time.Time
	attempts      uint64
	rule, service string
	bannedBy      string // the rule of its latest ban
}

// attempt counts attempts of a source.
func (l *live) attempt(s *sample) {
	a := l.attackers[s.addr]
	if a == nil {
		if len(l.attackers) == 2*followed {
			l.halve()
		}
		if n := len(l.free); n > 0 {
			a, l.free = l.free[n-1], l.free[:n-1]
		} else {
			a = new(attacker)
		}
		l.attackers[s.addr] = a
	}
	a.score, a.last, a.rule, a.service = s.score, time.Unix(0, s.at), s.rule, s.service
	a.attempts += s.n
}

// halve drops the attackers with the lowest scores; of those with the same, the ones that came longest ago.
func (l *live) halve() {
	type one struct {
		addr netip.Addr
		*attacker
	}
	all := make([]one, 0, len(l.attackers))
	for addr, a := range l.attackers {
		all = append(all, one{addr, a})
	}
	slices.SortFunc(all, func(a, b one) int { return cmp.Or(cmp.Compare(a.score, b.score), a.last.Compare(b.last)) })
	for _, a := range all[:len(all)/2] {
		delete(l.attackers, a.addr)
		*a.attacker = attacker{}
		l.free = append(l.free, a.attacker)
	}
}

// banned counts a ban.
func (l *live) banned(p netip.Prefix, rule string, now time.Time) {
	l.second(now.Unix()).Bans++
	if p.IsSingleIP() {
		if a := l.attackers[p.Addr()]; a != nil {
			a.bannedBy = rule
		}
		return
	}
	for addr, a := range l.attackers {
		if p.Contains(addr) {
			a.bannedBy = rule
		}
	}
}

// second returns the counters of a second of Unix time.
func (l *live) second(at int64) *second {
	s := &l.seconds[at%int64(len(l.seconds))]
	if s.at != at {
		*s = second{at: at}
	}
	return s
}

// drop takes note of what the kernel's counters have now. Those of the latest second or two belong to the one before now.
func (l *live) drop(d control.Drops, now time.Time) {
	if !d.Known {
		return
	}
	if age := now.Sub(l.droppedAt); age >= 0 && age < 5*pictureEvery/2 {
		l.second(now.Unix() - 1).Drops += since(l.dropped, d.Total)
	}
	l.dropped, l.droppedAt = d.Total, now
}

// since returns how far a counter of the kernel has moved. It begins anew if others deleted it, and goes back a little when the table is written anew while
// packets are dropped.
func since(before, now uint64) uint64 {
	switch {
	case now >= before:
		return now - before
	case before-now < before/8:
		return 0
	}
	return now
}

// lastSeconds returns what happened in each of the seconds before now, the latest last.
func (l *live) lastSeconds(now time.Time) []control.Second {
	all := make([]control.Second, 0, shownSeconds)
	for at := now.Unix() - shownSeconds; at < now.Unix(); at++ {
		var one control.Second
		if s := l.seconds[at%int64(len(l.seconds))]; s.at == at {
			one = s.Second
		}
		all = append(all, one)
	}
	return all
}

// addrs returns the attackers' addresses.
func (l *live) addrs() []netip.Addr {
	all := make([]netip.Addr, 0, len(l.attackers))
	for addr := range l.attackers {
		all = append(all, addr)
	}
	return all
}

// worst returns the attackers with the highest scores, at most control.MaxAttackers.
func (l *live) worst(c *control.Counters, now time.Time) []control.Attacker {
	all := make([]control.Attacker, 0, len(l.attackers))
	for addr, a := range l.attackers {
		until, banned := c.InForce[addr]
		age := max(0, now.Sub(a.last))
		if !banned && age > forgottenAfter {
			delete(l.attackers, addr)
			continue
		}
		one := control.Attacker{Addr: addr.String(), Limit: c.ScoreLimit, Banned: banned, Rule: a.rule, Service: a.service, Attempts: a.attempts, Last: a.last,
			Score: a.score * math.Exp2(-float64(age)/float64(max(c.HalfLife, time.Second)))}
		if banned {
			one.Rule, one.Until = cmp.Or(a.bannedBy, a.rule), control.Moment(until)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b control.Attacker) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), b.Last.Compare(a.Last), cmp.Compare(a.Addr, b.Addr))
	})
	return slices.Clip(all[:min(len(all), control.MaxAttackers)])
}
