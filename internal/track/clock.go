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
	t.holds.SetBack(now)
	t.history.SetBack(now)
	for i := uint32(1); i <= t.sources.Last(); i++ {
		if s := t.sources.At(i); s.live() && (s.seen > now || s.blockedUntil > now) {
			t.setBackSource(i, now)
		}
	}
	t.logins.SetBack(now)
	t.lifts.SetBack(now)
	t.names.SetBack(now)
	for i := range t.rules {
		l := &t.rules[i].learned
		l.surge.SetBack(now)
		l.doubted = min(l.doubted, now)
	}
	t.rulesChanged = true
}

func (t *Tracker) setBackSource(i uint32, now int64) {
	s := t.sources.At(i)
	s.seen = min(s.seen, now)
	all := t.attemptsOf(s)
	for i := range all {
		a := &all[i]
		a.stamp = stamp(min(a.at(), now), a.n(), a.flags())
	}
	s.blockedUntil = t.holds.Blocked(s.key, now)
	t.settleIn(i, now)
	t.touch(i)
}
