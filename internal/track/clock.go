package track

import "time"

// SetBack notes that a clock which was wrong has been set back to at. Time never goes back here otherwise, so that it would stand still
// until the clock has come as far again: windows would not move on, and a ban would be over before it began. What was noted by the
// wrong clock counts as of now; what is older keeps its time.
func (t *Tracker) SetBack(at time.Time) {
	now := at.UnixNano()
	if now >= t.now {
		return
	}
	t.now = now
	t.setBackBans(now)
	for i := uint32(1); i <= t.sources.used; i++ {
		if s := t.sources.at(i); s.live() && (s.seen > now || s.blockedUntil > now) {
			t.setBackSource(i, now)
		}
	}
	for _, l := range t.logins.pairs {
		t.setBackLogin(l, now)
	}
	for _, l := range t.logins.guests {
		t.setBackLogin(l, now)
	}
	for k, at := range t.lifts.at {
		t.lifts.at[k] = min(at, now)
	}
	for _, n := range t.names.index {
		n.last, n.success, n.surge.start = min(n.last, now), min(n.success, now), min(n.surge.start, now)
	}
	for i := range t.rules {
		t.rules[i].surge.start = min(t.rules[i].surge.start, now)
	}
	t.surgesDirty = true
}

func (t *Tracker) setBackLogin(l *login, now int64) {
	if l.last > now || l.at > now || l.counted > now {
		l.last, l.at, l.counted = min(l.last, now), min(l.at, now), min(l.counted, now)
		t.touchLogin(l)
	}
}

func (t *Tracker) setBackSource(i uint32, now int64) {
	s := t.sources.at(i)
	s.seen = min(s.seen, now)
	for n := s.attempts; n != 0; {
		a := t.attempts.at(n)
		a.at = min(a.at, now)
		n = a.next
	}
	s.blockedUntil = t.holds.blocked(s.key, now)
	t.settleIn(i, now)
	t.touch(i)
}

// setBackBans lets bans that began later than now begin now, and last as long.
func (t *Tracker) setBackBans(now int64) {
	for _, bans := range t.holds.bans {
		for i := range bans {
			beginBy(now, &bans[i].start, &bans[i].until)
		}
	}
	for n := t.history.oldest(); n <= t.history.next; n++ {
		if p := t.history.at(n); p != nil && p.start > now {
			beginBy(now, &p.start, &p.until)
			t.history.touch(n, p)
		}
	}
}

func beginBy(now int64, start, until *int64) {
	early := *start - now
	if early <= 0 {
		return
	}
	*start = now
	if *until != forever {
		*until -= early
	}
}
