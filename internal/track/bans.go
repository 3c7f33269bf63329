package track

import (
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
)

// Banned notes that a ban was decided and is in force. What decided it counts no more: attempts at its rule, for a ban by
// score everything. A repeated ID changes nothing but what is in force, and so does a ban by hand.
func (t *Tracker) Banned(b ban.Ban) {
	now := t.advance(b.Start)
	t.holds.add(&b, now)
	if b.Rule == ban.ByHand {
		t.block(b.Key, now)
		return
	}
	if b.Class == ban.Verified {
		k := t.historyKey(b.Prefix)
		if t.history.has(k, event.Hash(b.ID)) {
			return
		}
		t.history.record(&b, k)
	}
	t.settled(&b)
	t.block(b.Key, now)
}

// block notes whether the sources in a prefix are blocked now, and moves them to where they then belong.
func (t *Tracker) block(k ban.Key, now int64) {
	if k.Class != ban.Verified || k.Ports != "" {
		return
	}
	t.eachSource(k.Prefix, func(i uint32) {
		s := t.sources.at(i)
		s.blockedUntil = t.holds.blocked(s.key, now)
		if s.blockedUntil > now || s.level != newcomers {
			t.settleIn(i, now)
		}
	})
}

// Detected notes that a ban was only reported. What decided it counts no more, or every further line would report it again.
func (t *Tracker) Detected(b ban.Ban) {
	t.advance(b.Start)
	t.settled(&b)
}

// Restore notes a ban in force from before the start, which has nothing to do with what was counted since.
func (t *Tracker) Restore(b ban.Ban) {
	t.holds.add(&b, t.now)
	t.blockSource(b.Key, t.now)
}

// blockSource is block for one of very many bans: looking for the sources in a wide network would take too long.
func (t *Tracker) blockSource(k ban.Key, now int64) {
	if _, source := t.find(k.Prefix.Addr()); source.bits <= keyOfPrefix(k.Prefix).bits {
		t.block(k, now)
	}
}

// Ended notes that a ban does not hold although its time is not over and nobody lifted it: there was no room for it in the kernel.
// A source that goes on is banned again, and that is the same visit.
func (t *Tracker) Ended(k ban.Key, at time.Time) {
	now := t.advance(at)
	t.holds.remove(k)
	t.blockSource(k, now)
}

// Unbanned notes that an operator lifted a ban: it was a mistake, so it is no repeat the next time, and what was counted
// against the source is forgotten. Events from before that moment count for nothing, whatever log reports them later.
func (t *Tracker) Unbanned(k ban.Key, at time.Time) {
	now := t.advance(at)
	t.holds.remove(k)
	t.history.lift(t.historyKey(k.Prefix), now)
	t.lifts.add(keyOfPrefix(k.Prefix), now)
	t.eachSource(k.Prefix, func(i uint32) {
		t.reset(t.sources.at(i))
		t.touch(i)
	})
	t.block(k, now)
}

// settled clears what a ban was decided on. A ban for what can be forged clears no more than that, or forging would be a
// way to be forgiven.
func (t *Tracker) settled(b *ban.Ban) {
	r, isRule := t.ruleIndex[b.Rule]
	byScore := b.Rule == ban.ByScore
	if !isRule && !byScore {
		return
	}
	t.eachSource(b.Prefix, func(i uint32) {
		s := t.sources.at(i)
		t.touch(i)
		if b.Class == ban.Verified {
			s.flags &^= suspect // it is one no longer
		}
		switch {
		case b.Class == ban.Unverified:
			t.drop(s, func(a *attempt) bool { return a.flags&unverified != 0 && (byScore || a.rule == r) })
			if byScore {
				s.unverified = 0
			}
		case byScore:
			t.drop(s, func(a *attempt) bool { return !t.answered(a) })
			t.keepAfterBan(s)
		default:
			t.drop(s, func(a *attempt) bool { return a.rule == r && !t.answered(a) })
		}
	})
}

// reset forgets all that counts against a source.
func (t *Tracker) reset(s *source) {
	t.drop(s, func(a *attempt) bool { return !t.answered(a) })
	s.clearScore()
	s.address, s.days, s.tries, s.flags = 0, 0, 0, s.flags&^lasting
}

// answered keeps an attempt that has been answered with a ban for a while, and for nothing more than that further lines of its
// session are recognized when they come: it must not count towards the next.
func (t *Tracker) answered(a *attempt) bool {
	a.flags |= answered
	return t.now-a.at <= int64(sessionIdle)
}

// eachSource calls f for the source that p is or lies in, and for all sources inside p.
func (t *Tracker) eachSource(p netip.Prefix, f func(i uint32)) {
	k := keyOfPrefix(p)
	i, source := t.find(p.Addr())
	if source.bits <= k.bits {
		if i != 0 {
			f(i)
		}
		return
	}
	for i := uint32(1); i <= t.sources.used; i++ {
		if s := t.sources.at(i); s.live() && p.Contains(s.key.prefix().Addr()) {
			f(i)
		}
	}
}
