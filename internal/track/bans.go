package track

import (
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
	"mef/internal/track/bans"
	"mef/internal/track/netkey"
)

// Banned notes that a ban was decided and is in force. What decided it counts no more: attempts at its rule, for a ban by
// score everything. A repeated ID changes nothing but what is in force, and so does a ban by hand or by another host.
func (t *Tracker) Banned(b ban.Ban) {
	now := t.advance(b.Start)
	t.holds.Add(&b, event.Hash(b.ID), t.alone(b.Prefix.Addr()), now)
	if b.Rule == ban.ByHand || b.Rule == ban.ByFleet {
		t.block(b.Key, now)
		return
	}
	if b.Class == ban.Verified {
		k := t.historyKey(b.Prefix)
		if t.history.Has(k, event.Hash(b.ID)) {
			return
		}
		t.history.Record(&b, k, event.Hash(b.ID))
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
		s := t.sources.At(i)
		s.blockedUntil = t.holds.Blocked(s.key, now)
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

// Restore adds a ban from before the start. It does not change what is counted.
func (t *Tracker) Restore(b ban.Ban) {
	t.holds.Add(&b, event.Hash(b.ID), t.alone(b.Prefix.Addr()), t.now)
	t.blockSource(b.Key, t.now)
}

// blockSource is block for one of very many bans: looking for the sources in a wide network would take too long.
func (t *Tracker) blockSource(k ban.Key, now int64) {
	if _, source := t.find(k.Prefix.Addr()); source.Bits <= netkey.OfPrefix(k.Prefix).Bits {
		t.block(k, now)
	}
}

// Ended notes that a ban does not hold although its time is not over and nobody lifted it: there was no room for it in the kernel.
// A source that goes on is banned again, and that is the same visit.
func (t *Tracker) Ended(k ban.Key, at time.Time) {
	now := t.advance(at)
	t.holds.Remove(k)
	t.blockSource(k, now)
}

// Unbanned notes that an operator lifted a ban: it was a mistake, so it is no repeat the next time, and what was counted
// against the source is forgotten. Events from before that moment count for nothing, whatever log reports them later.
func (t *Tracker) Unbanned(k ban.Key, at time.Time) {
	now := t.advance(at)
	t.holds.Remove(k)
	t.history.Lift(t.historyKey(k.Prefix), now)
	t.lifts.Add(netkey.OfPrefix(k.Prefix), now)
	t.eachSource(k.Prefix, func(i uint32) {
		t.reset(t.sources.At(i))
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
		s := t.sources.At(i)
		t.touch(i)
		if b.Class == ban.Verified {
			s.flags &^= suspect // it is one no longer
		}
		switch {
		case b.Class == ban.Unverified:
			t.drop(s, func(a *attempt) bool { return a.is(unverified) && (byScore || a.rule == r) })
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
	t.clearScore(s)
	s.address, s.days, s.tries, s.flags = 0, 0, 0, s.flags&^lasting
}

// answered keeps an attempt that has been answered with a ban for a while, and for nothing more than that further lines of its
// session are recognized when they come: it must not count towards the next.
func (t *Tracker) answered(a *attempt) bool {
	a.stamp |= answered
	return t.now-a.at() <= int64(sessionIdle)
}

// eachSource calls f for the source that p is or lies in, and for all sources inside p.
func (t *Tracker) eachSource(p netip.Prefix, f func(i uint32)) {
	k := netkey.OfPrefix(p)
	i, source := t.find(p.Addr())
	if source.Bits <= k.Bits {
		if i != 0 {
			f(i)
		}
		return
	}
	for i := uint32(1); i <= t.sources.Last(); i++ {
		if s := t.sources.At(i); s.live() && p.Contains(s.key.Prefix().Addr()) {
			f(i)
		}
	}
}

// Blocked reports whether a ban in force keeps packets of addr from ports, as of a time. Events from before a later one are judged by
// that one's.
func (t *Tracker) Blocked(addr netip.Addr, ports ban.Ports, at time.Time) bool {
	now := max(t.now, at.UnixNano())
	return t.holds.Keeps(addr, ports, false, now)
}

// InForce returns the bans in force on addr, narrowest first.
func (t *Tracker) InForce(addr netip.Addr, at time.Time) []ban.Active {
	return t.holds.Covering(nil, addr, max(t.now, at.UnixNano()))
}

// Forgiven reports whether what was known of addr at a time no longer counts, because an operator lifted a ban of it later.
func (t *Tracker) Forgiven(addr netip.Addr, at time.Time) bool {
	return t.lifts.Covers(addr, at.UnixNano())
}

// Crowds returns the IPv4 networks in which least or more addresses are banned on all ports, for a time, and which are not
// themselves, the most crowded first, at most limit of them. It looks at every ban.
func (t *Tracker) Crowds(at time.Time, least, limit int) []bans.Crowd {
	crowds := t.holds.Crowds(t.advance(at), least, limit)
	for i := range crowds {
		crowds[i].Known = t.KnownWithin(crowds[i].Prefix)
	}
	return crowds
}

// KnownWithin returns how many known logins there are inside p.
func (t *Tracker) KnownWithin(p netip.Prefix) int { return t.logins.CountInside(p) }

// past appends the history of source k to buf, bans of networks around it included, oldest first.
func (t *Tracker) past(buf []ban.Past, k netkey.Key, now int64) []ban.Past {
	return t.history.Past(buf, k, int64(t.cfg.History), now)
}

// historyKey returns where a ban stands in the history: under the source it was decided for, also if it was narrowed to
// one address of that source's network. Otherwise hopping to the next address would be a fresh start.
func (t *Tracker) historyKey(p netip.Prefix) netkey.Key {
	k, source := netkey.OfPrefix(p), t.key(p.Addr())
	if source.Bits < k.Bits {
		return source
	}
	return k
}

// wider appends the networks around k that bans could be widened to. self is 1 if k is to be counted as banned, which it is when a ban
// of it is about to be decided, otherwise 0.
func (t *Tracker) wider(buf []ban.Wider, k netkey.Key, self int, now int64) []ban.Wider {
	if t.alone(k.Prefix().Addr()) {
		return buf
	}
	start := len(buf)
	buf = t.holds.Wider(buf, k, self, now)
	for i := range buf[start:] {
		w := &buf[start+i]
		w.Known = t.logins.Within(netkey.OfPrefix(w.Prefix))
	}
	return buf
}
